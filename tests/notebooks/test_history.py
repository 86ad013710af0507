"""The notebooks' queries: on small frames with known answers, and on what the flow wrote.

The small frames are files under a temporary DATA_DIR, so that reading is tested too.
What the flow wrote is checked against the hash, and against the book itself: the
position as booked at a moment is that of a book which was told nothing later.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from connectors.codec import decode
from connectors.parquet.minutes import MinuteFiles
from notebooks import history
from notebooks.history import History
from state.book import Book
from state.exact import MONEY, MONEY_PLACES, ONE, PLACES
from state.keys import position_key
from state.snapshot import PositionSnapshot
from state.valuation import Valuation
from tests.notebooks.flow_data import ACCOUNTS, Fields, Written
from tests.support.flow_process import Row

IBKR = "0000e0d5.6596b0d2.01."
"""An execution id without its revision."""


# --- hand-made histories ---------------------------------------------------------------


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def told(
    stream_id: str,
    happened: str = "2024-01-02 15:00",
    *,
    symbol: str = "AAPL",
    type: str = "execution",  # noqa: A002  # the column's name
    exec_id: str | None = None,
    fill: str | None = None,
    qty: str = "0",
    cost: str = "0",
    pnl: str = "0",
    commission: str = "0",
    **members: Any,
) -> Row:
    """Return a row of `positions`; fill such as "BUY 10 @ 100", the rest as after it."""
    side, fill_qty, _, price = fill.split() if fill else (None, None, None, None)
    return {
        "symbol": symbol, "currency": "USD", "multiplier": Decimal(1), "qty": Decimal(qty),
        "cost_basis": Decimal(cost), "realized_pnl": Decimal(pnl),
        "net_realized_pnl": Decimal(pnl), "commission": Decimal(commission),
        "stream_id": stream_id, "type": type, "message_timestamp": at(happened),
        "timestamp": at(happened), "exec_id": exec_id, "side": side,
        "fill_qty": fill_qty and Decimal(fill_qty), "fill_price": price and Decimal(price),
        **members,
    }  # fmt: skip


def matched(
    stream_id: str,
    qty: str,
    opened: str,
    closed: str,
    pnl: str,
    *,
    symbol: str = "AAPL",
    direction: str = "LONG",
    **members: Any,
) -> Row:
    """Return a row of `closed_lots`; opened and closed such as "id 2024-01-02T15:00 @ 100"."""
    (open_id, opened_at, _, open_price), (close_id, closed_at, _, close_price) = (
        end.split() for end in (opened, closed)
    )
    return {
        "symbol": symbol, "currency": "USD", "multiplier": Decimal(1), "direction": direction,
        "qty": Decimal(qty), "open_exec_id": None if open_id == "-" else open_id,
        "open_timestamp": at(opened_at), "open_price": Decimal(open_price),
        "close_exec_id": close_id, "close_timestamp": at(closed_at),
        "close_price": Decimal(close_price), "realized_pnl": Decimal(pnl),
        "stream_id": stream_id, **members,
    }  # fmt: skip


def history_of(
    data_dir: Path, messages: Iterable[Row] = (), matches: Iterable[Row] = ()
) -> History:
    """Write rows as the flow does, each data set under one date, and read them."""
    for name, schema, rows in (
        ("positions", history.POSITIONS, messages),
        ("closed_lots", history.CLOSED_LOTS, matches),
    ):
        frame = pl.DataFrame(list(rows), schema=schema).drop("date")
        if len(frame):
            (data_dir / name / "date=2024-01-02").mkdir(parents=True)
            frame.write_parquet(data_dir / name / "date=2024-01-02" / "part.parquet")
    return history.read(data_dir)


def rows_of(frame: pl.LazyFrame, *columns: str) -> list[tuple[Any, ...]]:
    return frame.select(columns).collect().rows()


def lots_with_net(*nets: str, currency: str = "USD") -> pl.LazyFrame:
    """Return closed lots a minute apart, of one key, that made so much net of 1 commission."""
    start = at("2024-01-02 15:00")
    closing = [start + timedelta(minutes=n) for n in range(len(nets))]
    net = pl.Series(list(map(Decimal, nets)), dtype=history.MONEY)
    return pl.LazyFrame({"close_timestamp": closing, "net_realized_pnl": net}).with_columns(
        key=pl.lit("AAPL"),
        currency=pl.lit(currency),
        realized_pnl=pl.col("net_realized_pnl") + 1,
        open_commission=pl.lit(Decimal("0.4"), history.QUANTITY),
        close_commission=pl.lit(Decimal("0.6"), history.QUANTITY),
    )


# --- reading ----------------------------------------------------------------------------


def test_a_directory_without_files_is_a_history_without_rows(tmp_path: Path) -> None:
    nothing = history.read(tmp_path / "no such directory")
    assert nothing.positions.collect().is_empty()
    assert history.closed_lots(nothing).collect().is_empty()
    assert history.as_booked(nothing, at("2024-01-02 15:00")).collect().is_empty()
    assert history.entry_at(nothing, at("2024-01-02 15:00")) == "0-0"
    assert history.telling_moment(nothing) == at("1970-01-01 00:00")
    assert history.telling_execution(nothing) is None


def test_a_directory_may_be_named_with_signs_that_a_pattern_gives_a_meaning(
    tmp_path: Path,
) -> None:
    rows = history_of(tmp_path / "env=prod [x]*", [told("5-0")])
    assert rows.positions.collect_schema().names()[: len(history.POSITIONS)] == list(
        history.POSITIONS
    )
    assert rows_of(rows.positions, "key", "date") == [("AAPL", date(2024, 1, 2))]


def test_a_key_names_account_and_symbol(tmp_path: Path) -> None:
    rows = history_of(tmp_path, [told("5-0", account="DU1"), told("6-0")])
    assert rows_of(history.latest(rows), "key") == [("AAPL",), ("DU1:AAPL",)]


def test_the_schemas_are_those_of_the_files_that_the_flow_writes(data_dir: Path) -> None:
    for name, schema in (
        ("positions", history.POSITIONS),
        ("closed_lots", history.CLOSED_LOTS),
    ):
        found = pl.scan_parquet(data_dir / name, hive_partitioning=True).collect_schema()
        assert dict(found) == schema


def test_files_of_the_first_version_are_read_beside_newer_ones(tmp_path: Path) -> None:
    history_of(tmp_path, [told("6-0", con_id=7)])
    new = tmp_path / "positions" / "date=2024-01-02" / "part.parquet"
    lacked = {"sec_type", "con_id", "other_commissions", "basis_adjustment", "order_ref",
              "message_commission", "message_commission_currency"}  # fmt: skip
    old = pl.DataFrame([told("5-0")], schema=history.POSITIONS).drop("date", *lacked)
    old.write_parquet(new.with_name("a.parquet"))
    rows = history.read(tmp_path)
    assert rows_of(rows.positions, "stream_id", "con_id") == [("5-0", None), ("6-0", 7)]
    assert rows_of(history.executions(rows), "commission") == [(0,), (0,)]


# --- as known --------------------------------------------------------------------------


def test_the_latest_row_is_that_of_the_highest_entry_id_as_a_number(tmp_path: Path) -> None:
    rows = history_of(tmp_path, [told("9-10", qty="3"), told("9-9", qty="2"), told("8-99")])
    assert rows_of(history.latest(rows), "stream_id", "qty") == [("9-10", 3)]


@pytest.mark.parametrize(
    ("until", "known"),
    [
        ("2000-5", ["2000-5"]),
        ("2000-4", ["1000-0"]),
        ("2000", ["1000-0"]),
        ("999-9", []),
        (datetime.fromtimestamp(2, UTC), ["2000-6"]),
        (datetime.fromtimestamp(1.999, UTC), ["1000-0"]),
    ],
)
def test_what_was_known_is_what_had_arrived(
    tmp_path: Path, until: datetime | str, known: list[str]
) -> None:
    rows = history_of(tmp_path, [told("1000-0"), told("2000-5"), told("2000-6")])
    assert rows_of(history.latest(history.known_at(rows, until)), "stream_id") == [
        (entry,) for entry in known
    ]


def test_the_entry_at_a_moment_is_the_last_before_the_stream_told_of_later_ones(
    tmp_path: Path,
) -> None:
    # All arrive at once, as when a stream is filled afterwards; the third is late.
    times = ["15:00", "15:10", "15:05", "15:20"]
    rows = history_of(
        tmp_path, [told(f"7-{n}", f"2024-01-02 {time}") for n, time in enumerate(times)]
    )
    assert history.entry_at(rows, at("2024-01-02 15:07")) == "7-0"
    assert history.entry_at(rows, at("2024-01-02 15:10")) == "7-2"
    assert history.entry_at(rows, at("2024-01-02 14:00")) == "0-0"


# --- as booked -------------------------------------------------------------------------


def test_an_execution_is_what_its_last_revision_says(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id=f"{IBKR}01", fill="BUY 10 @ 100", qty="10", cost="1000"),
            told("2-0", type="commission", exec_id=f"{IBKR}01", qty="10", cost="1000",
                 commission="1.5"),
            told("3-0", exec_id=f"{IBKR}02", fill="BUY 8 @ 101", qty="8", cost="808",
                 commission="1.5"),
            told("4-0", "2024-01-02 16:00", type="commission", exec_id=f"{IBKR}02", qty="8",
                 cost="808", commission="1.25"),
        ],
    )  # fmt: skip
    columns = ("exec_id", "fill_qty", "revisions", "qty_change", "paid", "commission", "time")
    assert rows_of(history.executions(rows), *columns) == [
        (f"{IBKR}02", 8, 2, 8, 808, Decimal("1.25"), at("2024-01-02 15:00"))
    ]


def test_what_was_busted_is_no_execution_and_an_average_is_by_a_points_value(
    tmp_path: Path,
) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", type="opening", qty="2", cost="200", multiplier=Decimal(100)),
            told("2-0", exec_id=f"{IBKR}01", fill="BUY 2 @ 3", qty="4", cost="800",
                 multiplier=Decimal(100)),
            told("3-0", exec_id=f"{IBKR}02", fill="BUY 0 @ 3", qty="2", cost="200",
                 multiplier=Decimal(100)),
            told("4-0", exec_id="of another shape", fill="BUY 2 @ 2", qty="4", cost="600",
                 multiplier=Decimal(100)),
        ],
    )  # fmt: skip
    booked = history.as_booked(rows, at("2024-01-02 15:00"))
    assert rows_of(booked, "qty", "executions", "avg_price") == [(4, 1, Decimal("1.5"))]


def test_what_came_before_the_execution_that_settles_the_currency_is_of_the_same_position(
    tmp_path: Path,
) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", "2024-01-02 14:00", type="transfer", exec_id="t", qty="3", cost="15"),
            told("2-0", exec_id="e", fill="SELL 1 @ 7", qty="2", cost="10", pnl="2",
                 currency="CAD"),
        ],
        [matched("2-0", "1", "t 2024-01-02T14:00 @ 5", "e 2024-01-02T15:00 @ 7", "2",
                 currency="CAD")],
    )  # fmt: skip
    booked = history.as_booked(rows, at("2024-01-02 15:00"))
    assert rows_of(booked, "currency", "qty", "realized_pnl") == [("CAD", 2, 2)]
    compared = history.compare(rows, at("2024-01-02 14:30"))
    assert rows_of(compared, "currency", "qty_known", "qty_booked") == [("CAD", 3, 3)]


@pytest.mark.parametrize(
    "form", ["mine.0{n}", IBKR + "01.0{n}", "x" + IBKR + "0{n}", IBKR + "0{n}x"]
)
def test_ids_of_another_shape_have_no_revisions(tmp_path: Path, form: str) -> None:
    fills = [told(f"{n}-0", exec_id=form.format(n=n), fill="BUY 1 @ 1") for n in (1, 2)]
    assert len(history.executions(history_of(tmp_path, fills)).collect()) == 2


def test_an_opening_comes_before_all_others_whatever_its_time(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", "2024-01-09 00:00", type="opening", qty="5", cost="50"),
            told("2-0", "2024-01-02 15:00", exec_id="a", fill="BUY 1 @ 11", qty="6", cost="61"),
        ],
    )
    (position,) = history.as_booked(rows, at("2024-01-02 15:00")).collect().to_dicts()
    assert (position["qty"], position["cost_basis"], position["executions"]) == (6, 61, 1)


def test_an_action_of_an_executions_id_is_another_message(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="a", fill="BUY 10 @ 100", qty="10", cost="1000"),
            told("2-0", type="commission", exec_id="a", qty="10", cost="1000", commission="1"),
            told("3-0", type="split", exec_id="a", qty="20", cost="1000", commission="1"),
            told("4-0", type="transfer", exec_id="a", qty="15", cost="750", commission="1"),
        ],
    )
    figures = ("type", "qty_change", "paid", "commission")
    assert rows_of(history.executions(rows), *figures) == [
        ("execution", 10, 1000, 1), ("split", 10, 0, 0), ("transfer", -5, -250, 0),
    ]  # fmt: skip


def test_what_came_late_counts_from_when_it_happened(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", "2024-01-02 15:10", exec_id="sold", fill="SELL 10 @ 110",
                 qty="-10", cost="-1100"),
            told("2-0", "2024-01-02 15:00", exec_id="bought", fill="BUY 10 @ 100", pnl="100"),
        ],
        [matched("2-0", "10", "bought 2024-01-02T15:00 @ 100", "sold 2024-01-02T15:10 @ 110",
                 "100")],
    )  # fmt: skip
    figures = ("qty", "cost_basis", "realized_pnl", "avg_price")
    before, after = (history.as_booked(rows, at(f"2024-01-02 {t}")) for t in ("15:05", "15:10"))
    assert rows_of(before, *figures) == [(10, 1000, 0, 100)]
    assert rows_of(after, *figures) == [(0, 0, 100, None)]
    assert rows_of(history.late(rows), "exec_id", "behind", "corrects") == [
        ("bought", timedelta(minutes=10), False)
    ]
    assert history.telling_moment(rows) == at("2024-01-02 15:00")
    compared = rows_of(
        history.compare(rows, at("2024-01-02 15:00")), "key", "qty_known", "qty_booked"
    )
    assert compared == [("AAPL", 0, 10)]
    assert rows_of(history.two_clocks(rows, "AAPL"), "time", "qty", "clock") == [
        (at("2024-01-02 15:00"), 10, "booked"),
        (at("2024-01-02 15:10"), 0, "booked"),
        (at("2024-01-02 15:10"), -10, "known"),
        (at("2024-01-02 15:10"), 0, "known"),
    ]


def test_late_is_what_comes_after_later_ones_of_its_own_key(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", "2024-01-02 15:10", exec_id=f"{IBKR}01", fill="BUY 1 @ 1", qty="1"),
            told("2-0", "2024-01-02 15:00", exec_id="other", fill="BUY 1 @ 1", symbol="T"),
            told("3-0", "2024-01-02 15:08", exec_id="late", fill="BUY 1 @ 1", qty="2"),
            told("4-0", "2024-01-02 15:01", exec_id=f"{IBKR}02", fill="BUY 1 @ 2", qty="2"),
        ],
    )
    assert rows_of(history.late(rows), "exec_id", "corrects") == [
        (f"{IBKR}02", True), ("late", False),
    ]  # fmt: skip
    assert history.telling_moment(rows) == at("2024-01-02 15:08"), "a correction tells less"
    known = history.two_clocks(rows, "AAPL").filter(pl.col("clock") == "known")
    assert rows_of(known, "qty") == [(1,), (2,)], "what changed nothing is no step"


# --- closed lots ------------------------------------------------------------------------

OPENED, CLOSED = "o 2024-01-02T15:00 @ 100", "c 2024-01-02T16:00 @ 110"


def test_what_was_taken_back_has_cancelled_out(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        matches=[
            matched("3-0", "10", OPENED, CLOSED, "100"),
            matched("4-0", "-10", OPENED, CLOSED, "-100"),
            matched("4-0", "6", OPENED, CLOSED, "60"),
            matched("1-0", "2", OPENED, "d 2024-01-02T17:00 @ 90", "-20"),
            matched("2-0", "-2", OPENED, "d 2024-01-02T17:00 @ 90", "20"),
        ],
    )
    figures = ("qty", "realized_pnl", "stream_id", "held")
    assert rows_of(history.closed_lots(rows), *figures) == [(6, 60, "4-0", timedelta(hours=1))]


def test_each_side_bears_its_executions_commission_by_quantity(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="o", fill="BUY 10 @ 100", qty="10", cost="1000", commission="1"),
            told("2-0", exec_id="c", fill="SELL 12 @ 110", qty="-2", cost="-220", pnl="100",
                 commission="7"),
        ],
        [matched("2-0", "10", OPENED, CLOSED, "100")],
    )  # fmt: skip
    figures = ("open_commission", "close_commission", "net_realized_pnl", "bought", "sold")
    assert rows_of(history.closed_lots(rows), *figures) == [(1, 5, 94, 1000, 1100)]


def test_what_no_closed_lot_bears_is_told(tmp_path: Path) -> None:
    laid: Any = {"basis_adjustment": Decimal(3)}
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="o", fill="BUY 10 @ 100", qty="10", cost="1000"),
            told("2-0", type="cost", exec_id="x", qty="10", cost="1000", **laid),
            told("3-0", exec_id="c", fill="SELL 10 @ 110", pnl="100", **laid,
                 net_realized_pnl=Decimal(97)),
            told("4-0", symbol="IBM"),
        ],
        [matched("3-0", "10", OPENED, CLOSED, "100")],
    )  # fmt: skip
    unborne = history.charges_of_no_lot(rows)
    assert rows_of(unborne, "key", "currency", "amount") == [("AAPL", "USD", 3)]


def test_what_comes_late_does_not_bear_what_a_cost_had_laid(tmp_path: Path) -> None:
    """What was sold before money was paid back, and told of afterwards, had none of it.

    What was sold after it has all that is its own.
    """
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="o", fill="BUY 10 @ 100", qty="10", cost="1000"),
            told("2-0", "2024-01-02 17:00", type="cost", exec_id="x", qty="10", cost="1000",
                 message_terms='{"per_unit": -0.5}', basis_adjustment=Decimal(-5)),
            told("3-0", "2024-01-02 16:00", exec_id="c", fill="SELL 8 @ 110", pnl="80",
                 basis_adjustment=Decimal(-1), qty="2", cost="200"),
            told("4-0", "2024-01-02 18:00", exec_id="d", fill="SELL 2 @ 110", pnl="100",
                 basis_adjustment=Decimal(-1), net_realized_pnl=Decimal(101)),
        ],
        [matched("3-0", "8", OPENED, CLOSED, "80"),
         matched("4-0", "2", OPENED, "d 2024-01-02T18:00 @ 110", "20")],
    )  # fmt: skip
    lots = history.closed_lots(rows)
    assert rows_of(lots, "laid", "net_realized_pnl") == [(0, 80), (-1, 21)]
    assert rows_of(history.tax_lots(lots, "UTC"), "cost", "gain") == [(800, 80), (199, 21)]
    assert rows_of(history.charges_of_no_lot(rows), "amount") == []


def test_commissions_follow_a_lot_through_a_split(tmp_path: Path) -> None:
    # 3 of 10 units became 12 of 40; they are closed for 30 each.
    rows = history_of(
        tmp_path,
        [told("1-0", exec_id="o", fill="BUY 10 @ 100", qty="10", cost="1000", commission="2")],
        [matched("2-0", "12", "o 2024-01-02T15:00 @ 25", "c 2024-01-02T16:00 @ 30", "60")],
    )
    figures = ("open_commission", "bought", "sold")
    assert rows_of(history.closed_lots(rows), *figures) == [(Decimal("0.6"), 300, 360)]


def test_a_short_lot_is_sold_first_and_bought_for_the_closing_price(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        matches=[
            matched("1-0", "2", OPENED, CLOSED, "-1000", direction="SHORT", multiplier=Decimal(50))
        ],
    )
    assert rows_of(history.closed_lots(rows), "bought", "sold") == [(11_000, 10_000)]


def test_the_age_of_an_opening_position_is_not_known(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path, matches=[matched("1-0", "2", "- 2024-01-02T15:00 @ 1", CLOSED, "218")]
    )
    lots = history.closed_lots(rows)
    assert rows_of(lots, "held", "open_commission") == [(None, 0)]
    assert history.with_holding_time(lots).collect().is_empty()
    assert rows_of(history.tax_lots(lots, "UTC"), "term") == [("unknown",)]


def test_sums_are_exact_to_the_last_place(tmp_path: Path) -> None:
    tiny, large = "0.00000000000000000001", "99999999999999999"
    rows = history_of(
        tmp_path,
        matches=[
            matched(f"{n}-0", "1", OPENED, f"c{n} 2024-01-02T16:00 @ 1", pnl)
            for n, pnl in enumerate([large, tiny, f"-{large}"])
        ],
    )
    assert rows_of(history.statistics(history.closed_lots(rows)), "gross") == [(Decimal(tiny),)]


# --- what closed lots add up to -----------------------------------------------------------


def test_drawdown_is_counted_from_the_highest_point_or_from_nothing() -> None:
    running = history.pnl_over_time(lots_with_net("-5", "15", "-30", "4", "40"), "currency")
    assert rows_of(running, "net_realized_pnl", "realized_pnl", "drawdown") == [
        (-5, -4, -5), (10, 12, 0), (-20, -17, -30), (-16, -12, -26), (24, 29, 0),
    ]  # fmt: skip


def test_currencies_run_apart() -> None:
    both = pl.concat([lots_with_net("5", "-1"), lots_with_net("7", currency="EUR")])
    running = history.pnl_over_time(both, "currency")
    assert rows_of(running, "currency", "net_realized_pnl") == [("EUR", 7), ("USD", 5), ("USD", 4)]
    assert rows_of(history.statistics(both), "currency", "net") == [("EUR", 7), ("USD", 4)]


def test_win_rate_and_profit_factor_go_by_net_profit() -> None:
    figures = (
        "lots", "wins", "losses", "win_rate", "profit_factor", "average_win", "average_loss",
        "gross", "commission", "net", "commission_share",
    )  # fmt: skip
    statistics = history.statistics(lots_with_net("30", "10", "-8", "0"))
    assert rows_of(statistics, *figures) == [(4, 2, 1, 0.5, 5.0, 20, 8, 36, 4, 32, 4 / 36)]


def test_a_ratio_to_nothing_is_left_out() -> None:
    ratios = ("profit_factor", "average_loss", "commission_share")
    assert rows_of(history.statistics(lots_with_net("3")), *ratios[:2]) == [(None, None)]
    assert rows_of(history.statistics(lots_with_net("-3")), *ratios) == [(0.0, 3, None)]


def test_hours_weekdays_and_months_are_those_of_the_time_zone() -> None:
    lots = pl.LazyFrame({"close_timestamp": [at("2024-03-01 03:30"), at("2024-07-05 20:00")]})
    clock = history.with_clock(lots, "America/New_York")
    assert rows_of(clock, "hour", "weekday", "month") == [
        (22, 4, date(2024, 2, 1)),
        (16, 5, date(2024, 7, 1)),
    ]


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (timedelta(0), "under 1 min"),
        (timedelta(minutes=1), "1–10 min"),
        (timedelta(hours=23, minutes=59), "1–24 h"),
        (timedelta(days=30), "30–365 days"),
        (timedelta(days=365), "over 365 days"),
    ],
)
def test_holding_times_fall_into_ranges(held: timedelta, name: str) -> None:
    lots = pl.LazyFrame({"held": [held]})
    assert rows_of(history.with_holding_time(lots), "holding_time") == [(name,)]


@pytest.mark.parametrize(
    ("direction", "opened", "closed", "term", "year"),
    [
        ("LONG", "2023-03-01T15:00", "2024-03-01T15:01", "short", 2024),
        ("LONG", "2023-03-01T15:00", "2024-03-02T05:00", "long", 2024),
        ("LONG", "2023-03-01T15:00", "2024-03-02T04:59", "short", 2024),
        ("LONG", "2024-02-29T15:00", "2025-03-01T15:00", "long", 2025),
        ("SHORT", "2022-03-01T15:00", "2024-03-02T15:00", "short", 2024),
        ("LONG", "2023-03-01T15:00", "2025-01-01T04:00", "long", 2024),
    ],
)
def test_a_long_lot_is_long_term_the_day_after_a_year(
    tmp_path: Path, direction: str, opened: str, closed: str, term: str, year: int
) -> None:
    rows = history_of(
        tmp_path,
        matches=[
            matched("1-0", "1", f"o {opened} @ 1", f"c {closed} @ 2", "1", direction=direction)
        ],
    )
    report = history.tax_lots(history.closed_lots(rows), "America/New_York")
    assert rows_of(report, "term", "year") == [(term, year)]


@pytest.mark.parametrize(
    ("direction", "pnl", "proceeds", "cost"),
    [("LONG", 100, 1097, 1001), ("SHORT", -100, 999, 1103)],
)
def test_the_tax_report_puts_commissions_into_cost_and_proceeds(
    tmp_path: Path, direction: str, pnl: int, proceeds: int, cost: int
) -> None:
    messages = [
        told("1-0", exec_id="o", fill="BUY 10 @ 100", commission="1"),
        told("2-0", exec_id="c", fill="SELL 10 @ 110", commission="4"),
    ]
    matches = [matched("2-0", "10", OPENED, CLOSED, str(pnl), direction=direction)]
    lots = history.closed_lots(history_of(tmp_path, messages, matches))
    figures = ("proceeds", "cost", "gain", "acquired", "disposed")
    day = date(2024, 1, 2)
    assert rows_of(history.tax_lots(lots, "UTC"), *figures) == [(proceeds, cost, pnl - 4, day, day)]


def test_a_short_sale_is_acquired_when_it_is_bought_back(tmp_path: Path) -> None:
    lot = matched("2-0", "1", OPENED, "c 2024-02-03T16:00 @ 1", "0", direction="SHORT")
    lots = history.closed_lots(history_of(tmp_path, matches=[lot]))
    bought, sold = date(2024, 2, 3), date(2024, 1, 2)
    assert rows_of(history.tax_lots(lots, "UTC"), "acquired", "disposed") == [(bought, sold)]


def test_an_adjustment_is_in_the_net_like_a_commission(tmp_path: Path) -> None:
    messages = [
        told("1-0", exec_id="o", fill="BUY 10 @ 100"),
        told("2-0", exec_id="c", fill="SELL 10 @ 110", basis_adjustment=Decimal(-30)),
    ]
    rows = history_of(tmp_path, messages, [matched("2-0", "10", OPENED, CLOSED, "100")])
    assert rows_of(history.closed_lots(rows), "net_realized_pnl") == [(130,)]


def test_an_opening_has_an_age_only_if_a_statement_told_it(tmp_path: Path) -> None:
    messages = [
        told("1-0", exec_id="opening", type="opening", qty="10"),
        told("2-0", exec_id="flex-open-1-1", type="opening", qty="20"),
    ]
    opened = [f"{exec_id} 2022-01-02T15:00 @ 1" for exec_id in ("opening", "flex-open-1-1")]
    matches = [matched(f"{n}-0", "10", each, CLOSED, "1") for n, each in enumerate(opened, 3)]
    report = history.tax_lots(history.closed_lots(history_of(tmp_path, messages, matches)), "UTC")
    assert sorted(rows_of(report, "term")) == [("long",), ("unknown",)]


def test_pnl_by_strategy_is_by_who_opened_and_by_who_closed(tmp_path: Path) -> None:
    """What `a` opened was closed half by itself, half by `b`; `b` revised its order's name.

    What completes an execution later names no strategy.
    """
    bought = "buy 2024-01-02T15:00 @ 10"
    first, second = (f"{IBKR}0{revision} 2024-01-02T16:00 @ 11" for revision in (1, 2))
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="buy", fill="BUY 4 @ 10", order_ref="a"),
            told("1-1", exec_id="buy", fill="BUY 4 @ 10", commission="2"),
            told("2-0", exec_id=f"{IBKR}01", fill="SELL 1 @ 11", commission="2", order_ref="x"),
            told("3-0", exec_id=f"{IBKR}02", fill="SELL 2 @ 11", commission="2", order_ref="b"),
            told("4-0", exec_id="own", fill="SELL 2 @ 12", commission="3", order_ref="a"),
            told("5-0", exec_id="gift", type="opening", symbol="F", commission="0"),
            told("6-0", exec_id="sell", fill="SELL 1 @ 5", symbol="F", commission="0"),
            told("7-0", exec_id="more", fill="SELL 1 @ 6", symbol="F", order_ref="a"),
        ],
        [
            matched("2-0", "1", bought, first, "1"),
            matched("3-0", "-1", bought, first, "-1"),
            matched("3-0", "2", bought, second, "2"),
            matched("4-0", "2", bought, "own 2024-01-02T17:00 @ 12", "4"),
            matched("6-0", "1", "gift 2024-01-02T15:00 @ 2", "sell 2024-01-02T18:00 @ 5", "3",
                    symbol="F"),
            matched("7-0", "1", "gift 2024-01-02T15:00 @ 2", "more 2024-01-02T19:00 @ 6", "4",
                    symbol="F"),
        ],
    )  # fmt: skip
    figures = ("side", "strategy", "lots", "gross", "commission", "net", "of_others",
               "net_of_others")  # fmt: skip
    assert rows_of(history.by_strategy(rows), *figures) == [
        ("opened", "a", 2, 6, 3, 3, 1, 1), ("opened", None, 2, 7, 0, 7, 1, 4),
        ("closed", "a", 2, 8, 2, 6, 1, 4), ("closed", "b", 1, 2, 1, 1, 1, 1),
        ("closed", None, 1, 3, 0, 3, 0, 0),
    ]  # fmt: skip


def test_tax_years_add_up_by_currency_and_more(tmp_path: Path) -> None:
    matches = [
        matched("1-0", "1", OPENED, "a 2024-12-31T23:59 @ 1", "5"),
        matched("2-0", "1", OPENED, "b 2025-01-01T00:01 @ 1", "7"),
        matched("3-0", "1", OPENED, "c 2025-01-02T00:01 @ 1", "9", symbol="MSFT"),
    ]
    report = history.tax_lots(history.closed_lots(history_of(tmp_path, matches=matches)), "UTC")
    assert rows_of(history.by_tax_year(report), "year", "currency", "lots", "gain") == [
        (2024, "USD", 1, 5), (2025, "USD", 2, 16),
    ]  # fmt: skip
    by_symbol = history.by_tax_year(report, ["symbol"])
    assert rows_of(by_symbol, "year", "symbol", "gain") == [
        (2024, "AAPL", 5), (2025, "AAPL", 7), (2025, "MSFT", 9),
    ]  # fmt: skip


def test_an_exported_figure_has_no_idle_zeros() -> None:
    values = [Decimal("1200.50"), Decimal(100), Decimal("-0.00000001"), Decimal(0), None]
    frame = pl.LazyFrame({"x": pl.Series(values, dtype=history.MONEY)})
    assert rows_of(history.plain(frame), "x") == [
        ("1200.5",), ("100",), ("-0.00000001",), ("0",), (None,),
    ]  # fmt: skip


# --- one execution's story -----------------------------------------------------------------


def test_a_story_has_all_revisions_and_what_they_did(tmp_path: Path) -> None:
    rows = history_of(
        tmp_path,
        [
            told("1-0", exec_id="o", fill="BUY 10 @ 100", qty="10", cost="1000"),
            told("2-0", exec_id=f"{IBKR}01", fill="SELL 4 @ 90", qty="6", cost="600", pnl="-40"),
            told("3-0", exec_id="x", fill="BUY 1 @ 100", qty="7", cost="700", pnl="-40"),
            told("4-0", exec_id=f"{IBKR}02", fill="SELL 5 @ 90", qty="6", cost="600", pnl="-50"),
            told("5-0", exec_id=f"{IBKR}01", fill="BUY 1 @ 1", symbol="MSFT", qty="1", cost="1"),
        ],
        [
            matched("2-0", "4", OPENED, f"{IBKR}01 2024-01-02T16:00 @ 90", "-40"),
            matched("4-0", "-4", OPENED, f"{IBKR}01 2024-01-02T16:00 @ 90", "40"),
            matched("4-0", "5", OPENED, f"{IBKR}02 2024-01-02T16:00 @ 90", "-50"),
            matched("5-0", "5", OPENED, CLOSED, "50", symbol="MSFT"),
        ],
    )
    assert history.telling_execution(rows) == ("AAPL", f"{IBKR}02")
    entries = history.entries_of(rows, "AAPL", f"{IBKR}02")
    assert rows_of(entries, "stream_id", "qty_before", "qty") == [("2-0", 10, 6), ("4-0", 7, 6)]
    as_closing = history.matches_of(rows, "AAPL", f"{IBKR}01")
    assert rows_of(as_closing, "stream_id", "qty") == [("2-0", 4), ("4-0", -4), ("4-0", 5)]
    assert rows_of(history.matches_of(rows, "AAPL", "o"), "qty") == [(4,), (-4,), (5,)]


# --- on what the flow wrote -----------------------------------------------------------------

FIGURES = ("qty", "cost_basis", "realized_pnl", "net_realized_pnl", "commission", "executions")
XOM = f"{ACCOUNTS[1]}:XOM"
THE_END = at("9999-12-31 00:00")


@pytest.fixture
def a_year(written: dict[str, Written]) -> Written:
    return written["a year"]


def test_the_year_has_all_that_a_brokers_reports_bring(a_year: Written) -> None:
    """Else the tests below would prove less than they seem to."""
    rows = history.read(a_year.data_dir)
    held = dict(rows_of(history.contents(rows), "row", "rows"))
    assert held["execution"] > 400
    assert held["commission"] > 100
    assert held["opening"] == 3
    assert held["split"] == 2
    assert held["transfer"] == 2
    assert held["cost"] == 1
    laid = rows_of(history.closed_lots(rows).filter(pl.col("laid") != 0), "key")
    assert set(laid) == {(XOM,)}
    assert history.latest(rows).filter(pl.col("timestamp").is_null()).collect().height == 2
    assert held["match taken back"] > 10
    assert history.late(rows).filter(~pl.col("corrects")).collect().height > 5
    assert history.executions(rows).filter(pl.col("fill_qty") == 0).collect().height > 0
    terms = history.tax_lots(history.closed_lots(rows), "America/New_York")
    assert set(rows_of(terms, "term", "currency")) >= {
        ("long", "USD"), ("short", "EUR"), ("unknown", "USD"),
    }  # fmt: skip


def test_the_latest_rows_are_what_the_hash_shows(a_year: Written) -> None:
    latest = history.latest(history.read(a_year.data_dir)).collect().to_dicts()
    assert {row["key"]: [row[name] for name in FIGURES] for row in latest} == {
        key: [position[name] for name in FIGURES] for key, position in a_year.positions.items()
    }


def test_closed_lots_add_up_to_the_hash_gross_and_net(a_year: Written) -> None:
    rows = history.read(a_year.data_dir)
    lots = history.closed_lots(rows)
    assert rows_of(history.charges_of_no_lot(rows), "key") == []
    totals = history.statistics(lots, ["key"]).collect()
    sums = {row["key"]: row for row in totals.to_dicts()}
    assert set(sums) == set(a_year.positions) - {"T", "VZ"}
    for key, row in sums.items():
        position = a_year.positions[key]
        assert row["gross"] == position["realized_pnl"]
        assert abs(row["net"] - position["net_realized_pnl"]) < Decimal("1e-8")
    report = history.tax_lots(lots, "America/New_York").collect()
    assert report["gain"].sum() == totals["net"].sum()
    assert (report["proceeds"] - report["cost"]).sum() == report["gain"].sum()


def booked_until(
    messages: list[tuple[int, Fields]], moment: datetime
) -> dict[str, PositionSnapshot]:
    """Return the positions of books that are told of nothing later than a moment."""
    books: dict[str, Book] = {}
    ends = moment.timestamp() * 1000
    happened = {fields["exec_id"]: fields["timestamp"] for _, fields in messages
                if "side" in fields}  # fmt: skip
    for _, fields in messages:
        # A report of costs says when it was made, but costs count with their execution.
        counts_from = happened.get(fields.get("exec_id", ""), fields["timestamp"])
        if int(counts_from) <= ends or fields.get("type") == "opening":
            pairs = [str(text).encode() for pair in fields.items() for text in pair]
            symbol, account, message = decode(pairs)
            key = position_key(symbol, account)
            books.setdefault(key, Book(symbol, account)).apply(message)
    return {key: book.snapshot() for key, book in books.items()}


def test_open_lots_are_those_of_the_hash_s_positions(a_year: Written) -> None:
    lots = history.open_lots(history.read(a_year.data_dir))
    sums = lots.group_by("key").agg(pl.col("qty", "cost_basis").sum(), open_lots=pl.len())
    held = {key: each for key, each in a_year.positions.items() if each["open_lots"]}
    assert {row["key"]: tuple(row[name] for name in OF_LOTS) for row in sums.to_dicts()} == {
        key: tuple(each[name] for name in OF_LOTS) for key, each in held.items()
    }


OF_LOTS = ("qty", "cost_basis", "open_lots")


@pytest.mark.parametrize("days", [60, 160, 300])
def test_open_lots_at_a_moment_are_those_of_a_book_told_nothing_later(
    a_year: Written, days: int
) -> None:
    moment = at("2024-01-02 17:00") + timedelta(days=days)
    found = history.open_lots(history.read(a_year.data_dir), moment).group_by("key")
    sums = found.agg(pl.col("qty").sum(), open_lots=pl.len())
    expected = {
        key: (Decimal(snapshot.qty).scaleb(-PLACES), snapshot.open_lots)
        for key, snapshot in booked_until(a_year.messages, moment).items()
        if snapshot.open_lots
    }
    assert {key: (qty, number) for key, qty, number in sums.rows()} == expected


@pytest.mark.parametrize("side", ["opened", "closed"])
def test_strategies_add_up_to_all_closed_lots(a_year: Written, side: str) -> None:
    rows = history.read(a_year.data_dir)
    figures = ("gross", "commission", "net")
    by_strategy = history.by_strategy(rows).filter(pl.col("side") == side)
    assert set(by_strategy.collect()["strategy"]) >= {"trend", "revert", None}
    total = by_strategy.group_by("currency").agg(pl.col(*figures, "lots").sum()).sort("currency")
    expected = history.statistics(history.closed_lots(rows)).select("currency", *figures, "lots")
    assert rows_of(total, "currency", *figures, "lots") == expected.collect().rows()


@pytest.mark.parametrize("days", [3, 60, 157, 160, 300, 420])
def test_a_position_as_booked_is_that_of_a_book_told_nothing_later(
    a_year: Written, days: int
) -> None:
    moment = at("2024-01-02 17:00") + timedelta(days=days)
    found = history.as_booked(history.read(a_year.data_dir), moment).collect().to_dicts()
    expected = booked_until(a_year.messages, moment)
    assert {row["key"] for row in found} == set(expected)
    for row in found:
        snapshot = expected[row["key"]]
        assert row["qty"] == Decimal(snapshot.qty).scaleb(-PLACES)
        charges = snapshot.commission + snapshot.basis_adjustment
        assert row["commission"] == Decimal(charges).scaleb(-PLACES)
        assert row["cost_basis"] == Decimal(snapshot.cost_basis).scaleb(-MONEY_PLACES)
        assert row["realized_pnl"] == Decimal(snapshot.realized_pnl).scaleb(-MONEY_PLACES)
        net = Decimal(snapshot.net_realized_pnl).scaleb(-MONEY_PLACES)
        assert abs(row["net_realized_pnl"] - net) < Decimal("1e-8")
        assert row["executions"] == snapshot.executions


def test_in_the_end_the_two_clocks_agree(a_year: Written) -> None:
    rows = history.read(a_year.data_dir)
    both = history.compare(rows, THE_END).collect()
    assert both["qty_known"].to_list() == both["qty_booked"].to_list()
    assert both["realized_pnl_known"].to_list() == both["realized_pnl_booked"].to_list()
    last: defaultdict[str, Any] = defaultdict(Decimal)
    for key, qty in rows_of(history.position_over_time(rows), "key", "qty"):
        last[key] = qty
    assert last == {key: position["qty"] for key, position in a_year.positions.items()}


def test_the_telling_moment_is_one_at_which_the_clocks_differ(a_year: Written) -> None:
    rows = history.read(a_year.data_dir)
    both = history.compare(rows, history.telling_moment(rows)).collect()
    assert both["qty_known"].to_list() != both["qty_booked"].to_list()


# --- valuations ------------------------------------------------------------------------


def valued(data_dir: Path, *rows: tuple[str, str, str, str | None]) -> pl.LazyFrame:
    """Write a valuation a row (minute, key, net realized, unrealized); read them again."""
    files = MinuteFiles(data_dir)
    files.lock()
    for minute, name, net, unrealized in rows:
        account, _, symbol = name.rpartition(":")
        money = {"net": round(Decimal(net) * MONEY), "gross": round((Decimal(net) + 1) * MONEY)}
        made = None if unrealized is None else round(Decimal(unrealized) * MONEY)
        total = None if made is None else money["net"] + made
        currency = "EUR" if symbol == "SAP" else "USD"
        valuation = Valuation(
            account or None, symbol, currency, ONE, ONE, 0, None, None, made, made, money["gross"],
            money["net"], total, None, "2024-01-02", "no mark" if made is None else "live", "1-0",
        )  # fmt: skip
        files.add(name, valuation, round(at(f"2024-01-02 {minute}").timestamp() * 1000))
    files.end_minute(round(at("2024-01-03 00:00").timestamp() * 1000))
    files.close()
    return history.read_valuations(data_dir)


def curve(equity: pl.LazyFrame) -> list[tuple[Any, ...]]:
    figures = ("net_realized_pnl", "unrealized_pnl", "total_pnl", "unvalued")
    time = pl.col("time").dt.strftime("%H:%M")
    return equity.select("currency", time, *figures).collect().rows()


def test_equity_has_realized_and_unrealized_apart_and_goes_on_where_nothing_changed(
    tmp_path: Path,
) -> None:
    small = "0.00000000000000000001"
    rows = valued(
        tmp_path,
        ("15:00", "U1:A", "1", "10"), ("15:00", "U2:A", "2", small), ("15:00", "SAP", "5", "-7"),
        ("15:01", "U1:A", "1", "12"), ("15:03", "U2:A", "4", None), ("15:04", "U1:A", "13", "0"),
    )  # fmt: skip
    expected = [
        ("EUR", "15:00", 5, -7, -2, 0),
        ("USD", "15:00", 3, 10 + Decimal(small), 13 + Decimal(small), 0),
        ("USD", "15:01", 3, 12 + Decimal(small), 15 + Decimal(small), 0),
        ("USD", "15:03", 5, 12, 17, 1),
        ("USD", "15:04", 17, 0, 17, 1),
    ]
    assert curve(history.equity(rows)) == expected
    gross = history.equity(rows).select("realized_pnl").collect().to_series().to_list()
    assert gross == [6, 5, 5, 7, 19]
    assert curve(history.equity(rows.reverse())) == expected, "however they lie in the files"
    for minutes in range(6):
        moment = at("2024-01-02 15:00") + timedelta(minutes=minutes)
        by_then = [row for row in expected if row[1] <= f"{moment:%H:%M}"]
        assert curve(history.equity(rows, moment)) == by_then


def test_equity_counts_a_position_in_the_currency_that_it_came_to_have(tmp_path: Path) -> None:
    rows = valued(tmp_path, ("15:00", "SAP", "0", "5"), ("15:01", "SAP", "2", "6"))
    before = pl.when(pl.col("time") < at("2024-01-02 15:01")).then(pl.lit("USD"))
    rows = rows.with_columns(currency=before.otherwise("currency"))
    assert curve(history.equity(rows)) == [
        ("EUR", "15:00", 0, 5, 5, 0),
        ("EUR", "15:01", 2, 6, 8, 0),
    ]


def test_equity_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert curve(history.equity(history.read_valuations(tmp_path))) == []


def test_equity_ends_with_what_the_hash_says_was_realized(written: dict[str, Written]) -> None:
    a_year = written["a year"]
    rows = history.read_valuations(a_year.data_dir)
    for currency in ("EUR", "USD"):
        of_currency = pl.col("currency") == currency
        last = history.equity(rows).filter(of_currency).last().collect().to_dicts()[0]
        held = [each for each in a_year.positions.values() if each["currency"] == currency]
        assert last["net_realized_pnl"] == sum(each["net_realized_pnl"] for each in held)
        assert last["realized_pnl"] == sum(each["realized_pnl"] for each in held)
