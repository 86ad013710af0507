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
from connectors.codec import LAST_TIMESTAMP, decode
from state import exact
from state.exact import ONE
from state.keys import position_key
from state.messages import (
    CommissionReport,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
)
from tests.support.resp import decode_runs
from tests.support.strategies import SETTINGS

ID = "0000e0d5.6596b0d2.01.01"
CORRECTION = "0000e0d5.6596b0d2.01.02"

EXECUTION = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "7",
    "exec_id": ID, "timestamp": "1700000000000",
}  # fmt: skip
COMMISSION = {
    "type": "commission", "symbol": "AAPL", "exec_id": ID, "commission": "1.25",
    "currency": "USD", "timestamp": "1700000000000",
}  # fmt: skip
OPENING = {
    "type": "opening", "symbol": "AAPL", "qty": "-100", "avg_price": "10",
    "timestamp": "1700000000000",
}  # fmt: skip
SPLIT = {"type": "split", "symbol": "AAPL", "ratio": "4:1", "timestamp": "1700000000000"}

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


def reason(pairs: list[bytes]) -> str:
    with pytest.raises(RejectedError) as refused:
        decode(pairs)
    return str(refused.value)


# --- what is refused ----------------------------------------------------------------------------

NO_DECIMAL = "a decimal, found"
TOO_BIG = "a decimal below 1e9 in magnitude, found"
TOO_FINE = "a decimal of at most 10 decimal places, found"
ABOVE_0 = "a decimal above 0"
VALUE = "a value, found none"
CHARACTERS = "1 to 64 characters, found"
TIME = "whole milliseconds since 1970, from 0 to the end of the year 9999, found"
WHOLE = "a whole number of at most 64 bits, found"
UTF8 = r"UTF-8 text, found b'\xff"
BUST = "0 only in a correction"

BAD_DECIMALS: list[tuple[str | bytes, str]] = [
    ("abc", NO_DECIMAL), ("NaN", NO_DECIMAL), ("Infinity", NO_DECIMAL), ("-inf", NO_DECIMAL),
    ("1_000", NO_DECIMAL), ("1,000", NO_DECIMAL), ("１００", NO_DECIMAL), ("٣", NO_DECIMAL),
    (" 1", NO_DECIMAL), ("1 ", NO_DECIMAL), ("1\n", NO_DECIMAL), ("0x10", NO_DECIMAL),
    ("1.2.3", NO_DECIMAL), ("-", NO_DECIMAL), (".", NO_DECIMAL), ("1e", NO_DECIMAL),
    ("1e9", TOO_BIG), ("1000000000", TOO_BIG), ("-1e9", TOO_BIG), ("1e999999999", TOO_BIG),
    ("9" * 400, TOO_BIG), ("0.00000000001", TOO_FINE), ("1.12345678901", TOO_FINE),
    ("1e-11", TOO_FINE), ("1e-999999999", TOO_FINE), ("0." + "1" * 400, TOO_FINE),
    (b"\xff1", UTF8),
]  # fmt: skip
"""For every field that is a decimal."""

BAD_INTEGERS: list[tuple[str | bytes, str]] = [
    ("abc", WHOLE), ("1.0", WHOLE), ("1e3", WHOLE), ("1_0", WHOLE), (" 1", WHOLE), ("1 ", WHOLE),
    ("１", WHOLE), ("0x1", WHOLE), ("+-1", WHOLE), ("9223372036854775808", WHOLE),
    ("-9223372036854775809", WHOLE), ("9" * 5000, WHOLE), (b"\xff", UTF8),
]  # fmt: skip

BAD_TIMES: list[tuple[str | bytes | None, str]] = [
    (None, VALUE), ("", VALUE), ("abc", TIME), ("-1", TIME), ("1700000000000.5", TIME),
    ("1.7e12", TIME), ("2023-11-14T22:13:20Z", TIME), ("1_700", TIME), (" 1", TIME), ("１", TIME),
    (str(LAST_TIMESTAMP + 1), TIME), ("9" * 400, TIME), (b"\xff", UTF8),
]  # fmt: skip

BAD_NAMES: list[tuple[str | bytes | None, str]] = [
    (None, VALUE), ("", VALUE), ("x" * 65, CHARACTERS), ("é" * 65, CHARACTERS),
    ("x" * 10_000, CHARACTERS), (b"\xff", UTF8), (b"AA\xc3", "UTF-8 text, found b'AA"),
    (b"\xed\xa0\x80", "UTF-8 text"),
]  # fmt: skip

Row = tuple[Mapping[str, str], str, str | bytes | None, str]
"""The entry to change, the field, its bad value, what the reason must hold."""


def rows() -> list[Row]:
    """Return the whole table."""
    decimals = [(EXECUTION, name) for name in ("fill_qty", "fill_price", "multiplier")]
    decimals += [(EXECUTION, "commission"), (COMMISSION, "commission"), (COMMISSION, "multiplier")]
    decimals += [(OPENING, "qty"), (OPENING, "avg_price"), (SPLIT, "multiplier")]
    table: list[Row] = [(base, name, *bad) for base, name in decimals for bad in BAD_DECIMALS]
    for base in (EXECUTION, COMMISSION, OPENING, SPLIT):
        table += [(base, "symbol", *bad) for bad in BAD_NAMES]
        table += [(base, "timestamp", *bad) for bad in BAD_TIMES]
        table += [(base, "con_id", *bad) for bad in BAD_INTEGERS]
        table += [
            (base, "account", "U1:2", "a text without colon, found 'U1:2'"),
            (base, "account", ":", "a text without colon, found ':'"),
            (base, "account", b"\xff", UTF8),
            (base, "currency", b"\xff", UTF8),
            (base, "symbol", "A:B", "no colon, as there is no account, found 'A:B'"),
            (base, "multiplier", "0", f"{ABOVE_0}, found '0'"),
            (base, "multiplier", "-1", f"{ABOVE_0}, found '-1'"),
        ]
    for base in (EXECUTION, COMMISSION):
        table += [(base, "exec_id", *bad) for bad in BAD_NAMES]
    table += [(EXECUTION, "order_id", *bad) for bad in BAD_INTEGERS]
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
    (EXECUTION, "fill_price", "0", f"{ABOVE_0}, as sec_type is none of FOP, FUT, OPT, WAR"),
    (EXECUTION, "fill_price", "-0.01", ABOVE_0),
    (EXECUTION, "sec_type", b"\xff", UTF8), (EXECUTION, "exchange", b"\xff", UTF8),
    (EXECUTION, "order_ref", b"\xff", UTF8),
    (EXECUTION, "type", "Execution", "one of execution, commission, opening, split"),
    (EXECUTION, "type", "dividend", "one of execution, commission, opening, split"),
    (EXECUTION, "type", b"\xff", UTF8),
    *((COMMISSION, "commission", value, VALUE) for value in (None, "")),
    *((OPENING, name, value, VALUE) for name in ("qty", "avg_price") for value in (None, "")),
    (OPENING, "qty", "0", "a decimal other than 0, found '0'"),
    (OPENING, "avg_price", "0", ABOVE_0), (OPENING, "avg_price", "-1", ABOVE_0),
    *((SPLIT, "ratio", value, VALUE) for value in (None, "")),
    *((SPLIT, "ratio", value, f"two whole numbers such as 4:1 or 1:10, found '{value}'")
      for value in ("4", "4:", ":1", "0:1", "1:0", "-4:1", "1.5:1", "4:1:1", "4/1", " 4:1", "４:1",
                    "1000000000:1", "a:b")),
    (SPLIT, "ratio", "4:1\n", r"two whole numbers such as 4:1 or 1:10, found '4:1\n'"),
    (SPLIT, "ratio", b"\xff", UTF8),
]  # fmt: skip


def row_name(row: Row) -> str:
    base, field, value, _ = row
    return f"{base.get('type', 'execution')} {field}={value!r}"[:60]


@pytest.mark.parametrize("row", rows(), ids=row_name)
def test_a_bad_field_is_refused_with_its_name_and_what_was_expected_and_found(row: Row) -> None:
    base, field, value, told = row
    bad = entry(base, **{field: value})
    found = reason(bad)
    assert found.startswith(f"{field}: expected ")
    assert told in found
    assert ", found " in found
    assert len(found) < 300
    assert decode_runs([(b"1-0", bad)]) is None, "the fast decoder must not take it either"


def test_the_table_has_every_field_of_the_contract() -> None:
    assert len(rows()) > 400
    assert {field for _, field, _, _ in rows()} == {
        "type", "symbol", "account", "side", "fill_qty", "fill_price", "order_id", "exec_id",
        "timestamp", "con_id", "sec_type", "currency", "exchange", "order_ref", "multiplier",
        "commission", "qty", "avg_price", "ratio",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"exec_id": "my-fill-1"},  # an id without revisions has no correction
        {"exec_id": "0000e0d5.6596b0d2.01.00"},
        {"exec_id": "0000e0d5.6596b0d2.01.2"},
    ],
)
def test_only_a_correction_can_be_a_bust(changes: Changes) -> None:
    found = reason(entry(EXECUTION, **{**changes, "fill_qty": "0"}))
    assert found.startswith(f"fill_qty: expected {ABOVE_0} (0 only in a correction")


@pytest.mark.parametrize("sec_type", ["STK", "CASH", "fut", "BAG", "", None])
@pytest.mark.parametrize("price", ["0", "-1"])
def test_only_a_derivative_has_a_price_around_zero(sec_type: str | None, price: str) -> None:
    found = reason(entry(EXECUTION, fill_price=price, sec_type=sec_type))
    assert found.startswith("fill_price: expected a decimal above 0, as sec_type is none of")


def test_quantity_price_and_multiplier_have_at_most_twenty_places_together() -> None:
    fine = {"fill_qty": "0.0000000001", "fill_price": "0.0000000001"}
    assert execution(**fine, multiplier="100").price == 1
    assert execution(**fine).qty == 1
    found = reason(entry(EXECUTION, **fine, multiplier="0.5"))
    assert found.startswith("multiplier: expected quantity, price and multiplier to have at most")
    assert found.endswith("20 decimal places together, found 21")
    for_opening = reason(entry(OPENING, qty="1e-10", avg_price="1e-10", multiplier="0.1"))
    assert for_opening.endswith("20 decimal places together, found 21")


@pytest.mark.parametrize("name", [*EXECUTION, "account", "commission", "multiplier", "type"])
def test_a_field_that_is_given_twice_is_refused(name: str) -> None:
    pairs = entry({**EXECUTION, "account": "U1", "commission": "1", "multiplier": "1", "type": ""})
    value = pairs[pairs.index(name.encode()) + 1]
    assert reason([*pairs, name.encode(), value]) == f"{name}: expected once, found 2 times"
    assert reason([*pairs, name.encode(), b"x", name.encode(), b""]).endswith("found 3 times")


def test_an_entry_of_nothing_known_is_refused() -> None:
    assert reason([b"hello", b"world"]) == "symbol: expected a value, found none"
    assert reason([b"\xff\x00", b"\xff"]) == "symbol: expected a value, found none"


def test_a_long_value_is_shown_in_part() -> None:
    found = reason(entry(EXECUTION, fill_qty="7" * 100_000))
    assert found.endswith("... (100000 long)")
    assert len(found) < 200


# --- what is taken ------------------------------------------------------------------------------


def test_an_execution_has_exact_figures() -> None:
    symbol, account, message = decode(
        entry(
            EXECUTION, account="U1234567", side="sell", fill_qty="0.0000000001",
            fill_price="999999999.9999999999", order_id="-3", con_id="265598", sec_type="STK",
            currency="EUR", exchange="IBIS", order_ref="mine", multiplier="0.5e1",
            commission="-0.35",
        )
    )  # fmt: skip
    assert (symbol, account, position_key(symbol, account)) == ("AAPL", "U1234567", "U1234567:AAPL")
    assert message == Execution(
        ID, ID, 1, 1_700_000_000_000, -1, 10**19 - 1, -35 * ONE // 100, -3, "SELL",
        Instrument("EUR", 5 * ONE, 265598),
    )  # fmt: skip


def test_an_execution_without_optional_fields_says_nothing_of_them() -> None:
    symbol, account, message = decode(entry(EXECUTION))
    assert (symbol, account, position_key(symbol, account)) == ("AAPL", None, "AAPL")
    assert message == Execution(
        ID, ID, 1, 1_700_000_000_000, 10 * ONE, 15025 * ONE // 100, None, 7, "BUY", Instrument()
    )


def test_an_optional_field_that_is_empty_counts_as_absent() -> None:
    names = (
        "type", "account", "con_id", "sec_type", "currency", "exchange", "order_ref", "multiplier",
        "commission", "remaining", "avg_fill_price",
    )  # fmt: skip
    empty = dict.fromkeys(names, "")
    assert decode(entry(EXECUTION, **empty)) == decode(entry(EXECUTION))


def test_a_correction_and_a_bust_name_their_revision() -> None:
    correction = execution(exec_id=CORRECTION)
    assert (correction.identity, correction.revision) == (ID, 2)
    bust = execution(exec_id=CORRECTION, fill_qty="0", side="SELL")
    assert (bust.qty, bust.revision, bust.side) == (0, 2, "SELL")
    other = execution(exec_id="my-fill-17")
    assert (other.identity, other.revision) == ("my-fill-17", 1)
    zeroth = execution(exec_id="0000e0d5.6596b0d2.01.00")
    assert (zeroth.identity, zeroth.revision) == (ID, 0)


def test_a_commission_report() -> None:
    assert decoded(COMMISSION) == CommissionReport(
        ID, ID, 1, 1_700_000_000_000, 125 * ONE // 100, Instrument("USD")
    )
    later = decoded(COMMISSION, exec_id=CORRECTION, commission="-1e-10", currency=None)
    assert later == CommissionReport(CORRECTION, ID, 2, 1_700_000_000_000, -1, Instrument())


def test_an_opening() -> None:
    assert decoded(OPENING) == Opening(1_700_000_000_000, -100 * ONE, 10 * ONE, Instrument())
    oil = decoded(OPENING, qty="0.5", avg_price="-37.63", sec_type="FUT", multiplier="1000")
    instrument = Instrument(None, 1000 * ONE)
    assert oil == Opening(1_700_000_000_000, ONE // 2, -3763 * ONE // 100, instrument)


def test_a_split() -> None:
    assert decoded(SPLIT) == Split(1_700_000_000_000, 4, 1, Instrument())
    assert decoded(SPLIT, ratio="1:10") == Split(1_700_000_000_000, 1, 10, Instrument())


@pytest.mark.parametrize("kind", ["FUT", "OPT", "FOP", "WAR"])
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
        ({"timestamp": "0"}, "timestamp", 0),
        ({"timestamp": str(LAST_TIMESTAMP)}, "timestamp", 253402300799999),
        ({"order_id": "0"}, "order_id", 0), ({"order_id": "-1"}, "order_id", -1),
        ({"order_id": "9223372036854775807"}, "order_id", 2**63 - 1),
        ({"order_id": "-9223372036854775808"}, "order_id", -(2**63)),
        ({"order_id": "0" * 30 + "7"}, "order_id", 7),
        ({"exec_id": "x" * 64}, "exec_id", "x" * 64), ({"exec_id": "é" * 64}, "exec_id", "é" * 64),
        ({"exec_id": "a:b c"}, "exec_id", "a:b c"),
        ({"commission": "0"}, "commission", 0), ({"commission": "-0.5"}, "commission", -ONE // 2),
        ({"con_id": "0"}, "instrument", Instrument(con_id=0)),
        ({"multiplier": "1e-10"}, "instrument", Instrument(multiplier=1)),
        ({"currency": "CHF"}, "instrument", Instrument("CHF")),
        ({"type": "execution"}, "side", "BUY"),
    ],
)  # fmt: skip
def test_what_is_just_within_the_rules_is_taken(changes: Changes, field: str, value: Any) -> None:
    assert getattr(execution(**changes), field) == value
    for run in decode_runs([(b"1-0", entry(EXECUTION, **changes))]) or []:
        assert list(run.run.executions()) == [execution(**changes)]


@pytest.mark.parametrize(
    ("symbol", "account"),
    [("x" * 64, None), ("é" * 64, None), ("EUR.USD", None), ("ES Z5", None), ("A:B", "U1"),
     ("日経", "口座"), ("MSTR  250321C00400000", "U1")],
)  # fmt: skip
def test_symbols_and_accounts_are_any_text(symbol: str, account: str | None) -> None:
    assert decode(entry(EXECUTION, symbol=symbol, account=account))[:2] == (symbol, account)


def test_figures_about_the_order_are_not_looked_at() -> None:
    noisy = entry(EXECUTION, remaining="NaN", avg_fill_price=b"\xff")
    assert decode(noisy) == decode(entry(EXECUTION))


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    unknown = [b"strategy", b"\xff", b"\xfe\x00", b"", b"strategy", b"again"]
    assert decode([*entry(EXECUTION), *unknown]) == decode(entry(EXECUTION))


def test_the_order_of_the_fields_does_not_matter() -> None:
    backwards = entry(dict(reversed(EXECUTION.items())))
    assert decode(backwards) == decode(entry(EXECUTION))


# --- hostile entries ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fill_qty", "fill_price", "multiplier", "commission"])
@pytest.mark.parametrize(
    "hostile", ["1e999999999", "1e-999999999", "0e999999999", "9" * 400, "1" + "0" * 50_000]
)
def test_a_hostile_number_costs_no_more_arithmetic_than_a_plain_one(
    name: str, hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digits_read(value: str) -> int:
        read: list[int] = []

        def counted(text: str) -> int:
            read.append(len(text))
            return int(text)

        codec._instrument_of.cache_clear()  # else a multiplier seen before is not read
        monkeypatch.setattr(exact, "int", counted, raising=False)
        try:
            decoded(EXECUTION, **{name: value})
        except RejectedError:
            pass
        finally:
            monkeypatch.undo()
        return sum(read)

    assert digits_read(hostile) <= digits_read("123456789.0123456789")


ODD = [value for value in {value: None for _, _, value, _ in rows()} if value and len(value) < 500]
PLAIN = ["1", "0.5", "12e-1", "007", "150.25", "+3", ".5", "999999999"]
NAMES = [*EXECUTION, "account", "con_id", "sec_type", "currency", "multiplier", "commission"]


@SETTINGS
@given(
    st.sampled_from([EXECUTION, COMMISSION, OPENING, SPLIT]),
    st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=20) | st.sampled_from(ODD)),
)
def test_any_bytes_are_taken_or_refused_and_nothing_else(
    base: dict[str, str], changes: dict[str, str | bytes]
) -> None:
    try:
        decode(entry(base, **changes))
    except RejectedError as error:
        event(str(error).partition(":")[0])


@st.composite
def reads(draw: st.DrawFn) -> list[list[bytes]]:
    """Draw entries alike in their fields, the values of some of which are odd."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    odd = draw(st.lists(st.sampled_from(names), max_size=1)) if names else []
    found = []
    for number in range(draw(st.integers(1, 4))):
        changes = {
            name: draw(st.sampled_from(ODD if name in odd else [EXECUTION.get(name, "1"), *PLAIN]))
            for name in names
            if name not in {"side", "type"} or name in odd
        }
        fields: dict[str, str | bytes] = {**EXECUTION, "exec_id": f"fill-{number}"}
        found.append(entry({**fields, **changes}))
    return found


@SETTINGS
@given(reads())
def test_the_fast_decoder_gives_the_same_messages_or_leaves_them_to_this_one(
    read: list[list[bytes]],
) -> None:
    runs = decode_runs([(b"1-%d" % place, pairs) for place, pairs in enumerate(read)])
    event("taken" if runs else "left")
    for heading, run, entries in runs or []:
        assert [(heading.symbol, heading.account, fill) for fill in run.executions()] == [
            decode(pairs) for _, pairs in entries
        ]
    if runs is not None:
        taken = [raw for run in runs for raw in run.entries]
        assert sorted(taken) == [[b"1-%d" % place, pairs] for place, pairs in enumerate(read)]


def test_the_fast_decoder_takes_plain_executions() -> None:
    read = [entry(EXECUTION), entry(EXECUTION, exec_id="x", side="sell", fill_qty="0.5")]
    runs = decode_runs([(b"1-0", pairs) for pairs in read])
    assert runs is not None
    assert list(runs[0].run.executions()) == [decode(pairs)[2] for pairs in read]


@pytest.mark.parametrize("name", ["fill_qty", "fill_price", "commission"])
@pytest.mark.parametrize(
    "number",
    [
        "1e-999999999",  # Arrow crashes on it
        "1" + "0" * 199 + "5",  # and takes this for 5
        "9" * 400,
        "1e-400",
        "1E2",
    ],
)
def test_the_fast_decoder_leaves_numbers_alone_that_arrow_does_not_read_right(
    name: str, number: str
) -> None:
    assert decode_runs([(b"1-0", entry(EXECUTION, **{name: number}))]) is None
