"""The questions that the notebooks ask of the Parquet history, as lazy polars queries.

`read(data_dir)` gives the rows of two data sets, `read_valuations` those of the third;
every other function takes these, or closed lots, and gives a lazy frame. Sums are over
exact decimals and never mix currencies. A position has two clocks, and most questions
have an answer on each:

- arrival: when the stream brought a message (the first part of its entry id). What was
  known at a moment is what had arrived by then (`known_at`).
- booking time: when an execution happened. What came late, or was corrected, counts
  from the time at which it really took place (`as_booked`).

A `key` names a position as the flow does: `symbol`, or `account:symbol`.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import polars as pl
import polars.selectors as cs

# A notebook's kernel starts in its own directory, beside that of the rules.
sys.path.append(str(Path(__file__).parents[1]))

from state.exact import MONEY_PLACES, milliseconds, to_text
from state.retold import Told, laid, laid_on_matches, retell

QUANTITY = pl.Decimal(38, 10)
MONEY = pl.Decimal(38, 20)
TIME = pl.Datetime("ms", "UTC")

_Types = dict[str, pl.DataType | type[pl.DataType]]

POSITIONS: _Types = {
    "account": pl.String, "symbol": pl.String, "currency": pl.String,
    "multiplier": QUANTITY, "sec_type": pl.String, "con_id": pl.Int64, "qty": QUANTITY,
    "avg_price": QUANTITY, "cost_basis": MONEY, "realized_pnl": MONEY, "commission": QUANTITY,
    "other_commissions": pl.String, "basis_adjustment": QUANTITY, "net_realized_pnl": MONEY,
    "open_lots": pl.Int64, "executions": pl.Int64, "last_exec_id": pl.String,
    "last_price": QUANTITY, "timestamp": TIME, "stream_id": pl.String,
    "type": pl.String, "message_timestamp": TIME, "side": pl.String,
    "fill_qty": QUANTITY, "fill_price": QUANTITY, "exec_id": pl.String,
    "order_id": pl.Int64, "order_ref": pl.String, "message_commission": QUANTITY,
    "message_commission_currency": pl.String, "realized_pnl_change": MONEY,
    "net_realized_pnl_change": MONEY, "message_terms": pl.String,
    "date": pl.Date,
}  # fmt: skip
CLOSED_LOTS: _Types = {
    "account": pl.String, "symbol": pl.String, "currency": pl.String,
    "multiplier": QUANTITY, "direction": pl.String, "qty": QUANTITY,
    "open_exec_id": pl.String, "open_timestamp": TIME, "open_price": QUANTITY,
    "close_exec_id": pl.String, "close_timestamp": TIME, "close_price": QUANTITY,
    "realized_pnl": MONEY, "stream_id": pl.String, "date": pl.Date,
}  # fmt: skip
VALUATIONS: _Types = {
    "account": pl.String, "symbol": pl.String, "currency": pl.String,
    "multiplier": QUANTITY, "qty": QUANTITY, "cost_basis": MONEY, "mark_price": QUANTITY,
    "mark_timestamp": TIME, "market_value": MONEY, "unrealized_pnl": MONEY,
    "realized_pnl": MONEY, "net_realized_pnl": MONEY, "total_pnl": MONEY, "day_pnl": MONEY,
    "day": pl.String, "state": pl.String, "stream_id": pl.String, "time": TIME,
    "date": pl.Date,
}  # fmt: skip

ARRIVAL_ORDER = ("arrival", "arrival_seq")
"""The two parts of an entry id: a time, and a number among entries of one millisecond."""

_INSTRUMENT = ("key", "account", "symbol", "currency", "multiplier")
_MATCH = (
    *_INSTRUMENT, "direction", "open_exec_id", "open_timestamp", "open_price",
    "close_exec_id", "close_timestamp", "close_price",
)  # fmt: skip


class History(NamedTuple):
    """The rows of both data sets, each with its `key` and its place in order of arrival."""

    positions: pl.LazyFrame
    """One row for each message that counted, with the position after it."""
    closed_lots: pl.LazyFrame
    """One row for each match, and one for each match that was taken back."""


# --- reading -------------------------------------------------------------------------


def read(data_dir: Path) -> History:
    """Return the history under a data directory; without files it has no rows."""
    return History(
        _scan(data_dir / "positions", POSITIONS), _scan(data_dir / "closed_lots", CLOSED_LOTS)
    )


def read_valuations(data_dir: Path) -> pl.LazyFrame:
    """Return the rows of `valuations`: for a minute the last valuation of what had changed."""
    return _scan(data_dir / "valuations", VALUATIONS)


def known_at(history: History, until: datetime | str) -> History:
    """Leave only what had arrived by a moment (with a time zone), or with an entry id."""
    if isinstance(until, datetime):
        arrived = pl.col("arrival") <= until
    else:
        milliseconds, _, sequence = until.partition("-")
        at, seq = pl.lit(int(milliseconds)).cast(TIME), int(sequence or 0)
        arrived = (pl.col("arrival") < at) | (
            (pl.col("arrival") == at) & (pl.col("arrival_seq") <= seq)
        )
    return History(history.positions.filter(arrived), history.closed_lots.filter(arrived))


def _scan(data_set: Path, schema: _Types) -> pl.LazyFrame:
    # Not by `glob`, which finds nothing where it may not read.
    days = data_set.iterdir() if data_set.exists() else ()
    files = [
        path
        for day in days
        if day.name.startswith("date=")
        for path in day.iterdir()
        if path.suffix == ".parquet"
    ]
    # The names are listed here, so that a directory's name may hold a glob's signs. Files
    # of version 0.1.0 lack some columns.
    rows = (
        pl.scan_parquet(
            sorted(files),
            glob=False,
            hive_schema={"date": pl.Date},
            hive_partitioning=True,
            schema={name: kind for name, kind in schema.items() if name != "date"},
            missing_columns="insert",
        )
        if files
        else pl.LazyFrame(schema=schema)
    )
    entry = pl.col("stream_id").str.split_exact("-", 1).struct
    return rows.select(*schema).with_columns(
        key=pl.concat_str("account", "symbol", separator=":", ignore_nulls=True),
        arrival=entry.field("field_0").cast(pl.Int64).cast(TIME),
        arrival_seq=entry.field("field_1").cast(pl.UInt64),
    )


def contents(history: History) -> pl.LazyFrame:
    """Count what both data sets hold: messages by type, matches made and taken back."""
    messages = history.positions.select(
        "key", data_set=pl.lit("positions"), row="type", time="message_timestamp"
    )
    made = pl.when(pl.col("qty") > 0).then(pl.lit("match")).otherwise(pl.lit("match taken back"))
    matches = history.closed_lots.select(
        "key", data_set=pl.lit("closed_lots"), row=made, time="close_timestamp"
    )
    rows = pl.concat([messages, matches]).group_by("data_set", "row", maintain_order=True)
    return rows.agg(
        rows=pl.len(),
        keys=pl.col("key").n_unique(),
        first=pl.col("time").min(),
        last=pl.col("time").max(),
    ).sort("data_set", "row", descending=[True, False])


# --- positions -----------------------------------------------------------------------


def latest(history: History) -> pl.LazyFrame:
    """Return the newest row of each key: the position as it is now."""
    newest_last = history.positions.sort(ARRIVAL_ORDER)
    return newest_last.unique("key", keep="last").sort("currency", "key")


def executions(history: History) -> pl.LazyFrame:
    """Return one row for each message but commissions: what it is worth today.

    `time`, `side`, `fill_qty`, `fill_price` and `exec_id` are those of the last revision
    (fill_qty 0: busted), `revisions` counts them, `commission` is the valid report's, with
    what else the execution cost or brought (the premium of an option that was assigned).
    `laid` is the part of it that `cost` messages laid, which changes with what comes late.
    `qty_change` (signed) and `paid` (money, below 0 = received) are what it adds to the
    position. Openings come before all others of their key.
    """
    figures = {
        "qty_change": pl.col("qty"),
        # Booking an execution turns its money into cost basis or realized P&L, no more
        # and no less, so the difference of the two does not depend on any other one.
        "paid": pl.col("cost_basis") - pl.col("realized_pnl"),
        "commission": pl.col("commission") + pl.col("basis_adjustment").fill_null(0),
    }
    own = pl.col("type") != "commission"
    # A split and a transfer, say, may be known by the same id.
    of_type = pl.when(own).then("type").otherwise(pl.lit("execution"))
    of_message = ("type", "side", "fill_qty", "fill_price", "exec_id", "order_id")
    rows = _settled(history.positions.sort(ARRIVAL_ORDER), "currency", "multiplier").with_columns(
        of_type=of_type,
        identity=pl.coalesce(_identity(pl.col("exec_id")), "stream_id"),
        **{name: figure - _before(figure) for name, figure in figures.items()},
    )
    rows = rows.join(_laid(history), on=["key", "stream_id"], how="left", maintain_order="left")
    return (
        rows.group_by(*_INSTRUMENT, "of_type", "identity", maintain_order=True)
        .agg(
            pl.col(*of_message).filter(own).last(),
            pl.col("order_ref").drop_nulls().last(),  # a correction may leave it out
            pl.col(*figures, "laid").sum(),
            time=pl.col("message_timestamp").filter(own).last(),
            revisions=own.sum(),
            stream_id=pl.col("stream_id").last(),
        )
        .with_columns(
            time=pl.when(pl.col("type") == "opening")
            .then(pl.col("time").min().over("key"))
            .otherwise("time")
        )
        .sort("time", maintain_order=True)
    )


def position_over_time(history: History) -> pl.LazyFrame:
    """Return each key's quantity after each moment at which it changed, in booking time."""
    return (
        executions(history)
        .group_by("key", "symbol", "currency", "time")
        .agg(pl.col("qty_change").sum())
        .sort("key", "time")
        .with_columns(qty=pl.col("qty_change").cum_sum().over("key"))
    )


def as_booked(history: History, moment: datetime) -> pl.LazyFrame:
    """Return each key's position at a moment of booking time, as it is known by now.

    For what was known then, use `latest(known_at(history, moment))`. What arrived only
    after a split, cost or transfer that it came before counts as it was after that. Net
    P&L is that of `closed_lots`.
    """
    # An opening or a split is no execution, a bust is none any more.
    counts = (pl.col("type") == "execution") & (pl.col("fill_qty") > 0)
    held = (
        executions(history)
        .filter(pl.col("time") <= moment)
        .group_by(_INSTRUMENT)
        .agg(
            pl.col("paid", "commission").sum(),
            qty=pl.col("qty_change").sum(),
            executions=counts.sum(),
            last_time=pl.col("time").filter(counts).last(),
        )
    )
    realized = (
        closed_lots(history)
        .filter(pl.col("close_timestamp") <= moment)
        .group_by("key")
        .agg(pl.col("realized_pnl", "net_realized_pnl").sum())
    )
    return (
        held.join(realized, on="key", how="left", maintain_order="left")
        .with_columns(pl.col("realized_pnl", "net_realized_pnl").fill_null(0))
        .with_columns(cost_basis=pl.col("paid") + pl.col("realized_pnl"))
        .with_columns(avg_price=_divide("cost_basis", pl.col("qty") * pl.col("multiplier")))
        .sort("currency", "key")
    )


def _settled(in_order: pl.LazyFrame, *names: str) -> pl.LazyFrame:
    """Let all rows of a key say of its currency and multiplier what the last one says.

    The first execution or opening settles them. What came before, such as a transfer, has
    rows that say USD and 1.
    """
    return in_order.with_columns(pl.col(*names).last().over("key"))


def _before(figure: pl.Expr) -> pl.Expr:
    return figure.shift(1, fill_value=0).over("key")


def _identity(exec_id: pl.Expr) -> pl.Expr:
    """Return what all revisions of an execution id of IBKR's shape share, else the id."""
    shape = r"^([0-9a-zA-Z]{8}\.[0-9a-zA-Z]{8}\.[0-9]{2})\.[0-9]{2}$"
    return exec_id.str.replace(shape, "${1}")


# --- open lots -----------------------------------------------------------------------


def open_lots(history: History, moment: datetime | None = None) -> pl.DataFrame:
    """Return each key's open lots, the oldest first: by all rows, or at a moment of booking time.

    For what was open by what was known then, use `open_lots(known_at(history, moment))`.
    `qty` and `cost_basis` are signed. `opened` of an opening is the time that it was told
    with. Raises ValueError, saying what is missing, if the rows do not tell a key's lots.
    """
    until = None if moment is None else milliseconds(moment)
    found = [
        (*of_key.select(_INSTRUMENT).row(-1), lot.exec_id, lot.opened, to_text(lot.qty),
         to_text(lot.price), to_text(lot.cost, MONEY_PLACES))
        for key, of_key, told in _told(history.positions)
        for lot in retell(told, key, until)
    ]  # fmt: skip
    names = (*_INSTRUMENT, "exec_id", "opened", "qty", "price", "cost_basis")
    text = dict.fromkeys(names, pl.String) | {"opened": pl.Int64}
    return pl.DataFrame(found, schema=text, orient="row").with_columns(
        pl.col("opened").cast(TIME),
        pl.col("multiplier", "qty", "price").cast(QUANTITY),
        pl.col("cost_basis").cast(MONEY),
    )


def _told(positions: pl.LazyFrame) -> Iterator[tuple[str, pl.DataFrame, list[Told]]]:
    """Yield each key, its rows in order of arrival, and what a book is told of them."""
    rows = positions.sort("key", *ARRIVAL_ORDER).with_columns(
        pl.col("message_timestamp").dt.epoch("ms"), cs.decimal().cast(pl.String)
    )
    for (key,), of_key in rows.collect().group_by("key", maintain_order=True):
        yield str(key), of_key, [Told(*row) for row in of_key.select(Told._fields).iter_rows()]


def _laid(history: History) -> pl.LazyFrame:
    """Return what each entry changed of what `cost` messages laid on its key.

    Without keys whose rows do not tell all.
    """
    found: list[tuple[str, str, str]] = []
    for key, of_key, told in _told(_with_costs(history)):
        with suppress(ValueError):
            sums = [0, *laid(told, key)]
            changes = (to_text(after - before) for before, after in pairwise(sums))
            found += [(key, *row) for row in zip(of_key["stream_id"], changes, strict=True)]
    return _amounts(found, "key", "stream_id", "laid")


def _laid_on_matches(history: History) -> pl.LazyFrame:
    """Return what `cost` messages laid on each match; without keys as `_laid`."""
    found: list[tuple[str, str, str, str]] = []
    for key, _, told in _told(_with_costs(history)):
        with suppress(ValueError):
            matches = list(laid_on_matches(told, key))
            found += [(key, opener, closer, to_text(due)) for opener, closer, due in matches]
    return _amounts(found, "key", "open_exec_id", "close_exec_id", "laid")


def _with_costs(history: History) -> pl.LazyFrame:
    costs = history.positions.filter(pl.col("type") == "cost").select("key").unique()
    return history.positions.join(costs, on="key", how="semi")


def _amounts(found: Sequence[tuple[str, ...]], *names: str) -> pl.LazyFrame:
    frame = pl.LazyFrame(found, schema=dict.fromkeys(names, pl.String), orient="row")
    return frame.with_columns(pl.col("laid").cast(QUANTITY))


# --- closed lots ---------------------------------------------------------------------


def closed_lots(history: History) -> pl.LazyFrame:
    """Return the matches that still stand, each with its share of commissions.

    What was taken back has cancelled out. Money: `bought` and `sold` are the amounts of
    the two sides without commission, `open_commission` and `close_commission` the shares
    of the two executions' commissions by quantity, `laid` what `cost` messages laid on what
    was closed (below 0: a return of capital), `net_realized_pnl` the gross `realized_pnl`
    less all three. Each share is rounded to 10 places; what else fell due, see
    `charges_of_no_lot`. `held` is a duration, null if the lot comes from an opening, whose
    age nobody knows.
    """
    standing = (
        history.closed_lots.sort(ARRIVAL_ORDER)
        .group_by(_MATCH, maintain_order=True)
        .agg(pl.col("qty", "realized_pnl").sum(), pl.col("stream_id").last())
        .filter(pl.col("qty") != 0)
    )
    booked = executions(history)
    lots = _with_amounts(_with_commissions(standing, booked)).join(
        _laid_on_matches(history), on=["key", "open_exec_id", "close_exec_id"],
        how="left", maintain_order="left",
    ).with_columns(pl.col("laid").fill_null(0))  # fmt: skip
    # What an import took from a statement has the time at which the broker says it was opened.
    dated = pl.col("exec_id").str.starts_with("flex-open-")
    undated = booked.filter((pl.col("type") == "opening") & ~dated)
    lots = lots.join(
        undated.select("key", pl.col("exec_id").alias("open_exec_id"), from_opening=True),
        on=["key", "open_exec_id"], how="left", maintain_order="left",
    )  # fmt: skip
    from_opening = pl.col("from_opening").fill_null(pl.col("open_exec_id").is_null())
    held = pl.col("close_timestamp") - pl.col("open_timestamp")
    return (
        lots.with_columns(
            net_realized_pnl=pl.col("realized_pnl")
            - pl.col("open_commission")
            - pl.col("close_commission")
            - pl.col("laid"),
            held=pl.when(~from_opening).then(held),
        )
        .drop("from_opening")
        .sort("close_timestamp", maintain_order=True)
    )


def charges_of_no_lot(history: History) -> pl.LazyFrame:
    """Return, per key, what fell due of charges but is in none of the closed lots.

    It is what a split moved from lots that it rounded away, and what `cost` messages laid
    on a key whose rows do not tell all. `amount`: above 0 = cost. What rounding explains
    is left out.
    """
    due = pl.col("realized_pnl") - pl.col("net_realized_pnl")
    of_lots = closed_lots(history).group_by("key").agg(borne=due.sum())
    return (
        latest(history)
        .join(of_lots, on="key", how="left", maintain_order="left")
        .select("key", "currency", amount=due - pl.col("borne").fill_null(0))
        .filter(pl.col("amount").abs() > pl.lit(_ROUNDING, MONEY))
    )


_ROUNDING = Decimal("0.000001")


def _with_commissions(lots: pl.LazyFrame, booked: pl.LazyFrame) -> pl.LazyFrame:
    for side in ("open", "close"):
        of_execution = booked.filter(pl.col("type") == "execution").select(
            "key",
            pl.col("exec_id").alias(f"{side}_exec_id"),
            (pl.col("commission") - pl.col("laid")).alias(f"{side}_commission"),
            filled=pl.col("fill_qty"),
            filled_at=pl.col("fill_price"),
        )
        price = pl.col(f"{side}_price")
        # A split multiplies the quantity by what it divides the price by.
        units = (
            pl.when(price == pl.col("filled_at"))
            .then("filled")
            .otherwise(_divide(pl.col("filled") * pl.col("filled_at"), price))
        )
        share = _divide(pl.col(f"{side}_commission") * pl.col("qty"), units)
        lots = (
            lots.join(
                of_execution, on=["key", f"{side}_exec_id"], how="left", maintain_order="left"
            )
            .with_columns(share.fill_null(0).alias(f"{side}_commission"))
            .drop("filled", "filled_at")
        )
    return lots


def _with_amounts(lots: pl.LazyFrame) -> pl.LazyFrame:
    """Add both sides' amounts; the opening one follows from the P&L, which a split left exact."""
    closed_for = pl.col("qty").cast(MONEY) * pl.col("close_price") * pl.col("multiplier")
    long = pl.col("direction") == "LONG"
    return lots.with_columns(
        bought=closed_for - pl.when(long).then("realized_pnl").otherwise(0),
        sold=closed_for + pl.when(long).then(0).otherwise("realized_pnl"),
    )


# --- what closed lots add up to --------------------------------------------------------


def pnl_over_time(lots: pl.LazyFrame, by: str) -> pl.LazyFrame:
    """Return running gross and net P&L, and drawdown, for each value of `by`.

    by: `currency`, or `key`. drawdown: net P&L less its highest value so far, 0 at the
    start: never above 0.
    """
    names = list(dict.fromkeys([by, "currency"]))
    running = pl.col("realized_pnl", "net_realized_pnl").cum_sum().over(by)
    peak = pl.col("net_realized_pnl").cum_max().over(by).clip(lower_bound=0)
    return (
        lots.group_by(*names, time=pl.col("close_timestamp"))
        .agg(pl.col("realized_pnl", "net_realized_pnl").sum())
        .sort(by, "time")
        .with_columns(running)
        .with_columns(drawdown=pl.col("net_realized_pnl") - peak)
    )


def equity(valuations: pl.LazyFrame, moment: datetime | None = None) -> pl.LazyFrame:
    """Return each currency's P&L after each minute that has rows, realized and unrealized apart.

    moment: only what was valued by then, in minutes that had begun. Money: `total_pnl` is
    `net_realized_pnl` and `unrealized_pnl` together. A position without a mark is in
    no unrealized P&L, and with its realized one alone in the total; `unvalued` counts those.
    """
    rows = valuations if moment is None else valuations.filter(pl.col("time") <= moment)
    figures = {
        "realized_pnl": pl.col("realized_pnl"),
        "net_realized_pnl": pl.col("net_realized_pnl"),
        "unrealized_pnl": pl.col("unrealized_pnl").fill_null(0),
        "unvalued": pl.col("unrealized_pnl").is_null().cast(pl.Int64),
    }
    # A position without a row in a minute is as it was: so sums go on by what has changed.
    return (
        _settled(rows.sort("time", *ARRIVAL_ORDER), "currency")
        .with_columns(**{name: figure - _before(figure) for name, figure in figures.items()})
        .group_by("currency", "time")
        .agg(pl.col(*figures).sum())
        .sort("currency", "time")
        .with_columns(pl.col(*figures).cum_sum().over("currency"))
        .with_columns(total_pnl=pl.col("net_realized_pnl") + pl.col("unrealized_pnl"))
    )


def statistics(lots: pl.LazyFrame, by: Sequence[str] = ("currency",)) -> pl.LazyFrame:
    """Return what closed lots achieved, for each value of `by`; it must tell currencies apart.

    A lot wins or loses by its net P&L. profit_factor: money won per money lost, null
    without a loss. commission_share: of the gross P&L, null unless that is above 0.
    """
    net = pl.col("net_realized_pnl")
    totals = lots.group_by(by).agg(
        lots=pl.len(),
        wins=(net > 0).sum(),
        losses=(net < 0).sum(),
        won=net.filter(net > 0).sum(),
        lost=net.filter(net < 0).sum().abs(),
        gross=pl.col("realized_pnl").sum(),
        commission=(pl.col("open_commission") + pl.col("close_commission")).sum(),
        net=net.sum(),
    )
    return totals.with_columns(
        win_rate=pl.col("wins") / pl.col("lots"),
        profit_factor=_ratio("won", "lost"),
        average_win=_divide("won", pl.col("wins").cast(MONEY)),
        average_loss=_divide("lost", pl.col("losses").cast(MONEY)),
        commission_share=_ratio("commission", "gross"),
    ).sort(by)


def with_strategies(history: History, lots: pl.LazyFrame) -> pl.LazyFrame:
    """Add `opened_by` and `closed_by`, the `order_ref` of the two executions of each lot.

    Null where there was none: the order named no strategy, or an opening or a transfer
    brought the lot.
    """
    booked = executions(history).filter(pl.col("type") == "execution")
    for side in ("open", "close"):
        name = pl.col("order_ref").alias("opened_by" if side == "open" else "closed_by")
        of_side = booked.select("key", pl.col("exec_id").alias(f"{side}_exec_id"), name)
        lots = lots.join(
            of_side, on=["key", f"{side}_exec_id"], how="left", maintain_order="left"
        )  # fmt: skip
    return lots


def by_strategy(history: History) -> pl.LazyFrame:
    """Return what closed lots brought by strategy: by that which opened, and that which closed.

    One row for each currency, `side` (`opened` or `closed`) and `strategy`; over all
    strategies both sides add up to the same. `gross`, `commission` (both executions'
    shares, above 0 = cost) and `net` (also less what was `laid`) are of all `lots` on that
    side; `of_others` counts those of them that another strategy had on the other side,
    `net_of_others` is their part of `net`. What names no strategy is one of its own, null.
    """
    lots = with_strategies(history, closed_lots(history))
    differs = pl.col("opened_by").ne_missing(pl.col("closed_by"))
    net = pl.col("net_realized_pnl")
    sides = [
        lots.group_by("currency", strategy=f"{side}_by").agg(
            side=pl.lit(side),
            lots=pl.len(),
            gross=pl.col("realized_pnl").sum(),
            commission=(pl.col("open_commission") + pl.col("close_commission")).sum(),
            net=net.sum(),
            of_others=differs.sum(),
            net_of_others=net.filter(differs).sum(),
        )
        for side in ("opened", "closed")
    ]
    columns = ("gross", "commission", "net", "of_others", "net_of_others")
    return (
        pl.concat(sides)
        .select("currency", "side", "strategy", "lots", *columns)
        .sort("currency", "side", "strategy", descending=[False, True, False], nulls_last=True)
    )


def with_clock(lots: pl.LazyFrame, time_zone: str) -> pl.LazyFrame:
    """Add the `hour` (0 to 23) and `weekday` (1 is Monday) of closing, and its `month`."""
    local = pl.col("close_timestamp").dt.convert_time_zone(time_zone)
    return lots.with_columns(
        hour=local.dt.hour(), weekday=local.dt.weekday(), month=local.dt.date().dt.month_start()
    )


HOLDING_TIMES = (
    ("under 1 min", 60), ("1–10 min", 600), ("10–60 min", 3600), ("1–24 h", 86_400),
    ("1–7 days", 7 * 86_400), ("7–30 days", 30 * 86_400), ("30–365 days", 365 * 86_400),
)  # fmt: skip
"""Names of ranges of holding time, and where each ends, in seconds."""
HELD_LONGEST = "over 365 days"


def with_holding_time(lots: pl.LazyFrame) -> pl.LazyFrame:
    """Add `holding_time`, the name of the range of how long a lot was held; drop unknown ones."""
    seconds = pl.col("held").dt.total_seconds()
    name = pl.lit(HELD_LONGEST)
    for text, end in reversed(HOLDING_TIMES):
        name = pl.when(seconds < end).then(pl.lit(text)).otherwise(name)
    return lots.filter(pl.col("held").is_not_null()).with_columns(holding_time=name)


def tax_lots(lots: pl.LazyFrame, time_zone: str) -> pl.LazyFrame:
    """Return each closed lot as a tax report lists it: one row, dates of a time zone.

    Money: `proceeds` after and `cost` with commission, and less capital that was returned;
    `gain` their difference. `term`:
    `long` if held for more than a year; a short sale is `short`, however long it was open;
    `unknown` if the lot comes from an opening. `year` is that of the closing.
    """
    opened, closed = (
        pl.col(f"{side}_timestamp").dt.convert_time_zone(time_zone).dt.date()
        for side in ("open", "close")
    )
    long = pl.col("direction") == "LONG"
    buying = pl.when(long).then("open_commission").otherwise("close_commission")
    selling = pl.when(long).then("close_commission").otherwise("open_commission")
    return lots.select(
        "account", "symbol", "currency", "direction", "qty",
        year=closed.dt.year(),
        acquired=pl.when(long).then(opened).otherwise(closed),
        disposed=pl.when(long).then(closed).otherwise(opened),
        proceeds=pl.col("sold") - selling,
        cost=pl.col("bought") + buying + pl.col("laid"),
        gain=pl.col("net_realized_pnl"),
        term=pl.when(pl.col("held").is_null()).then(pl.lit("unknown"))
        .when(long & (closed > opened.dt.offset_by("1y"))).then(pl.lit("long"))
        .otherwise(pl.lit("short")),
    )  # fmt: skip


def by_tax_year(report: pl.LazyFrame, by: Sequence[str] = ()) -> pl.LazyFrame:
    """Return what tax lots add up to, for each year, currency and value of `by`."""
    names = ["year", "currency", *by]
    return (
        report.group_by(names)
        .agg(pl.col("proceeds", "cost", "gain").sum(), lots=pl.len())
        .select(*names, "lots", "proceeds", "cost", "gain")
        .sort(names)
    )


def plain(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Turn decimals into text without the zeros that only fill up their places."""
    text = cs.decimal().cast(pl.String)
    return frame.with_columns(text.str.strip_chars_end("0").str.strip_chars_end("."))


def _divide(amount: str | pl.Expr, by: pl.Expr) -> pl.Expr:
    """Divide decimals to 10 places; null where the divisor is 0."""
    amount = pl.col(amount) if isinstance(amount, str) else amount
    return (amount / pl.when(by != 0).then(by)).round(10).cast(QUANTITY)


def _ratio(part: str, whole: str) -> pl.Expr:
    """Divide as floats; null unless the whole is above 0."""
    above_0 = pl.when(pl.col(whole) > 0).then(pl.col(whole).cast(pl.Float64))
    return pl.col(part).cast(pl.Float64) / above_0


# --- two clocks ------------------------------------------------------------------------


def late(history: History) -> pl.LazyFrame:
    """Return the executions that arrived after later ones of their key, latest first.

    `reached` is how far the key had come, `behind` how much earlier the execution was;
    `corrects` tells that it revises one that had arrived.
    """
    reached = pl.col("message_timestamp").cum_max().over("key")
    revision = pl.int_range(pl.len()).over("key", _identity(pl.col("exec_id")))
    return (
        history.positions.filter(pl.col("type") == "execution")
        .sort(ARRIVAL_ORDER)
        .with_columns(reached=reached, corrects=revision > 0)
        .with_columns(behind=pl.col("reached") - pl.col("message_timestamp"))
        .filter(pl.col("behind") > pl.duration())
        .sort("behind", descending=True, maintain_order=True)
    )


def telling_moment(history: History) -> datetime:
    """Return when an execution happened that was told later than any other; else a middle one."""
    told_late = late(history).filter(~pl.col("corrects")).select("message_timestamp").head(1)
    moments = history.positions.select("message_timestamp").sort("message_timestamp").collect()
    found = told_late.collect().to_series().to_list() or moments[len(moments) // 2 :, 0].to_list()
    moment: datetime = found[0] if found else datetime.fromtimestamp(0, UTC)
    return moment


def entry_at(history: History, moment: datetime) -> str:
    """Return the id of the last entry before a stream told of anything after the moment.

    Unlike the time of arrival this also tells what was known then if the stream was filled
    afterwards, as long as it was filled in the original order. 0-0 if there is none.
    """
    progress = pl.col("message_timestamp").cum_max()
    told = history.positions.sort(ARRIVAL_ORDER).filter(progress <= moment)
    return next(iter(told.select(pl.col("stream_id").last()).collect().to_series()), None) or "0-0"


def compare(history: History, moment: datetime) -> pl.LazyFrame:
    """Set each key's quantity and gross P&L at a moment as known then beside as booked."""
    figures = ("qty", "realized_pnl")
    settled = _settled(history.positions.sort(ARRIVAL_ORDER), "currency")
    history = history._replace(positions=settled)
    known, booked = (
        frame.select(
            "key", "currency", *(pl.col(name).alias(f"{name}_{clock}") for name in figures)
        )
        for frame, clock in (
            (latest(known_at(history, entry_at(history, moment))), "known"),
            (as_booked(history, moment), "booked"),
        )
    )
    both = known.join(booked, on=["key", "currency"], how="full", coalesce=True)
    return both.with_columns(cs.decimal().fill_null(0)).sort("currency", "key")


def two_clocks(history: History, key: str) -> pl.LazyFrame:
    """Return a key's quantity over time on both clocks: `clock` is `known` or `booked`.

    On the clock of what was known, a time is how far the stream had told by then.
    """
    progress = pl.col("message_timestamp").cum_max()
    known = history.positions.sort(ARRIVAL_ORDER).select("key", "qty", time=progress)
    steps = [
        frame.filter(pl.col("key") == key).select("time", "qty", clock=pl.lit(clock))
        for frame, clock in ((position_over_time(history), "booked"), (known, "known"))
    ]
    changed = pl.col("qty") != pl.col("qty").shift(1, fill_value=0)
    return pl.concat([frame.filter(changed) for frame in steps])


# --- one execution's story -------------------------------------------------------------


def telling_execution(history: History) -> tuple[str, str] | None:
    """Return key and id of an execution with much to tell: corrected, and matched often."""
    matches = [
        history.closed_lots.select("key", identity=_identity(pl.col(f"{end}_exec_id")))
        for end in ("open", "close")
    ]
    told = executions(history).filter(pl.col("type") == "execution", pl.col("fill_qty") > 0)
    most = (
        told.join(pl.concat(matches), on=["key", "identity"], how="left", maintain_order="left")
        .group_by("key", "exec_id", "revisions", maintain_order=True)
        .len()
        .sort(pl.col("revisions") > 1, "len", descending=True, maintain_order=True)
    )
    found = most.select("key", "exec_id").head(1).collect().rows()
    return found[0] if found else None


def entries_of(history: History, key: str, exec_id: str) -> pl.LazyFrame:
    """Return the rows of an execution: its revisions and commissions, in order of arrival.

    `qty_before` is the position's quantity before each, `qty` after it.
    """
    rows = history.positions.filter(pl.col("key") == key).sort(ARRIVAL_ORDER)
    return rows.with_columns(qty_before=_before(pl.col("qty"))).filter(_is("exec_id", exec_id))


def matches_of(history: History, key: str, exec_id: str) -> pl.LazyFrame:
    """Return the matches in which an execution opened or closed, also those taken back."""
    took_part = _is("open_exec_id", exec_id) | _is("close_exec_id", exec_id)
    return history.closed_lots.filter(pl.col("key") == key, took_part).sort(ARRIVAL_ORDER)


def _is(column: str, exec_id: str) -> pl.Expr:
    """Say whether a column names an execution, whatever its revision."""
    return _identity(pl.col(column)) == _identity(pl.lit(exec_id))
