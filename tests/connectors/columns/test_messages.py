"""The fast path of decoding: what it takes, it reads as the careful path does."""

import random
from collections.abc import Sequence

import pytest

from connectors.codec import decode
from state.messages import Execution, RejectedError
from state.records import pack_ids
from tests.support.resp import decode_runs

PLAIN = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "7",
    "exec_id": "0000e0d5.6596b0d2.01.01", "timestamp": "1700000000000",
}  # fmt: skip

# Forms of a value that some parser might read otherwise than another does.
ODD = [
    "", " ", "0", "-1", "+5", " 5", "5 ", "5.", ".5", "-0", "00017", "1e3", "1E+3", "1e-10",
    "0.12345678901", "0.1234567890", "1.00000000000", "999999999.9999999999", "1e9", "nan",
    "1e-11", "NaN", "inf", "-Infinity", "1_000", "1,000", "0x10", "0X1f", "1e999999999",
    "٣", "１２", "true", "None", "9" * 400, "0" * 400 + "5", "9223372036854775807",
    "9223372036854775808", "253402300799999", "253402300800000", "buy", "Sell", "SHORT",
    "A:B", "x" * 64, "x" * 65, "ü" * 64, "e\u0000f", "0000e0d5.6596b0d2.01.02",
    "0000e0d5.6596b0d2.01.00", "0000E0D5.6596B0D2.02.01", "execution", "commission", "OPT",
]  # fmt: skip
FIELDS = [
    *PLAIN, "type", "account", "currency", "multiplier", "con_id", "commission", "sec_type",
    "exchange", "order_ref", "remaining", "avg_fill_price", "unknown",
]  # fmt: skip


def entry(number: int, **fields: str | bytes) -> list[object]:
    exec_id = f"{number:08x}.6596b0d2.01.01"
    pairs = {**PLAIN, "exec_id": exec_id, **fields}.items()
    flat = [part.encode() if isinstance(part, str) else part for pair in pairs for part in pair]
    return [f"{1700000000000 + number}-0".encode(), flat]


def carefully(entries: Sequence[list[object]]) -> dict[tuple[str, str | None], list[Execution]]:
    by_key: dict[tuple[str, str | None], list[Execution]] = {}
    for _, fields in entries:
        symbol, account, message = decode(fields)  # type: ignore[arg-type]
        assert isinstance(message, Execution)
        by_key.setdefault((symbol, account), []).append(message)
    return by_key


def check_same(entries: Sequence[list[object]]) -> bool:
    """Hold the fast path against the careful one; tell whether it took the entries."""
    runs = decode_runs(entries)
    if runs is None:
        return False
    read = {run.heading[:2]: list(run.run.executions()) for run in runs}
    assert read == carefully(entries)
    found = [raw for run in runs for raw in run.entries]
    assert sorted(found) == sorted(map(list, entries))
    for run in runs:
        assert run.entries.ids == pack_ids(entry_id for entry_id, _ in run.entries)
    return True


def test_plain_entries_are_read_as_the_careful_path_reads_them() -> None:
    rng = random.Random(7)
    entries = [
        entry(
            number,
            symbol=rng.choice(["AAPL", "MSFT", "ES H5"]),
            side=rng.choice(["BUY", "SELL", "buy", "Sell"]),
            fill_qty=str(rng.choice([1, 10, "0.0000000001", "12.5", "007"])),
            fill_price=f"{rng.uniform(0.01, 900):.4f}",
            timestamp=str(1700000000000 + number * 7),
            commission=rng.choice(["0.35", "-0.1", "1"]),
            account="U1",
        )
        for number in range(500)
    ]
    assert check_same(entries)


def test_ids_of_another_shape_are_whole_identities() -> None:
    assert check_same([entry(number, exec_id=f"fill-{number}") for number in range(20)])


@pytest.mark.long
@pytest.mark.parametrize("field", FIELDS)
def test_an_odd_value_is_read_as_the_careful_path_reads_it_or_left_to_it(field: str) -> None:
    for value in ODD:
        entries = [entry(number, **{field: PLAIN.get(field, "1")}) for number in range(10)]
        entries[4] = entry(4, **{field: value})
        try:
            carefully(entries)
        except (RejectedError, AssertionError):
            assert decode_runs(entries) is None, (field, value)
        else:
            check_same(entries)


@pytest.mark.parametrize("field", FIELDS)
def test_bytes_that_are_no_text_are_left_to_the_careful_path(field: str) -> None:
    entries = [entry(number, **{field: b"\xff\xfe"}) for number in range(10)]
    try:
        carefully(entries)
    except RejectedError:
        assert decode_runs(entries) is None


def test_what_differs_in_its_fields_is_left_to_the_careful_path() -> None:
    plain = [entry(number) for number in range(10)]
    assert check_same(plain)
    for other in (
        entry(11, account="U1"),
        entry(11, type="split", ratio="2:1"),
        [b"1-1", [b"symbol", b"AAPL"]],
        [b"1-1", [*entry(11)[1], b"symbol", b"MSFT"]],  # type: ignore[misc]
        entry(11, currency="EUR"),
    ):
        assert decode_runs([*plain, other]) is None
    repeated = [[entry_id, [*fields, b"side", b"SELL"]] for entry_id, fields in plain]  # type: ignore[misc]
    assert decode_runs(repeated) is None


def test_a_key_that_contradicts_itself_is_left_to_the_careful_path() -> None:
    entries = [entry(number, currency="USD" if number else "EUR") for number in range(10)]
    assert decode_runs(entries) is None
