"""What TWS's messages say, as the fields of stream messages."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from connectors.ibkr.messages import (
    Contract,
    Cost,
    Execution,
    Instrument,
    Position,
    commission_message,
    decimal_text,
    execution_message,
    execution_time,
    held,
    letter,
    read_commission,
    read_execution,
)
from tests.support import tws_double
from tests.support.tws_double import Fill

UNSET = 1.7976931348623157e308
AAPL = tws_double.Instrument(265598, "AAPL")
CALL = tws_double.Instrument(
    495512552, "AAPL", "OPT", local_symbol="AAPL  260717C00200000",
    expiry="20260717", strike=200.0, right="C", multiplier="100",
)  # fmt: skip
EXEC_ID = "0000e0d5.00000001.01.01"


def wire(fill: Fill, request: int = -1) -> list[str]:
    """Return the fields as TWS sends them."""
    return [str(field) for field in fill.fields(request)]


def read(fill: Fill) -> Execution:
    return read_execution(wire(fill), UTC)


def named(name: str, multiplier: str = "") -> Instrument:
    return Instrument(name, "STK", "USD", multiplier)


# --- numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (100.0, "100"), (0.1, "0.1"), (0.1 + 0.2, "0.3"), (187.25, "187.25"), (-37.63, "-37.63"),
        (1e-7, "0.0000001"), (1e-11, "0"), (-1e-11, "0"), (0.0, "0"), (-0.0, "0"),
        (1e15, "1000000000000000"),
        (1e22, "10000000000000000000000"), (150.33333333333334, "150.3333333333"),
        (0.00000000005, "0"), (0.00000000015, "0.0000000002"), (0.00000000025, "0.0000000002"),
        (123456789.01234567, "123456789.01234567"), ("100", "100"), ("0.10", "0.1"),
        (Decimal("2.50"), "2.5"), (UNSET, ""), (-UNSET, ""), (math.inf, ""), (math.nan, ""),
        ("ten", "ten"),
    ],
)  # fmt: skip
def test_a_number_is_written_plainly_to_ten_places(value: float | str, text: str) -> None:
    assert decimal_text(value) == text


# --- times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("20260706 10:30:05 US/Eastern", "UTC", "2026-07-06T14:30:05"),
        ("20260106 10:30:05 US/Eastern", "UTC", "2026-01-06T15:30:05"),
        ("20260706 16:30:05 MET", "UTC", "2026-07-06T14:30:05"),
        ("20260706 14:30:05 UTC", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706  10:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706 10:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706  14:30:05", "UTC", "2026-07-06T14:30:05"),
        ("20260706-14:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706-14:30:05", "UTC", "2026-07-06T14:30:05"),
        ("20260706-10:30:05 US/Eastern", "UTC", "2026-07-06T14:30:05"),
        ("2026-07-06 14:30:05.0", "UTC", "2026-07-06T14:30:05"),
        ("20260706 10:30:05 EDT", "UTC", "2026-07-06T14:30:05"),
        ("20260106 10:30:05 EST", "UTC", "2026-01-06T15:30:05"),
        ("20260706 16:30:05 CEST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 15:30:05 BST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 15:30:05 WEST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 23:30:05 JST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 22:30:05 GMT+8", "UTC", "2026-07-06T14:30:05"),
        ("20260706 15:30:05 UTC+1", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706 20:00:05 GMT+05:30", "UTC", "2026-07-06T14:30:05"),
        ("20260706 10:00:05 UTC-0430", "UTC", "2026-07-06T14:30:05"),
        # Clear only with the user's zone:
        ("20260106 08:30:05 CST", "America/Chicago", "2026-01-06T14:30:05"),
        ("20260706 08:30:05 CST", "America/Chicago", "2026-07-06T14:30:05"),
        ("20260106 22:30:05 CST", "Asia/Shanghai", "2026-01-06T14:30:05"),
        ("20260106 20:00:05 IST", "Asia/Kolkata", "2026-01-06T14:30:05"),
        ("20260706 15:30:05 IST", "Europe/Dublin", "2026-07-06T14:30:05"),
        ("20260106 16:30:05 IST", "Asia/Jerusalem", "2026-01-06T14:30:05"),
        # The hour that comes twice: a short name tells which, a zone does not.
        ("20261101 01:30:00 EDT", "America/New_York", "2026-11-01T05:30:00"),
        ("20261101 01:30:00 EST", "America/New_York", "2026-11-01T06:30:00"),
        ("20261101 01:30:00 US/Eastern", "UTC", "2026-11-01T05:30:00"),
    ],
)
def test_a_time_is_read_as_tws_means_it(text: str, zone: str, utc: str) -> None:
    moment = execution_time(text, ZoneInfo(zone)).moment
    assert moment == datetime.fromisoformat(f"{utc}+00:00")


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("20261101 01:30:00 US/Eastern", "2026-11-01T06:30:00+00:00"),
        ("20261101 01:30:00 EDT", None), ("20261101 00:59:59 US/Eastern", None),
        ("20261101 02:00:00 US/Eastern", None), ("20260308 02:30:00 US/Eastern", None),
        ("20261101-01:30:00", None),
    ],
)  # fmt: skip
def test_a_time_that_comes_twice_has_two_readings(text: str, again: str | None) -> None:
    read = execution_time(text, UTC)
    assert (read.again and read.again.isoformat()) == again


@pytest.mark.parametrize(
    "zone",
    ["CST", "IST", "AST", "Eastern Standard Time", "Nowhere/Else", "US", "../../etc/passwd",
     "GMT+99"],
)  # fmt: skip
def test_a_zone_that_nobody_can_tell_is_refused_with_what_to_do(zone: str) -> None:
    with pytest.raises(ValueError, match=r"UTC format.*IBKR_TIMEZONE"):
        execution_time(f"20260706 10:30:05 {zone}", UTC)


@pytest.mark.parametrize("text", ["", "20260706", "10:30:05", "20261306 10:30:05 UTC", "soon"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the calendar's own text will do
        execution_time(text, UTC)


# --- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "name"),
    [
        (Contract(1, "AAPL", "STK", "USD", "AAPL", ""), "AAPL"),
        (Contract(1, "BRK B", "STK", "USD", "", ""), "BRK B"),
        (Contract(1, "ES", "FUT", "USD", "ESU6", "50"), "ESU6"),
        (Contract(1, "SPY", "OPT", "USD", "SPY  260717P00500000", "100"), "SPY  260717P00500000"),
        (Contract(1, "EUR", "CASH", "USD", "EUR.USD", ""), "EUR.USD"),
        (Contract(1, "EUR", "CASH", "USD", "", ""), "EUR.USD"),
        (Contract(495512563, "ES", "FUT", "USD", "", ""), "ES#495512563"),
        (Contract(495512563, "", "STK", "USD", "", ""), "#495512563"),
    ],
)
def test_a_stock_is_called_by_its_symbol_all_else_by_its_local_symbol(
    contract: Contract, name: str
) -> None:
    assert contract.plain_name == name


# --- messages --------------------------------------------------------------------------


def test_a_stock_execution_becomes_a_message() -> None:
    fill = Fill(EXEC_ID, AAPL, price=187.25, avg_price=187.25, order_ref="grid-1", cum_qty=150.0)
    assert execution_message(read(fill), named("AAPL"), ordered=200.0) == {
        "symbol": "AAPL", "account": "U1", "side": "BUY", "fill_qty": "100",
        "fill_price": "187.25", "order_id": "7", "exec_id": EXEC_ID,
        "timestamp": "1783348205000", "remaining": "50", "avg_fill_price": "187.25",
        "sec_type": "STK", "con_id": "265598", "currency": "USD", "exchange": "ISLAND",
        "order_ref": "grid-1",
    }  # fmt: skip


def test_a_derivative_has_its_money_per_point() -> None:
    message = execution_message(
        read(Fill(EXEC_ID, CALL, side="SLD", price=-0.05)), named("AAPL C", "100")
    )
    assert (message["multiplier"], message["side"], message["fill_price"]) == (
        "100", "SELL", "-0.05",
    )  # fmt: skip


def test_a_price_is_the_text_that_tws_wrote() -> None:
    fields = wire(Fill(EXEC_ID, AAPL))
    fields[20] = "123456789.0123456789"  # no float holds it
    message = execution_message(read_execution(fields, UTC), named("AAPL"))
    assert message["fill_price"] == "123456789.0123456789"


def test_what_the_order_has_left_is_told_only_if_the_total_is_known() -> None:
    for ordered in (0.0, 99.0, UNSET, math.nan):  # unknown, or of another unit
        message = execution_message(read(Fill(EXEC_ID, AAPL)), named("AAPL"), ordered)
        assert "remaining" not in message


def test_unset_figures_are_left_out() -> None:
    message = execution_message(read(Fill(EXEC_ID, AAPL, price=UNSET, avg_price=UNSET)), named("A"))
    assert not {"fill_price", "avg_fill_price"} & set(message)


def test_the_order_id_that_tws_leaves_unset_is_0() -> None:
    assert read(Fill(EXEC_ID, AAPL, order_id=2**31 - 1)).order_id == "0"


def test_what_tws_leaves_empty_is_none() -> None:
    fields = wire(Fill(EXEC_ID, replace(AAPL, multiplier="0", sec_type="", currency="")))
    for name in (2, 17, 21, 24, 25):  # order_id, exchange, perm_id, cum_qty, avg_price
        fields[name] = ""
    execution = read_execution(fields, UTC)
    assert execution.contract.multiplier == ""  # no point is worth 0
    message = execution_message(execution, Instrument("AAPL", "STK", "USD", ""))
    assert (message["order_id"], message["exchange"]) == ("0", "ISLAND")
    # What an execution does not say of its contract, the contract's details do.
    assert (message["sec_type"], message["currency"]) == ("STK", "USD")
    assert "avg_fill_price" not in message
    fields[3] = ""
    with pytest.raises(ValueError, match="con_id: expected"):
        read_execution(fields, UTC)


def test_an_order_that_is_filled_has_0_left() -> None:
    assert execution_message(read(Fill(EXEC_ID, AAPL)), named("A"), 100.0)["remaining"] == "0"


@pytest.mark.parametrize(
    ("text", "is_named"),
    [("20260706 10:30:05 US/Eastern", True), ("20260706-14:30:05", True),
     ("20260706  10:30:05", False), ("20260706 10:30:05 EDT", True)],
)  # fmt: skip
def test_whether_a_time_names_its_zone(text: str, *, is_named: bool) -> None:
    assert execution_time(text, UTC).zone_named == is_named


def test_a_bust_is_a_message_of_quantity_0() -> None:
    message = execution_message(read(Fill(EXEC_ID, AAPL, shares=0.0)), named("AAPL"))
    assert message["fill_qty"] == "0"


@pytest.mark.parametrize(("figure", "text"), [("1.0", "1"), ("-0.25", "-0.25"), ("0.0", "0")])
def test_a_commission_report_becomes_a_message(figure: str, text: str) -> None:
    fill = Fill(EXEC_ID, AAPL, commission=figure)
    exec_id, cost = read_commission([str(field) for field in fill.commission_fields()])
    assert (exec_id, cost) == (EXEC_ID, Cost(text, "USD"))
    assert cost is not None
    assert commission_message(read(fill), named("AAPL"), cost) == {
        "type": "commission", "symbol": "AAPL", "account": "U1", "exec_id": EXEC_ID,
        "timestamp": "1783348205000", "commission": text, "currency": "USD",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "currency"), [("", "USD"), (str(UNSET), "USD"), ("0.0", ""), ("-1.0", "")]
)
def test_a_placeholder_is_no_free_trade(figure: str, currency: str) -> None:
    assert read_commission(["59", "1", EXEC_ID, figure, currency, "", "", ""]) == (EXEC_ID, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exec_id": ""}, "exec_id: expected a value"),
        ({"account": ""}, "account: expected a value"),
        ({"instrument": replace(AAPL, con_id=0)}, "con_id: expected"),
        ({"time": "20260706 10:30:05 CST"}, "time: expected a time zone that has one meaning"),
    ],
)
def test_an_execution_that_cannot_be_read_is_refused_with_the_reason(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read(replace(Fill(EXEC_ID, AAPL), **change))


def test_a_message_that_is_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fields: expected 26 or more, found 3"):
        read_execution(["11", "-1", "7"], UTC)
    assert letter(["11", "-1", "7"], "short").fields["tws"]


def test_a_letter_holds_all_that_tws_gave() -> None:
    refused = letter(wire(Fill(EXEC_ID, CALL, time="20260706 10:30:05 CST")), "time: …")
    assert (refused.account, refused.exec_id) == ("U1", EXEC_ID)
    assert refused.fields["tws_time"] == "20260706 10:30:05 CST"
    tws = json.loads(refused.fields["tws"])
    assert (tws["local_symbol"], tws["shares"], tws["strike"]) == (
        "AAPL  260717C00200000", "100.0", "200.0",
    )  # fmt: skip


# --- positions -------------------------------------------------------------------------


def test_a_position_has_the_price_per_point() -> None:
    wheat = Contract(1, "ZW", "FUT", "USD", "ZWN6", "5000")
    position = held(Position("U1", wheat, "1", "54425"), Instrument("ZWN6", "FUT", "USD", "50"))
    assert (position.avg_price, position.multiplier) == ("1088.5", "50")


def test_a_position_has_no_price_if_the_worth_of_a_point_is_not_known() -> None:
    bond = Contract(1, "US-T", "BOND", "USD", "US-T", "")
    doubtful = Instrument("US-T", "BOND", "USD", "", "multiplier: who knows")
    assert held(Position("U1", bond, "10", "995"), doubtful).avg_price == ""
    assert held(Position("U1", bond, "10", ""), named("US-T")).avg_price == ""
