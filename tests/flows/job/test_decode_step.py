"""Decoding a read of several replies: the same messages as each entry by itself gives."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.redis.source import Read
from flows.common.logs import Progress
from flows.job.decode_step import Messages, at_home, decode_read
from state.keys import partition_of, position_key
from state.messages import Message
from state.records import Entry, RawEntry, Rejected, pack_ids
from state.run import Run
from tests.support.resp import flat, replies_of
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
    {"type": "split", "ratio": "2:1"}, {"type": "opening", "qty": "1", "avg_price": "2"},
    {"type": "cost", "per_unit": "1"}, {"type": "transfer"}, {"type": "instrument", "con_id": "7"},
    {"commission_currency": "EUR"}, {"basis_adjustment": "-1"}, {"sec_type": "OPT"},
    {"timestamp": "1700000000"}, {"order_ref": "x" * 200},
]  # fmt: skip


def entry(number: int, **fields: str) -> RawEntry:
    symbol = ("AAPL", "MSFT", "ES")[number % 3]
    return [
        b"%d-1" % number, flat({**FIELDS, "symbol": symbol, "exec_id": f"e{number}", **fields})
    ]  # fmt: skip


def read_of(entries: Sequence[RawEntry], size: int) -> Read:
    return Read("executions", replies_of(entries, size), live=False)


ByKey = dict[tuple[str, str, str | None], list[tuple[RawEntry, Message]]]


def decoded(read: Read) -> tuple[ByKey, list[Rejected], tuple[int, int]]:
    """Return entries and messages by key, what is rejected, and what is told of both."""
    by_key: ByKey = {}
    rejected = []
    progress = Progress()
    for item in decode_read(read, progress):
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        assert isinstance(item, Messages)
        assert (item.stream, item.live) == ("executions", False)
        messages: Sequence[Message] = (
            item.messages.messages() if isinstance(item.messages, Run) else item.messages
        )
        assert item.ids == pack_ids(raw[0] for raw in item.entries)
        found = by_key.setdefault((item.key, item.symbol, item.account), [])
        found += zip(item.entries, messages, strict=True)
    return by_key, rejected, (progress._entries, progress._errors)


def check_same(entries: list[RawEntry], size: int) -> None:
    single = decoded(Read("executions", entries, live=False))
    assert decoded(read_of(entries, size)) == single


@pytest.mark.parametrize("size", [1, 4, 12])
def test_plain_entries_give_the_messages_of_their_entries(size: int) -> None:
    check_same([entry(number) for number in range(1, 13)], size)


@pytest.mark.long
@pytest.mark.parametrize("fields", UNUSUAL)
def test_an_unusual_entry_changes_nothing_for_the_others(fields: dict[str, str]) -> None:
    for at in (1, 5, 8, 12):
        entries = [entry(number, **(fields if number == at else {})) for number in range(1, 13)]
        for size in (1, 4, 12):
            check_same(entries, size)


def test_an_entry_that_cannot_be_used_leaves_with_its_reason_and_is_counted() -> None:
    entries = [entry(1), entry(2, side="BOT"), entry(3)]
    for read in (Read("executions", entries, live=False), read_of(entries, 3)):
        by_key, [rejected], counted = decoded(read)
        assert len(by_key) == 2
        assert (rejected.stream, rejected.entry) == ("executions", Entry.of(entries[1]))
        assert rejected.reason.startswith("side: expected BUY or SELL")
        assert counted == (3, 1)


def test_only_an_unusual_entry_is_taken_alone() -> None:
    entries = [entry(number) for number in range(1, 13)]
    entries[5] = entry(6, type="split", ratio="2:1")
    for size in (1, 4, 12):
        items = list(decode_read(read_of(entries, size), Progress()))
        messages = [item for item in items if isinstance(item, Messages)]
        alone = [item for item in messages if not isinstance(item.messages, Run)]
        assert [item.entries for item in alone] == [[entries[5]]]
        of_its_key = [len(item.entries) for item in messages if item.symbol == alone[0].symbol]
        assert of_its_key == [1, 1, 2]
        assert len(messages) == 5


@pytest.mark.long
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_may_be_empty_in_all_entries_of_a_reply(field: str) -> None:
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


def test_a_message_that_is_not_at_home_is_refused_with_where_it_lives() -> None:
    streams = [f"executions:{number}" for number in range(4)]
    entries = [entry(number) for number in range(1, 13)]
    items = [*decode_read(read_of(entries, 12), Progress())]
    progress = Progress()
    progress.read(12, live=False)
    assert list(at_home(items, [], progress)) == items
    homes = {
        symbol: streams[partition_of(position_key(symbol, "U1"), 4)]
        for symbol in ("AAPL", "MSFT", "ES")
    }
    stream = homes["AAPL"]
    assert len(set(homes.values())) > 1
    there = [item._replace(stream=stream) for item in items if isinstance(item, Messages)]
    refused = Rejected(stream, Entry("1-1", []), "why")
    kept = list(at_home([refused, *there], streams, progress))
    assert kept[0] is refused
    stays = [item for item in kept if isinstance(item, Messages)]
    assert {item.symbol for item in stays} == {s for s in homes if homes[s] == stream}
    gone = [item for item in kept[1:] if isinstance(item, Rejected)]
    assert [item.entry for item in gone] == [
        Entry.of(raw) for item in there if homes[item.symbol] != stream for raw in item.entries
    ]
    assert (progress._entries, progress._errors) == (12, len(gone))
    assert all(
        item.reason.startswith(f"symbol: expected a key of stream {stream!r}, found 'U1:")
        for item in gone
    )
