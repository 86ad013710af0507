"""Stream entries to messages: what each rule of the input refuses, and how it says so.

The table names the field and what the reason must tell a person. A reason always has
the form `field: expected ..., found ...`.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from connectors import codec
from connectors.codec import FIRST_TIMESTAMP, LAST_TIMESTAMP, NEVER_BELOW_ZERO, decode
from state import exact
from state.exact import MONEY, ONE
from state.keys import position_key
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)
from tests.support.resp import check_columns
from tests.support.strategies import SETTINGS

ID = "0000e0d5.6596b0d2.01.01"
CORRECTION = "0000e0d5.6596b0d2.01.02"
TIME = 1_700_000_000_000

EXECUTION = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "7",
    "exec_id": ID, "timestamp": "1700000000000",
}  # fmt: skip
OTHER = {"symbol": "AAPL", "timestamp": "1700000000000"}
COMMISSION = {**OTHER, "type": "commission", "exec_id": ID, "commission": "1.25", "currency": "USD"}
OPENING = {**OTHER, "type": "opening", "qty": "-100", "avg_price": "10"}
SPLIT = {**OTHER, "type": "split", "ratio": "4:1"}
COST = {**OTHER, "type": "cost", "per_unit": "-0.14"}
OUT = {**OTHER, "type": "transfer", "exec_id": "out-1", "qty": "50"}
IN = {
    **OTHER, "type": "transfer", "exec_id": "in-1", "direction": "IN", "qty": "-50",
    "avg_price": "12.5", "opened": "1600000000000",
}  # fmt: skip
NUMBER = {**OTHER, "type": "instrument", "con_id": "265598"}
ALL = (EXECUTION, COMMISSION, OPENING, SPLIT, COST, OUT, IN, NUMBER)

Changes = Mapping[str, str | bytes | None]
"""What to set; None takes the field away."""


def entry(base: Changes, **changes: str | bytes | None) -> list[bytes]:
    """Return the names and values of an entry, in turn."""
    fields = {**base, **changes}
    pairs: list[bytes] = []
    for name, value in fields.items():
        if value is not None:
            pairs += [name.encode(), value if isinstance(value, bytes) else value.encode()]
    return pairs


def decoded(base: Mapping[str, str], **changes: str | bytes | None) -> Message:
    return decode(entry(base, **changes))[2]


def execution(**changes: str | bytes | None) -> Execution:
    found = decoded(EXECUTION, **changes)
    assert isinstance(found, Execution)
    return found


def reason(pairs: list[bytes], arrived: int | None = None) -> str:
    with pytest.raises(RejectedError) as refused:
        decode(pairs, arrived)
    return str(refused.value)


# --- what is refused ----------------------------------------------------------------------------

NO_DECIMAL = "a decimal, found"
TOO_BIG = "a decimal below 1e9 in magnitude, found"
TOO_FINE = "a decimal of at most 10 decimal places, found"
ABOVE_0 = "a decimal above 0"
NOT_BELOW_0 = "a decimal not below 0"
VALUE = "a value, found none"
CHARACTERS = "1 to 64 characters, found"
NO_TIME = "whole milliseconds since 1970, from 1971 to the end of the year 9999, found"
SECONDS = "milliseconds since 1970, not before 1971: most likely these are seconds, found"
WHOLE = "a whole number of at most 64 bits, found"
UTF8 = r"UTF-8 text, found b'\xff"
BUST = "0 only in a correction"
TOO_MUCH = "a decimal below 1e17 in magnitude, found"
TOO_FINE_MONEY = "a decimal of at most 20 decimal places, found"
TYPES = "one of execution, commission, opening, split, cost, transfer, instrument, found"

NO_DECIMALS: list[str | bytes] = [
    "abc", "NaN", "Infinity", "-inf", "1_000", "1,000", "１００", "٣", " 1", "1 ", "1\n", "0x10",
    "1.2.3", "-", ".", "1e", "--1", "+-1", "1e1.5",
]  # fmt: skip

BAD_DECIMALS: list[tuple[str | bytes, str]] = [
    *((text, NO_DECIMAL) for text in NO_DECIMALS),
    ("1e9", TOO_BIG), ("1000000000", TOO_BIG), ("-1e9", TOO_BIG), ("1e999999999", TOO_BIG),
    ("9" * 400, TOO_BIG), ("0.00000000001", TOO_FINE), ("1.12345678901", TOO_FINE),
    ("1e-11", TOO_FINE), ("1e-999999999", TOO_FINE), ("0." + "1" * 400, TOO_FINE),
    (b"\xff1", UTF8),
]  # fmt: skip
"""For every field that is a decimal."""

BAD_MONEY: list[tuple[str | bytes, str]] = [
    *((text, NO_DECIMAL) for text in NO_DECIMALS), ("1e17", TOO_MUCH), ("-1e17", TOO_MUCH),
    ("100000000000000000", TOO_MUCH), ("1e999999999", TOO_MUCH), ("9" * 400, TOO_MUCH),
    ("1e-21", TOO_FINE_MONEY), ("0.000000000000000000001", TOO_FINE_MONEY),
    ("1e-999999999", TOO_FINE_MONEY), ("0." + "1" * 400, TOO_FINE_MONEY), (b"\xff1", UTF8),
]  # fmt: skip

BAD_INTEGERS: list[tuple[str | bytes, str]] = [
    ("abc", WHOLE), ("1.0", WHOLE), ("1e3", WHOLE), ("1_0", WHOLE), (" 1", WHOLE), ("1 ", WHOLE),
    ("１", WHOLE), ("0x1", WHOLE), ("+-1", WHOLE), ("9223372036854775808", WHOLE),
    ("-9223372036854775809", WHOLE), ("9" * 5000, WHOLE), (b"\xff", UTF8),
]  # fmt: skip

BAD_TIMES: list[tuple[str | bytes | None, str]] = [
    (None, VALUE), ("", VALUE), ("abc", NO_TIME), ("-1", NO_TIME), ("1700000000000.5", NO_TIME),
    ("1.7e12", NO_TIME), ("2023-11-14T22:13:20Z", NO_TIME), ("1_700", NO_TIME), (" 1", NO_TIME),
    ("１", NO_TIME), (str(LAST_TIMESTAMP + 1), NO_TIME), ("9" * 5000, NO_TIME), (b"\xff", UTF8),
    ("0", SECONDS), ("1", SECONDS), ("1700000000", SECONDS), (str(FIRST_TIMESTAMP - 1), SECONDS),
]  # fmt: skip

BAD_GIVEN_NAMES: list[tuple[str | bytes | None, str]] = [
    ("x" * 65, CHARACTERS), ("é" * 65, CHARACTERS), ("x" * 10_000, CHARACTERS), (b"\xff", UTF8),
    (b"AA\xc3", "UTF-8 text, found b'AA"), (b"\xed\xa0\x80", "UTF-8 text"),
]  # fmt: skip
BAD_NAMES = [(None, VALUE), ("", VALUE), *BAD_GIVEN_NAMES]

Row = tuple[Mapping[str, str], str, str | bytes | None, str]
"""The entry to change, the field, its bad value, what the reason must hold."""


def rows() -> list[Row]:
    """Return the whole table."""
    decimals = [(OPENING, "qty"), (OPENING, "avg_price"), (OPENING, "multiplier"),
                (COMMISSION, "commission"), (COST, "per_unit"), (OUT, "qty"), (IN, "qty"),
                (IN, "avg_price")]  # fmt: skip
    of_execution = ("fill_qty", "fill_price", "multiplier", "commission", "basis_adjustment")
    decimals += [(EXECUTION, name) for name in of_execution]
    table: list[Row] = [(base, name, *bad) for base, name in decimals for bad in BAD_DECIMALS]
    for base in (OPENING, IN):
        without_price = {name: base[name] for name in base if name != "avg_price"}
        table += [(without_price, "cost_basis", *bad) for bad in BAD_MONEY]
    for base in ALL:
        table += [(base, "symbol", *bad) for bad in BAD_NAMES]
        table += [(base, "timestamp", *bad) for bad in BAD_TIMES]
        table += [
            (base, "account", "U1:2", "a text without colon, found 'U1:2'"),
            (base, "account", ":", "a text without colon, found ':'"),
            (base, "account", b"\xff", UTF8),
            (base, "symbol", "A:B", "no colon, as there is no account, found 'A:B'"),
            (base, "type", b"\xff", UTF8),
        ]
    table += [(IN, "opened", *bad) for bad in BAD_TIMES]
    for base, name in ((EXECUTION, "order_id"), (EXECUTION, "con_id"), (OPENING, "con_id"),
                       (NUMBER, "con_id"), (SPLIT, "places")):  # fmt: skip
        table += [(base, name, *bad) for bad in BAD_INTEGERS]
    for base in (EXECUTION, COMMISSION, OUT, IN):
        table += [(base, "exec_id", *bad) for bad in BAD_NAMES]
    for base in (OPENING, SPLIT, COST):
        table += [(base, "exec_id", *bad) for bad in BAD_GIVEN_NAMES]
    for base in (EXECUTION, OPENING):
        table += [
            (base, "multiplier", "0", f"{ABOVE_0}, found '0'"),
            (base, "multiplier", "-1", f"{ABOVE_0}, found '-1'"),
            (base, "currency", b"\xff", UTF8), (base, "sec_type", b"\xff", UTF8),
        ]  # fmt: skip
    return table + OTHERS


OTHERS: list[Row] = [
    *((EXECUTION, name, value, VALUE)
      for name in ("fill_qty", "fill_price", "order_id") for value in (None, "")),
    *((EXECUTION, "side", value, "BUY or SELL, found none") for value in (None, "")),
    (EXECUTION, "side", "HOLD", "BUY or SELL, found 'HOLD'"),
    (EXECUTION, "side", "BOT", "BUY or SELL, found 'BOT'"),
    (EXECUTION, "side", " BUY", "BUY or SELL, found ' BUY'"),
    (EXECUTION, "side", "ſell", "BUY or SELL, found 'ſell'"),  # its upper case is SELL
    (EXECUTION, "side", b"\xff", r"BUY or SELL, found b'\xff'"),
    (EXECUTION, "side", "B" * 5000, "(5000 long)"),
    (EXECUTION, "fill_qty", "0", BUST), (EXECUTION, "fill_qty", "0.00", BUST),
    (EXECUTION, "fill_qty", "0e5", BUST), (EXECUTION, "fill_qty", "-0", BUST),
    (EXECUTION, "fill_qty", "-1", f"{ABOVE_0} ("), (EXECUTION, "fill_qty", "-1e-10", ABOVE_0),
    (EXECUTION, "fill_price", "0", f"{ABOVE_0}, as there is no sec_type, found '0'"),
    (EXECUTION, "fill_price", "-0.01", f"{ABOVE_0}, as there is no sec_type, found '-0.01'"),
    *((EXECUTION, name, b"\xff", UTF8)
      for name in ("exchange", "order_ref", "commission_currency")),
    *((EXECUTION, "type", kind, f"{TYPES} '{kind}'") for kind in ("Execution", "dividend")),
    *((COMMISSION, "commission", value, VALUE) for value in (None, "")),
    (COMMISSION, "currency", b"\xff", UTF8),
    *((base, name, value, VALUE)
      for base in (OPENING, IN) for name in ("qty", "avg_price") for value in (None, "")),
    *((base, "avg_price", value, f"{NOT_BELOW_0}, found '{value}'")
      for base in (OPENING, IN) for value in ("-1", "-1e-10")),
    *((base, "cost_basis", "-5", "it or avg_price, found both") for base in (OPENING, IN)),
    *((SPLIT, "ratio", value, VALUE) for value in (None, "")),
    *((SPLIT, "ratio", value, f"two whole numbers such as 4:1 or 1:10, found '{value}'")
      for value in ("4", "4:", ":1", "0:1", "1:0", "-4:1", "1.5:1", "4:1:1", "4/1", " 4:1", "４:1",
                    "1000000000:1", "1:1000000000", "a:b")),
    (SPLIT, "ratio", "4:1\n", r"two whole numbers such as 4:1 or 1:10, found '4:1\n'"),
    (SPLIT, "ratio", b"\xff", UTF8),
    *((SPLIT, "places", value, f"a whole number from 0 to 10, found '{value}'")
      for value in ("-1", "11", "-9223372036854775808")),
    *((COST, "per_unit", value, VALUE) for value in (None, "")),
    *((OUT, "qty", value, f"{ABOVE_0}, or none for all, found '{value}'")
      for value in ("0", "-50", "-1e-10")),
    *((OUT, "direction", value, "IN or OUT, found") for value in ("UP", "I", " IN", "IN\n")),
    (OUT, "direction", b"\xff", UTF8),
    *((IN, "qty", value, f"a decimal other than 0, found '{value}'") for value in ("0", "-0.0")),
    *((NUMBER, "con_id", value, VALUE) for value in (None, "")),
]  # fmt: skip


def row_name(row: Row) -> str:
    base, field, value, _ = row
    kind = f"{base.get('type', 'execution')} {base.get('direction', '')}".strip()
    return f"{kind} {field}={value!r}"[:60]


@pytest.mark.parametrize("row", rows(), ids=row_name)
def test_a_bad_field_is_refused_with_its_name_and_what_was_expected_and_found(row: Row) -> None:
    base, field, value, told = row
    bad = entry(base, **{field: value})
    found = reason(bad)
    assert found.startswith(f"{field}: expected ")
    assert told in found
    assert ", found " in found
    assert len(found) < 300
    if not any(b"\n" in part for part in bad):
        assert check_columns([[b"1-0", bad]]) == set(), "by columns it must not be taken either"


def test_the_table_has_every_field_of_the_contract() -> None:
    assert len(rows()) > 800
    assert {field for _, field, _, _ in rows()} == {
        "type", "symbol", "account", "side", "fill_qty", "fill_price", "order_id", "exec_id",
        "timestamp", "con_id", "sec_type", "currency", "exchange", "order_ref", "multiplier",
        "commission", "commission_currency", "basis_adjustment", "qty", "avg_price", "cost_basis",
        "ratio", "places", "per_unit", "direction", "opened",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"exec_id": "my-fill-1"},  # an id without revisions has no correction
        {"exec_id": "0000e0d5.6596b0d2.01.00"},
        {"exec_id": "0000e0d5.6596b0d2.01.2"},
        {"exec_id": "0000e0d5.6596b0d2.1.02"},
        {"exec_id": "0000e0d5-6596b0d2-01-02"},
    ],
)
def test_only_a_correction_can_be_a_bust(changes: Changes) -> None:
    found = reason(entry(EXECUTION, **{**changes, "fill_qty": "0"}))
    assert found.startswith(f"fill_qty: expected {ABOVE_0} (0 only in a correction")


@pytest.mark.parametrize("sec_type", sorted(NEVER_BELOW_ZERO))
def test_what_is_owned_outright_has_no_price_below_zero(sec_type: str) -> None:
    found = reason(entry(EXECUTION, fill_price="-1", sec_type=sec_type))
    assert found == f"fill_price: expected {NOT_BELOW_0}, as sec_type is {sec_type}, found '-1'"
    assert execution(sec_type=sec_type, fill_price="0").price == 0


def test_the_kinds_that_have_no_price_below_zero_are_those_of_the_contract() -> None:
    assert {"STK", "BOND", "BILL", "FUND", "CASH", "CRYPTO"} == NEVER_BELOW_ZERO


@pytest.mark.parametrize("price", ["0", "-1"])
def test_without_a_sec_type_a_price_is_above_zero(price: str) -> None:
    for sec_type in ("", None):
        found = reason(entry(EXECUTION, fill_price=price, sec_type=sec_type))
        assert found.startswith(f"fill_price: expected {ABOVE_0}, as there is no sec_type")


def test_quantity_price_and_multiplier_have_at_most_twenty_places_together() -> None:
    fine = {"fill_qty": "0.0000000001", "fill_price": "0.0000000001"}
    assert execution(**fine, multiplier="100").price == 1
    assert execution(**fine).qty == 1
    found = reason(entry(EXECUTION, **fine, multiplier="0.5"))
    assert found.startswith("multiplier: expected quantity, price and multiplier to have at most")
    assert found.endswith("20 decimal places together, found 21")
    for_opening = reason(entry(OPENING, qty="1e-10", avg_price="1e-10", multiplier="0.1"))
    assert for_opening.endswith("20 decimal places together, found 21")
    by_cost = decoded(OPENING, qty="-1e-10", avg_price=None, cost_basis="-1", multiplier="0.1")
    assert isinstance(by_cost, Opening)
    assert by_cost.qty == -1


@pytest.mark.parametrize("base", [OPENING, IN])
def test_a_cost_basis_has_the_sign_of_the_quantity(base: dict[str, str]) -> None:
    for qty, cost in (("-5", "1"), ("5", "-1"), ("5", "-1e-20")):
        found = reason(entry(base, qty=qty, avg_price=None, cost_basis=cost))
        assert found == f"cost_basis: expected the sign of qty, found '{cost}'"


@pytest.mark.parametrize("base", ALL)
@pytest.mark.parametrize("name", [*{name: None for base in ALL for name in base}, "places"])
def test_a_field_that_is_given_twice_is_refused(base: dict[str, str], name: str) -> None:
    pairs = entry({**base, name: base.get(name, "1")})
    value = pairs[pairs.index(name.encode()) + 1]
    assert reason([*pairs, name.encode(), value]) == f"{name}: expected once, found 2 times"
    assert reason([*pairs, name.encode(), b"x", name.encode(), b""]).endswith("found 3 times")


@pytest.mark.parametrize(
    "name",
    ["account", "currency", "multiplier", "sec_type", "exchange", "order_ref", "cost_basis",
     "commission_currency", "basis_adjustment"],
)  # fmt: skip
def test_an_optional_field_that_is_given_twice_is_refused(name: str) -> None:
    pair = [name.encode(), b"1"]
    assert reason([*entry(EXECUTION), *pair, *pair]) == f"{name}: expected once, found 2 times"


def test_an_entry_of_nothing_known_is_refused() -> None:
    assert reason([b"hello", b"world"]) == "symbol: expected a value, found none"
    assert reason([b"\xff\x00", b"\xff"]) == "symbol: expected a value, found none"


def test_a_long_value_is_shown_in_part() -> None:
    found = reason(entry(EXECUTION, fill_qty="7" * 100_000))
    assert found.endswith("... (100000 long)")
    assert len(found) < 200


# --- the time in the entry's own id -----------------------------------------------------------


DAY_MS = 24 * 60 * 60 * 1000


@pytest.mark.parametrize("base", ALL)
def test_a_message_is_at_most_a_day_ahead_of_its_entry(base: dict[str, str]) -> None:
    for arrived in (TIME - DAY_MS, TIME, TIME + 1000 * DAY_MS):
        assert decode(entry(base), arrived) == decode(entry(base))
    found = reason(entry(base), TIME - DAY_MS - 1)
    assert found.startswith(
        "timestamp: expected a time not more than a day after that of the entry"
    )
    assert found.endswith(f"found {TIME}")


@pytest.mark.parametrize("arrived", [0, 1, 5_000_000, FIRST_TIMESTAMP - 1])
def test_an_id_that_is_no_time_since_1971_says_nothing(arrived: int) -> None:
    for base in ALL:
        last = entry(base, timestamp=str(LAST_TIMESTAMP))
        assert decode(last, arrived)[2].timestamp == LAST_TIMESTAMP
    first = str(FIRST_TIMESTAMP + DAY_MS + 1)
    assert reason(entry(EXECUTION, timestamp=first), FIRST_TIMESTAMP).endswith(first)


# --- what is taken ------------------------------------------------------------------------------


def test_an_execution_has_exact_figures() -> None:
    symbol, account, message = decode(
        entry(
            EXECUTION, account="U1234567", side="sell", fill_qty="0.0000000001",
            fill_price="999999999.9999999999", order_id="-3", con_id="265598", sec_type="STK",
            currency="EUR", exchange="IBIS", order_ref="mine", multiplier="0.5e1",
            commission="-0.35", commission_currency="GBP", basis_adjustment="-12.5",
        )
    )  # fmt: skip
    assert (symbol, account, position_key(symbol, account)) == ("AAPL", "U1234567", "U1234567:AAPL")
    assert message == Execution(
        ID, ID, 1, TIME, -1, 10**19 - 1, -35 * ONE // 100, -3, "SELL",
        Instrument("EUR", 5 * ONE, 265598, "STK"), "mine", "GBP", -125 * ONE // 10,
    )  # fmt: skip


def test_an_execution_without_optional_fields_says_nothing_of_them() -> None:
    symbol, account, message = decode(entry(EXECUTION))
    assert (symbol, account, position_key(symbol, account)) == ("AAPL", None, "AAPL")
    assert message == Execution(
        ID, ID, 1, TIME, 10 * ONE, 15025 * ONE // 100, None, 7, "BUY", Instrument(), None, None,
        None,
    )  # fmt: skip


OPTIONAL = [
    "type", "account", "con_id", "sec_type", "currency", "exchange", "order_ref", "multiplier",
    "commission", "commission_currency", "basis_adjustment", "remaining", "avg_fill_price",
]  # fmt: skip


def test_an_optional_field_that_is_empty_counts_as_absent() -> None:
    empty = dict.fromkeys(OPTIONAL, "")
    assert decode(entry(EXECUTION, **empty)) == decode(entry(EXECUTION))
    assert decode(entry(OPENING, exec_id="", cost_basis="")) == decode(entry(OPENING))
    assert decode(entry(SPLIT, exec_id="", places="")) == decode(entry(SPLIT))
    assert decode(entry(COST, exec_id="")) == decode(entry(COST))
    assert decode(entry(OUT, qty="", direction="")) == decode(entry(OUT, qty=None))
    assert decode(entry(IN, cost_basis="")) == decode(entry(IN))
    assert decode(entry(COMMISSION, currency="")) == decode(entry(COMMISSION, currency=None))


def test_a_correction_and_a_bust_name_their_revision() -> None:
    correction = execution(exec_id=CORRECTION)
    assert (correction.identity, correction.revision) == (ID, 2)
    bust = execution(exec_id=CORRECTION, fill_qty="0", side="SELL")
    assert (bust.qty, bust.revision, bust.side) == (0, 2, "SELL")
    other = execution(exec_id="my-fill-17")
    assert (other.identity, other.revision) == ("my-fill-17", 1)
    zeroth = execution(exec_id="0000e0d5.6596b0d2.01.00")
    assert (zeroth.identity, zeroth.revision) == (ID, 0)


def test_the_first_groups_of_an_id_are_any_ascii_letters_or_digits() -> None:
    fix = execution(exec_id="FXSMLCUS.6596b0d2.01.03", fill_qty="0")
    assert (fix.identity, fix.revision) == ("FXSMLCUS.6596b0d2.01.01", 3)
    for other in ("FXSMLCÜS.6596b0d2.01.02", "FXSMLCU.6596b0d2.01.02", "FXSMLCUS.6596b0d2.1a.02"):
        assert execution(exec_id=other)[1:3] == (other, 1)


def test_a_commission_report() -> None:
    assert decoded(COMMISSION) == CommissionReport(ID, ID, 1, TIME, 125 * ONE // 100, "USD")
    later = decoded(COMMISSION, exec_id=CORRECTION, commission="-1e-10", currency=None)
    assert later == CommissionReport(CORRECTION, ID, 2, TIME, -1, None)


def test_an_opening() -> None:
    assert decoded(OPENING) == Opening("opening", TIME, -100 * ONE, 10 * ONE, None, Instrument())
    oil = decoded(
        OPENING, exec_id="oil", qty="0.5", avg_price="0", sec_type="FUT", multiplier="1000",
        currency="USD", con_id="7",
    )  # fmt: skip
    instrument = Instrument("USD", 1000 * ONE, 7, "FUT")
    assert oil == Opening("oil", TIME, ONE // 2, 0, None, instrument)


def test_an_opening_of_nothing_needs_no_price() -> None:
    for changes in ({"avg_price": None}, {"avg_price": "1"}, {"cost_basis": "1"}):
        assert decoded(OPENING, qty="0", **changes) == Opening("opening", TIME, 0, 0)


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("0", 0), ("-0.00", 0), ("12.5", 125 * MONEY // 10), ("1e-20", 1), (".5", MONEY // 2),
        ("99999999999999999.99999999999999999999", 10**37 - 1), ("1E3", 1000 * MONEY),
        ("+7", 7 * MONEY), ("1.500000000000000000000000000000", 15 * MONEY // 10),
        ("1.5e+003", 1500 * MONEY), ("1." + "0" * 60, MONEY),
    ],
)  # fmt: skip
def test_a_lot_may_be_given_by_its_cost_of_twenty_places(text: str, cost: int) -> None:
    opening = decoded(OPENING, qty="3", avg_price=None, cost_basis=text)
    assert opening == Opening("opening", TIME, 3 * ONE, None, cost)
    came = decoded(IN, qty="3", avg_price=None, cost_basis=text)
    assert came == TransferIn("in-1", TIME, 3 * ONE, None, cost, 1_600_000_000_000)
    if cost:
        below = decoded(OPENING, avg_price="", cost_basis=f"-{text.lstrip('+')}")
        assert below == Opening("opening", TIME, -100 * ONE, None, -cost)


def test_a_split() -> None:
    assert decoded(SPLIT) == Split(str(TIME), TIME, 4, 1, 10)
    assert decoded(SPLIT, ratio="1:10", places="0", exec_id="s") == Split("s", TIME, 1, 10, 0)
    assert decoded(SPLIT, ratio="999999999:7", places="10") == Split(
        str(TIME), TIME, 999999999, 7, 10
    )


def test_a_cost() -> None:
    assert decoded(COST) == Cost(str(TIME), TIME, -14 * ONE // 100)
    assert decoded(COST, exec_id="c", per_unit="0") == Cost("c", TIME, 0)


def test_a_transfer_out() -> None:
    assert decoded(OUT) == TransferOut("out-1", TIME, 50 * ONE)
    assert decoded(OUT, qty=None) == TransferOut("out-1", TIME, None)
    assert decoded(OUT, direction="out") == decoded(OUT, direction="OUT") == decoded(OUT)


def test_a_transfer_in() -> None:
    came = TransferIn("in-1", TIME, -50 * ONE, 125 * ONE // 10, None, 1_600_000_000_000)
    assert decoded(IN) == decoded(IN, direction="in") == came
    assert decoded(IN, avg_price="0") == came._replace(price=0)
    later = decoded(IN, opened=str(LAST_TIMESTAMP))
    assert isinstance(later, TransferIn)
    assert later.opened == LAST_TIMESTAMP


def test_a_further_contract_number() -> None:
    assert decoded(NUMBER) == ContractNumber(TIME, 265598)


@pytest.mark.parametrize("base", [COMMISSION, SPLIT, COST, OUT, IN, NUMBER])
def test_only_executions_and_openings_speak_of_the_instrument(base: dict[str, str]) -> None:
    said = {"multiplier": "100", "sec_type": "FUT", "exchange": "CME", "order_ref": "mine"}
    if base is not NUMBER:
        said["con_id"] = "7"
    if base is not COMMISSION:
        said["currency"] = "EUR"
    assert decode(entry(base, **said)) == decode(entry(base))


@pytest.mark.parametrize("kind", ["FUT", "OPT", "FOP", "WAR", "BAG", "CFD", "IND", "CMDTY"])
@pytest.mark.parametrize(("price", "value"), [("0", 0), ("-0.5", -ONE // 2)])
def test_a_derivative_can_have_a_price_around_zero(kind: str, price: str, value: int) -> None:
    assert execution(sec_type=kind, fill_price=price).price == value


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"side": "buy"}, "qty", 10 * ONE), ({"side": "SeLl"}, "qty", -10 * ONE),
        ({"fill_qty": "1e2"}, "qty", 100 * ONE), ({"fill_qty": "+.5"}, "qty", ONE // 2),
        ({"fill_qty": "999999999.9999999999"}, "qty", 10**19 - 1),
        ({"fill_price": "1.10000000000000"}, "price", 11 * ONE // 10),
        ({"timestamp": str(FIRST_TIMESTAMP)}, "timestamp", 31_536_000_000),
        ({"timestamp": str(LAST_TIMESTAMP)}, "timestamp", 253402300799999),
        ({"order_id": "0"}, "order_id", 0), ({"order_id": "-1"}, "order_id", -1),
        ({"order_id": "9223372036854775807"}, "order_id", 2**63 - 1),
        ({"order_id": "-9223372036854775808"}, "order_id", -(2**63)),
        ({"order_id": "0" * 30 + "7"}, "order_id", 7),
        ({"exec_id": "x" * 64}, "exec_id", "x" * 64), ({"exec_id": "é" * 64}, "exec_id", "é" * 64),
        ({"exec_id": "a:b c"}, "exec_id", "a:b c"),
        ({"commission": "0"}, "commission", 0), ({"commission": "-0.5"}, "commission", -ONE // 2),
        ({"commission_currency": "EUR"}, "commission_currency", "EUR"),
        ({"basis_adjustment": "0"}, "adjustment", 0),
        ({"basis_adjustment": "1e-10"}, "adjustment", 1),
        ({"order_ref": "a, b\tc"}, "order_ref", "a, b\tc"),
        ({"order_ref": "x" * 5000}, "order_ref", "x" * 5000),
        ({"con_id": "0"}, "instrument", Instrument(con_id=0)),
        ({"multiplier": "1e-10"}, "instrument", Instrument(multiplier=1)),
        ({"currency": "CHF"}, "instrument", Instrument("CHF")),
        ({"sec_type": "STK"}, "instrument", Instrument(sec_type="STK")),
        ({"type": "execution"}, "side", "BUY"),
    ],
)  # fmt: skip
def test_what_is_just_within_the_rules_is_taken(changes: Changes, field: str, value: Any) -> None:
    assert getattr(execution(**changes), field) == value
    check_columns([[b"1-0", entry(EXECUTION, **changes)]])


@pytest.mark.parametrize(
    ("symbol", "account"),
    [("x" * 64, None), ("é" * 64, None), ("EUR.USD", None), ("ES Z5", None), ("A:B", "U1"),
     ("日経", "口座"), ("MSTR  250321C00400000", "U1")],
)  # fmt: skip
def test_symbols_and_accounts_are_any_text(symbol: str, account: str | None) -> None:
    for base in ALL:
        assert decode(entry(base, symbol=symbol, account=account))[:2] == (symbol, account)


def test_figures_about_the_order_are_not_looked_at() -> None:
    noisy = entry(EXECUTION, remaining="NaN", avg_fill_price=b"\xff")
    assert decode(noisy) == decode(entry(EXECUTION))


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    unknown = [b"strategy", b"\xff", b"\xfe\x00", b"", b"strategy", b"again"]
    for base in ALL:
        assert decode([*entry(base), *unknown]) == decode(entry(base))


def test_the_order_of_the_fields_does_not_matter() -> None:
    for base in ALL:
        assert decode(entry(dict(reversed(base.items())))) == decode(entry(base))


# --- hostile entries ------------------------------------------------------------------------------


HOSTILE = ["1e999999999", "1e-999999999", "0e999999999", "9" * 400, "1" + "0" * 50_000]


@pytest.mark.parametrize(
    ("name", "base", "plain"),
    [
        *(
            (name, EXECUTION, "123456789.0123456789")
            for name in ("fill_qty", "fill_price", "multiplier", "commission", "basis_adjustment")
        ),
        ("cost_basis", {**OPENING, "avg_price": ""}, "12345678901234567.01234567890123456789"),
    ],
)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_number_costs_no_more_arithmetic_than_a_plain_one(
    name: str, base: dict[str, str], plain: str, hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digits_read(value: str) -> int:
        read: list[int] = []

        def counted(text: str) -> int:
            read.append(len(text))
            return int(text)

        codec._instrument_of.cache_clear()  # else a multiplier seen before is not read
        monkeypatch.setattr(exact, "int", counted, raising=False)
        try:
            decoded(base, **{name: value})
        except RejectedError:
            pass
        finally:
            monkeypatch.undo()
        return sum(read)

    assert digits_read(hostile) <= digits_read(plain)


ODD = [value for value in {value: None for _, _, value, _ in rows()} if value and len(value) < 500]
NAMES = [*{name: None for _, name, _, _ in rows()}]


@SETTINGS
@given(
    st.sampled_from(ALL),
    st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=20) | st.sampled_from(ODD)),
)
def test_any_bytes_are_taken_or_refused_and_nothing_else(
    base: dict[str, str], changes: dict[str, str | bytes]
) -> None:
    try:
        decode(entry(base, **changes), TIME)
    except RejectedError as error:
        event(str(error).partition(":")[0])
