"""Decoding by columns: what it takes, it reads as `codec` does, and it takes what is plain."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from connectors.codec import DAY_MS, FIRST_TIMESTAMP, LAST_TIMESTAMP
from connectors.columns.messages import decode_replies
from state.exact import ONE
from state.messages import CommissionReport, Execution, Instrument
from state.records import RawEntry
from state.run import Run
from tests.support.resp import by_columns, check_columns, flat, one_by_one, replies_of
from tests.support.runs import run_of
from tests.support.strategies import SETTINGS

TIME = 1_700_000_000_000

PLAIN = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "7",
    "exec_id": "", "timestamp": str(TIME),
}  # fmt: skip
REPORT = {
    "type": "commission", "symbol": "AAPL", "exec_id": "", "commission": "1.25",
    "currency": "USD", "timestamp": str(TIME),
}  # fmt: skip
MORE = {
    "type": "execution", "account": "U1", "currency": "USD", "multiplier": "1", "con_id": "7",
    "commission": "0.35", "sec_type": "STK", "exchange": "SMART", "order_ref": "mine",
    "commission_currency": "", "basis_adjustment": "", "remaining": "0", "unknown": "x",
}  # fmt: skip
OTHERS = [
    {"type": "opening", "qty": "5", "avg_price": "10"}, {"type": "split", "ratio": "2:1"},
    {"type": "cost", "per_unit": "-0.1"}, {"type": "transfer", "exec_id": "t"},
    {"type": "transfer", "direction": "IN", "exec_id": "i", "qty": "1", "avg_price": "2",
     "opened": str(TIME)},
    {"type": "instrument", "con_id": "8"}, {"type": "dividend"},
]  # fmt: skip
"""Of types that make no runs, and of one that there is not."""

# Forms of a value that some parser might read otherwise than another does.
ODD: list[str | bytes] = [
    "", " ", "0", "-1", "+5", " 5", "5 ", "5.", ".5", "-.5", "-", ".", "-0", "--5", "5-", "1/2",
    "00017", "1e3", "1E+3", "1e-10", "0.12345678901", "0.1234567890", "1.00000000000",
    "999999999.9999999999", "99999999", "100000000", "922337203.6854775807",
    "922337203.6854775808", "000000000000001.5", "1.50000000000000000", "1e9", "nan", "1e-11",
    "NaN", "inf", "-Infinity", "1_000", "1,000", "0x10", "0X1f", "1e999999999", "1e-999999999",
    "1e-400", "٣", "１２", "true", "None", "9" * 99, "0" * 98 + "5", "1" + "0" * 97 + "5",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "253402300799999", "253402300800000", "1700000000", "0001700000000000", "01700000000000",
    "-1700000000000", "buy", "Sell", "SHORT", "ſell", "A:B", "x" * 64, "x" * 65, "ü" * 49,
    "e\u0000f", "a\rb", "0000e0d5.6596b0d2.01.02", "0000e0d5.6596b0d2.01.00",
    "0000e0d5.6596b0d2.01.10", "0000E0D5.6596B0D2.02.01", "FXSMLCUS.6596b0d2.01.03",
    "0000e0d5.6596b0d2.01.1", "execution", "commission", "Commission", "OPT", "STK", "EUR",
    b"\xff\xfe", b"BUY\xff", b"1\xff", b"\xed\xa0\x80",
]  # fmt: skip


def exec_id(number: int) -> str:
    return f"{number:08x}.6596b0d2.01.01"


def entry(number: int, fields: dict[str, str], **changes: str | bytes) -> RawEntry:
    """Return the entry of a number: of an execution of its own, or a report that names it."""
    own = {"exec_id": exec_id(number)} if fields.get("exec_id") == "" else {}
    return [b"%d-%d" % (TIME + number // 2, number % 2), flat({**fields, **own, **changes})]


def ids(entries: Sequence[RawEntry]) -> set[bytes]:
    return {raw[0] for raw in entries}


# --- plain entries ------------------------------------------------------------------------------


def test_plain_entries_of_several_keys_make_runs() -> None:
    rng = random.Random(7)
    entries = [
        entry(
            number, PLAIN,
            symbol=rng.choice(["AAPL", "MSFT", "ES H5"]),
            side=rng.choice(["BUY", "SELL", "buy", "Sell"]),
            fill_qty=str(rng.choice([1, 10, "0.0000000001", "12.5", "007"])),
            fill_price=f"{rng.uniform(0.01, 900):.4f}",
            timestamp=str(TIME + number * 7),
            commission=rng.choice(["0.35", "-0.1", "1", ""]),
            account="U1",
        )
        for number in range(500)
    ]  # fmt: skip
    assert check_columns(entries) == ids(entries)
    pieces, refused = decode_replies(replies_of(entries, 60))
    assert (len(pieces), refused) == (3, [])


@pytest.mark.parametrize("size", [1, 7, 40])
def test_executions_and_reports_of_a_key_are_one_run(size: int) -> None:
    entries = []
    for number in range(0, 40, 2):
        entries.append(entry(number, PLAIN))
        entries.append(entry(number + 1, REPORT, exec_id=exec_id(number)))
    [piece], _ = decode_replies(replies_of(entries, size))
    assert isinstance(piece.messages, Run)
    assert (piece.messages.executions, len(piece.messages)) == (20, 40)
    kinds = [type(message) for message in piece.messages.messages()]
    assert kinds == [Execution, CommissionReport] * 20
    assert check_columns(entries, size) == ids(entries)


def test_reports_alone_make_a_run() -> None:
    entries = [entry(number, REPORT) for number in range(20)]
    [piece], _ = decode_replies(replies_of(entries))
    assert isinstance(piece.messages, Run)
    assert (piece.messages.executions, len(piece.messages)) == (0, 20)
    assert check_columns(entries) == ids(entries)


def test_ids_of_another_shape_are_whole_identities() -> None:
    entries = [entry(number, PLAIN, exec_id=f"fill-{number}") for number in range(20)]
    assert check_columns(entries) == ids(entries)


def test_what_an_entry_says_of_its_order_and_instrument_is_kept() -> None:
    entries = [
        entry(0, PLAIN | MORE, order_ref=""), entry(1, PLAIN | MORE),
        entry(2, PLAIN | {"account": "U1"}, order_ref="s\u0085é"), entry(3, PLAIN | MORE),
    ]  # fmt: skip
    pieces, _ = decode_replies(replies_of(entries))
    runs = [piece.messages for piece in pieces if isinstance(piece.messages, Run)]
    said = Instrument("USD", ONE, 7, "STK")
    assert [run.instrument for run in runs] == [said, Instrument(), said]
    refs = [m.order_ref for run in runs for m in run.messages() if isinstance(m, Execution)]
    assert refs == [None, "mine", "s\u0085é", "mine"]
    assert check_columns(entries) == ids(entries)


def test_a_run_ends_where_executions_say_another_thing_of_the_instrument() -> None:
    currencies = ["USD", "USD", "EUR", "EUR", "USD", ""]
    entries = [
        entry(number, PLAIN, currency=currency) for number, currency in enumerate(currencies)
    ]
    pieces, _ = decode_replies(replies_of(entries))
    assert [len(piece.messages) for piece in pieces] == [2, 2, 1, 1]
    assert check_columns(entries) == ids(entries)


def test_a_run_ends_where_reports_say_another_currency() -> None:
    said = [
        (PLAIN, ""),
        (REPORT, "USD"),
        (PLAIN, ""),
        (REPORT, "EUR"),
        (PLAIN, ""),
        (REPORT, "EUR"),
    ]
    entries = [
        entry(number, fields, currency=currency) for number, (fields, currency) in enumerate(said)
    ]
    pieces, _ = decode_replies(replies_of(entries))
    assert [len(piece.messages) for piece in pieces] == [3, 3]
    assert check_columns(entries) == ids(entries)


# --- odd entries ----------------------------------------------------------------------------------


NUMBERS = [
    *((PLAIN, name) for name in ("fill_qty", "fill_price", "order_id", "timestamp", "commission")),
    (REPORT, "timestamp"), (REPORT, "commission"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("fields", "name"), NUMBERS)
def test_an_odd_number_is_read_as_codec_reads_it_or_left_to_it(
    fields: dict[str, str], name: str
) -> None:
    for value in ODD:
        given = {name: (MORE | fields)[name]}
        entries = [entry(number, fields, **given) for number in range(3)]
        entries[1] = entry(1, fields, **{name: value})
        assert check_columns(entries) >= ids([entries[0], entries[2]]), value
        check_columns([entry(number, fields, **{name: value}) for number in range(2)])


@pytest.mark.parametrize("fields", [PLAIN | MORE, REPORT | {"account": "U1", "con_id": "7"}])
def test_odd_values_leave_their_neighbours_in_runs(fields: dict[str, str]) -> None:
    for name in fields:
        entries, plain = [], []
        for number, value in enumerate(ODD):
            plain.append(entry(2 * number, fields))
            entries += [plain[-1], entry(2 * number + 1, fields, **{name: value})]
        assert check_columns(entries, 100) >= ids(plain), name


@pytest.mark.parametrize("fields", [PLAIN, REPORT])
def test_an_entry_that_lacks_what_it_needs_is_left_to_codec(fields: dict[str, str]) -> None:
    for lacks in fields.keys() - {"type", "currency"}:
        entries = [entry(number, fields) for number in range(3)]
        entries[1] = entry(1, {name: fields[name] for name in fields if name != lacks})
        assert check_columns(entries) == ids([entries[0], entries[2]]), lacks


@pytest.mark.parametrize("name", ["exec_id", "exchange", "order_ref"])
@pytest.mark.parametrize("value", [b"\xff", b"\xed\xa0\x80", b"AA\xc3"])
def test_what_is_no_text_is_left_to_codec(name: str, value: bytes) -> None:
    entries = [entry(number, PLAIN | MORE) for number in range(3)]
    entries[1] = entry(1, PLAIN | MORE, **{name: value})
    assert check_columns(entries) == ids([entries[0], entries[2]])


def test_a_multiplier_with_decimal_places_is_left_to_codec() -> None:
    fine = {"fill_qty": "0.0000000001", "fill_price": "1.0000000001"}
    assert check_columns([entry(0, PLAIN, multiplier="0.00001", **fine)]) == set()


def test_a_report_may_come_before_all_executions() -> None:
    entries = [entry(0, REPORT, exec_id=exec_id(9)), entry(1, PLAIN), entry(2, PLAIN)]
    assert check_columns(entries) == ids(entries)


def test_an_execution_that_says_more_of_its_cost_is_taken_alone() -> None:
    for name in ("commission_currency", "basis_adjustment"):
        entries = [
            entry(number, PLAIN, **{name: "1" if number == 4 else ""}) for number in range(9)
        ]
        assert check_columns(entries) == ids(entries) - {entries[4][0]}


def test_types_may_differ_among_entries_with_the_same_fields() -> None:
    # As a producer writes them that fills the same columns for all.
    fields = dict.fromkeys([*(PLAIN | REPORT), "qty", "ratio", "avg_price"], "1")
    types = ["opening", "commission", "execution", "split", "", "commission", "dividend"]
    entries = [
        entry(number, PLAIN | fields, type=kind, side="BUY", exec_id=exec_id(number),
              timestamp=str(TIME), ratio="2:1", symbol="A")
        for number, kind in enumerate(types)
    ]  # fmt: skip
    assert check_columns(entries) == ids([entries[at] for at in (1, 2, 4, 5)])


@pytest.mark.parametrize("fields", OTHERS)
def test_an_entry_of_another_type_is_taken_alone(fields: dict[str, str]) -> None:
    other = {"symbol": "AAPL", "timestamp": str(TIME), **fields}
    for at in (0, 5, 9):
        entries = [entry(number, PLAIN) for number in range(10)]
        entries[at] = entry(at, other)
        assert check_columns(entries) == ids(entries) - {entries[at][0]}


def test_a_field_that_is_given_twice_leaves_its_entry_to_codec() -> None:
    entries = [entry(number, PLAIN) for number in range(10)]
    entries[3][1] += [b"symbol", b"MSFT"]
    entries[7][1] += [b"unknown", b"1", b"unknown", b"2"]
    assert check_columns(entries) == ids(entries) - ids([entries[3], entries[7]])
    for raw in entries:
        raw[1] += [b"side", b"SELL"]
    assert check_columns(entries) == set()


def test_what_is_refused_is_told_in_order_of_arrival() -> None:
    # The first has a bad value, the second is of no shape.
    entries = [entry(0, PLAIN, fill_qty="x"), entry(1, PLAIN)]
    entries[1][1] += [b"symbol", b"MSFT"]
    assert check_columns(entries) == set()


@pytest.mark.parametrize("fields", [PLAIN, REPORT])
def test_a_message_that_is_in_the_future_of_its_entry_is_refused(fields: dict[str, str]) -> None:
    # The third arrived two days behind the first.
    arrived = [TIME, TIME, TIME + 2 * DAY_MS]
    for ahead in (-3 * DAY_MS, 0, DAY_MS, DAY_MS + 1, 3 * DAY_MS, 3 * DAY_MS + 1):
        entries = [
            [b"%d-%d" % (id_time, at), entry(at, fields, timestamp=str(id_time + ahead))[1]]
            for at, id_time in enumerate(arrived)
        ]
        assert check_columns(entries) == (set() if ahead > DAY_MS else ids(entries))
        assert len(one_by_one(entries).refused) == (3 if ahead > DAY_MS else 0)


@pytest.mark.parametrize(
    "first",
    [0, FIRST_TIMESTAMP - 2, FIRST_TIMESTAMP, LAST_TIMESTAMP - DAY_MS, 2**63 - 2, 2**64 - 4],
)
def test_ids_may_be_numbers_of_their_own(first: int) -> None:
    for timestamp in (FIRST_TIMESTAMP - 1, FIRST_TIMESTAMP, FIRST_TIMESTAMP + DAY_MS,
                      FIRST_TIMESTAMP + DAY_MS + 2, TIME,
                      LAST_TIMESTAMP, LAST_TIMESTAMP + 1):  # fmt: skip
        check_columns(
            [
                [b"%d-0" % (first + at), entry(at, PLAIN, timestamp=str(timestamp))[1]]
                for at in range(3)
            ]
        )


def test_a_read_may_hold_nothing_that_can_be_used() -> None:
    entries = [entry(number, {"hello": "world"}) for number in range(3)]
    assert check_columns(entries) == set()
    assert len(one_by_one(entries).refused) == 3


@pytest.mark.long
def test_no_number_of_distinct_values_mixes_keys_up() -> None:
    # As many as make the numbers of the combinations exceed 64 bits.
    count = 2**13
    entries = [
        entry(
            at, PLAIN, symbol="AB"[at // count], account=f"U{at % count}",
            currency=f"C{at % count}", multiplier=str(at % count + 1), con_id=str(at % count),
            sec_type=f"T{at % count // 2}",
        )
        for at in range(2 * count)
    ]  # fmt: skip
    check_columns(entries)


# --- any mix --------------------------------------------------------------------------------------

times = st.sampled_from([TIME, TIME, TIME + 1000, TIME - 1000])


@st.composite
def plain_entries(draw: st.DrawFn, number: int) -> RawEntry:
    """Draw an entry of one of four shapes that belongs into a run."""
    symbol, time = draw(st.sampled_from("AB")), str(draw(times))
    if draw(st.booleans()):
        report = REPORT if draw(st.booleans()) else {**REPORT, "account": "U1", "note": "x"}
        named = exec_id(draw(st.integers(0, number)))
        currency = draw(st.sampled_from(["USD", "USD", "EUR", ""]))
        fee = draw(st.sampled_from(["1.25", "-0.1", "0"]))
        return entry(
            number, report, symbol=symbol, timestamp=time, exec_id=named, currency=currency,
            commission=fee,
        )  # fmt: skip
    fields = PLAIN if draw(st.booleans()) else PLAIN | MORE
    changes = {
        "side": draw(st.sampled_from(["BUY", "SELL", "sell"])),
        "fill_qty": draw(st.sampled_from(["1", "0.5", "12345678.0123456789"])),
        "fill_price": draw(st.sampled_from(["1", "99.95", "0.0001"])),
    }
    if fields is not PLAIN:
        changes["commission"] = draw(st.sampled_from(["0.35", ""]))
        changes["order_ref"] = draw(st.sampled_from(["mine", "", "é"]))
        changes["currency"] = draw(st.sampled_from(["USD", "USD", "EUR", ""]))
    return entry(number, fields, symbol=symbol, timestamp=time, **changes)


@st.composite
def odd_entries(draw: st.DrawFn, number: int) -> RawEntry:
    """Draw an entry of another type, or one with an odd value."""
    if draw(st.booleans()):
        symbol = draw(st.sampled_from("AB"))
        return entry(
            number, {"symbol": symbol, "timestamp": str(TIME), **draw(st.sampled_from(OTHERS))}
        )
    entry_id, fields = draw(plain_entries(number))
    at = draw(st.integers(0, len(fields) // 2 - 1)) * 2 + 1
    value = draw(st.sampled_from(ODD) | st.text("-.0123456789e+", max_size=12))
    fields[at] = value.encode() if isinstance(value, str) else value
    return [entry_id, fields]


@SETTINGS
@given(st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=30), st.data())
def test_a_read_is_decoded_as_entry_by_entry_and_what_is_plain_in_runs(
    is_plain: list[bool], data: st.DataObject
) -> None:
    entries = [
        data.draw(plain_entries(number) if plain else odd_entries(number))
        for number, plain in enumerate(is_plain)
    ]
    in_runs = check_columns(entries, data.draw(st.integers(1, len(entries))))
    assert in_runs >= {raw[0] for raw, plain in zip(entries, is_plain, strict=True) if plain}
    event("all in runs" if len(in_runs) == len(entries) else "some in runs")


@SETTINGS
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.data())
def test_runs_are_those_that_packed_messages_make(numbers: list[int], data: st.DataObject) -> None:
    entries = [data.draw(plain_entries(number)) for number in range(len(numbers))]
    pieces, refused = decode_replies(replies_of(entries))
    assert not refused
    for piece in pieces:
        assert isinstance(piece.messages, Run)
        assert run_of(piece.messages.messages()) == piece.messages
        assert Run.from_state(piece.messages.to_state()) == piece.messages


def test_entries_of_many_shapes_are_all_decoded() -> None:
    # More shapes than a reply tells apart.
    entries = [entry(at, PLAIN, **{f"x{at % 30}": "1"}) for at in range(90)]
    decoded, in_runs = by_columns(replies_of(entries))
    assert decoded == one_by_one(entries)
    assert len(in_runs) >= 12
