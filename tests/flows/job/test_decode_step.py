"""Decoding a read of several blocks: the same messages as each entry by itself gives."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.columns.replies import packed_ids
from connectors.redis.source import Read
from flows.common.logs import Progress
from flows.job.decode_step import Messages, decode_read
from state.messages import Message
from state.records import RawEntry, Rejected, pack_ids
from state.run import Run
from tests.support.resp import replies_of
from tests.support.strategies import SETTINGS

FIELDS = {
    "type": "execution", "symbol": "AAPL", "account": "U1", "side": "BUY", "fill_qty": "10",
    "fill_price": "150.25", "order_id": "7", "exec_id": "e", "timestamp": "1700000000000",
    "commission": "0.35", "currency": "USD", "note": "",
}  # fmt: skip

UNUSUAL: list[dict[str, str]] = [
    {"type": "commission"}, {"commission": ""}, {"side": "BOT"}, {"fill_qty": "0"},
    {"fill_price": "1.5E2"}, {"fill_price": "ten"}, {"symbol": ""}, {"symbol": "A:B"},
    {"timestamp": "-1"}, {"exec_id": "0000e0d5.6596b0d2.01.02"}, {"currency": "EUR"},
    {"type": "dividend"}, {"order_id": ""}, {"exec_id": ""}, {"account": ""},
]  # fmt: skip


def entry(number: int, **fields: str) -> RawEntry:
    symbol = ("AAPL", "MSFT", "ES")[number % 3]
    pairs = {**FIELDS, "symbol": symbol, "exec_id": f"e{number}", **fields}
    return [b"%d-1" % number, [part.encode() for pair in pairs.items() for part in pair]]


ByKey = dict[tuple[str, str, str | None], list[tuple[RawEntry, Message]]]


def decoded(entries: Sequence[RawEntry]) -> tuple[ByKey, list[Rejected], tuple[int, int]]:
    """Return entries and messages by key, what is rejected, and what is told of both."""
    by_key: ByKey = {}
    rejected = []
    progress = Progress()
    for item in decode_read(Read("executions", entries, live=False), progress):
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        assert isinstance(item, Messages)
        assert (item.stream, item.live) == ("executions", False)
        messages: Sequence[Message] = (
            item.messages.messages() if isinstance(item.messages, Run) else item.messages
        )
        assert packed_ids(item.entries) == pack_ids(raw[0] for raw in item.entries)
        found = by_key.setdefault((item.key, item.symbol, item.account), [])
        found += zip(item.entries, messages, strict=True)
    return by_key, rejected, (progress._entries, progress._errors)


def check_same(entries: list[RawEntry], size: int) -> None:
    assert decoded(replies_of(entries, size)) == decoded(entries)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_plain_blocks_give_the_messages_of_their_entries(size: int) -> None:
    check_same([entry(number) for number in range(1, 13)], size)


@pytest.mark.long
@pytest.mark.parametrize("fields", UNUSUAL)
def test_an_unusual_entry_changes_nothing_for_the_others(fields: dict[str, str]) -> None:
    for at in (1, 5, 8, 12):
        entries = [entry(number, **(fields if number == at else {})) for number in range(1, 13)]
        for size in (1, 4, 12):
            check_same(entries, size)


def test_only_an_unusual_entry_is_decoded_by_itself() -> None:
    entries = [entry(number) for number in range(1, 13)]
    entries[5] = entry(6, fill_price="1.5E2")
    items = list(decode_read(Read("s", replies_of(entries, 4), live=False), Progress()))
    pieces = [item for item in items if isinstance(item, Messages)]
    assert [len(item.entries) for item in pieces if not isinstance(item.messages, Run)] == [1]
    assert sum(len(item.entries) for item in pieces if isinstance(item.messages, Run)) == 11


@pytest.mark.long
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_may_be_empty_in_all_entries_of_a_block(field: str) -> None:
    entries = [
        entry(number, **({field: ""} if 5 <= number <= 8 else {})) for number in range(1, 13)
    ]
    for size in (1, 4, 12):
        check_same(entries, size)
    check_same(entries[4:8], 4)


@pytest.mark.long
@settings(SETTINGS, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.05, 0.3, 1.0]))
def test_unusual_entries_may_be_strewn_in_anywhere(seed: int, size: int, share: float) -> None:
    rng = random.Random(seed)
    entries = [
        entry(number, **(rng.choice(UNUSUAL) if rng.random() < share else {}))
        for number in range(1, 25)
    ]
    check_same(entries, size)


def test_an_unknown_field_may_have_any_name() -> None:
    check_same([entry(number, **{"*": f"x{number}"}) for number in range(1, 13)], 4)
