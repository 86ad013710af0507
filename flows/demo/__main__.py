"""See it work: `make demo`, or `python -m flows.demo`.

Publishes a sample trading history, lets the real flow run as a process of its own, and
shows what it wrote. The second table sets lotstream's figures beside a broker's own.
The demo starts a Valkey of its own unless REDIS_URL names a server (see demo_stage).
With --keep it leaves a larger history as Parquet.
"""

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import redis
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flows.common.doors import app_of, enter
from flows.common.overview import counted
from flows.demo import flex
from flows.demo.balance import Balance, balances, before_last_day, last_prices
from flows.demo.days import value_days
from flows.demo.market import LAST_DAY, TRADING_DAYS
from flows.demo.sample import Sample, history
from flows.demo.stage import Stage, end_on_signals, ignore_signals, set_stage
from flows.demo.statements import ACCOUNT, Comparison, Statement, compare, load_statements

SHORT_DAYS = 10

UNUSABLE = {
    "account": "DU1000001", "symbol": "AAPL", "side": "BUY", "fill_qty": "1O0",
    "fill_price": "201.5", "order_id": "1", "exec_id": "typed-by-hand",
    "timestamp": "1751299200000",
}  # fmt: skip
"""A message with a letter in its quantity: one for the dead letters."""

_GO_ON = """
To go on for real, with a Redis or Valkey of your own (more in README.md):
  export REDIS_URL=redis://localhost:6379/0
  .venv/bin/python -m flows run        # the main job
  .venv/bin/python -m flows router     # from TWS or IB Gateway; or XADD them yourself
  .venv/bin/python -m flows valuation  # what positions are worth, by the stream of marks
  .venv/bin/python -m flows watch      # positions, live"""

_console = Console(highlight=False)


def main(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Leave half a year's history as Parquet in DIR."),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=len(TRADING_DAYS),
            help=f"Trading days of history, the last of them {LAST_DAY}; {SHORT_DAYS} if not "
            f"given, {len(TRADING_DAYS)} with --keep.",
        ),
    ] = None,
) -> None:
    """Publish a sample trading history, run the real flow on it, show the positions."""
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise SystemExit(f"lotstream: --keep: expected a new or empty directory, found {keep}")
    end_on_signals()
    try:
        with set_stage(keep) as stage:
            agrees = _play(stage, keep, days)
    except redis.RedisError as error:
        raise SystemExit(f"lotstream: the demo's Redis is away: {error}") from None
    raise SystemExit(0 if agrees else 1)


def _play(stage: Stage, keep: Path | None, days: int | None) -> bool:
    try:
        if keep is None:
            return show_sample(stage, days or SHORT_DAYS)
        return leave_history(stage, days or len(TRADING_DAYS))
    finally:
        ignore_signals()


def show_sample(stage: Stage, days: int) -> bool:
    """Book a short sample and a broker's statements; tell if the broker's figures came out."""
    sample, statements = history(days, few=True), load_statements()
    # The last day's come when all else is booked and valued, so that a stretch has two ends.
    end = before_last_day(sample.messages)
    earlier, later = sample.messages[:end], sample.messages[end:]
    stage.publish([*earlier, UNUSABLE])
    stage.publish([message for statement in statements for message in statement.messages()])
    _say_published(stage, sample)
    fills = sum(len(statement.fills) for statement in statements)
    _say(f"  and {fills} executions of IBKR statements, and 1 message that cannot be used")
    imported = flex.take(stage)
    _say_imported(imported)
    found = _run_flows(stage, earlier, later)
    for letter in stage.dead_letters():
        _say(f"  set aside as a dead letter: {letter['error']}")
    _say_positions(stage)
    agrees = _say_comparisons(_compare(stage, statements))
    agrees = _say_audit(flex.audit(stage)) and imported["as_expected"] and agrees
    agrees = _say_balances(found) and agrees
    _say_where(stage)
    _say("  (both removed as the demo ends; --keep DIR leaves a larger history in DIR)")
    _say(_GO_ON)
    return agrees


def _run_flows(
    stage: Stage, earlier: list[dict[str, str]], later: list[dict[str, str]]
) -> list[Balance]:
    """Book and value what was published, then the later messages; return what came of those."""
    with stage.flows(valued=True) as flows:
        _say_booked(flows.until_booked())
        before = flows.value(last_prices(earlier))
        stage.publish(later)
        flows.until_booked()
        after = flows.value(last_prices([*earlier, *later]))
    _say_valued(after)
    return balances(before, after, earlier, later)


def leave_history(stage: Stage, days: int) -> bool:
    """Book the long sample into the directory that stays."""
    sample = history(days)
    stage.publish(sample.messages)
    _say_published(stage, sample)
    imported = flex.take(stage)
    _say_imported(imported)
    with stage.flows(valued=False) as flows:
        _say_booked(flows.until_booked())
    value_days(stage.settings.data_dir)
    _say_positions(stage)
    _say_where(stage, "valuations")
    return bool(imported["as_expected"])


# --- what is said -----------------------------------------------------------------------


def _say(text: str) -> None:
    _console.print(text, markup=False, soft_wrap=True)


def _say_published(stage: Stage, sample: Sample) -> None:
    where = "a Valkey of the demo's own" if stage.own_server else "the Redis at REDIS_URL"
    kinds = [counted(n, kind) for kind, n in sample.counts.items()]
    _say(f"Published to {where}: {', '.join(kinds)}")
    _say(f"  ({sample.late} of the executions arrive late, after later ones)")


def _say_booked(seconds: float) -> None:
    _say(f"Ran python -m bytewax.run flows.positions: caught up {seconds:.1f} s after its start")


def _say_valued(valuations: dict[str, dict[str, Any]]) -> None:
    unrealized: defaultdict[str, Decimal] = defaultdict(Decimal)
    lacking = 0
    for valuation in valuations.values():
        if valuation["unrealized_pnl"] is None:
            lacking += 1
        else:
            unrealized[valuation["currency"]] += valuation["unrealized_pnl"]
    amounts = ", ".join(f"{_money(each)} {name}" for name, each in sorted(unrealized.items()))
    _say(
        f"Ran python -m bytewax.run flows.valuation beside it, on the sample's prices:\n"
        f"  unrealized {amounts}; {counted(lacking, 'position')} without a mark left out"
    )


def _say_balances(found: list[Balance]) -> bool:
    """Say whether all that was made is accounted for; return it."""
    wrong = [each for each in found if not each.holds]
    for each in wrong:
        _say(f"  {each.key}: realized {each.realized} + unrealized {each.unrealized} is not "
             f"market value {each.market_value} - paid in {each.paid}")  # fmt: skip
    _say(
        f"\nrealized + change of unrealized = change of market value - paid in, over the last day:"
        f"\n{'NOT so' if wrong else 'exact'} for {len(wrong) or len(found)} of "
        f"{len(found)} positions"
    )
    return not wrong


def _say_positions(stage: Stage) -> None:
    table = _table("Account")
    table.add_column("Symbol", no_wrap=True)
    for name in ("Quantity", "Avg price", "Realized", "Net"):
        table.add_column(name, justify="right")
    table.add_column("")
    net: defaultdict[str, Decimal] = defaultdict(Decimal)
    for position in sorted(stage.positions(), key=_account_and_symbol):
        if position["account"] != ACCOUNT:
            table.add_row(*_cells(position))
            net[position["currency"]] += position["net_realized_pnl"]
    table.add_section()
    for currency, total in sorted(net.items()):
        table.add_row("all", "", "", "", "", _money(total), currency)
    _console.print(table)


def _table(*columns: str) -> Table:
    _say("")
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, padding=0)


def _account_and_symbol(position: dict[str, Any]) -> tuple[str, str]:
    return position["account"] or "", position["symbol"]


def _cells(position: dict[str, Any]) -> list[str]:
    average = position["avg_price"]
    return [
        position["account"],
        position["symbol"],
        f"{position['qty']:,}",
        "" if average is None else f"{average:,.4f}",
        _money(position["realized_pnl"]),
        _money(position["net_realized_pnl"]),
        position["currency"],
    ]


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}"


def _compare(stage: Stage, statements: list[Statement]) -> list[Comparison]:
    """Set the statements' figures beside those in the Parquet."""
    rows = (
        _scan(stage, "positions")
        .filter(pl.col("account") == ACCOUNT)
        .select("symbol", "exec_id", "net_realized_pnl_change")
        .collect()
        .rows()
    )
    ours: defaultdict[str, dict[str, Decimal]] = defaultdict(dict)
    for symbol, exec_id, change in rows:
        ours[symbol][exec_id] = change
    return [compare(statement, ours[statement.symbol]) for statement in statements]


def _say_comparisons(comparisons: list[Comparison]) -> bool:
    """Show both sides; return whether every figure agrees."""
    table = _table("Contract")
    for name in ("Closes", "lotstream net", "broker's statement", "Difference"):
        table.add_column(name, justify="right")
    for one in comparisons:
        difference = f"{one.ours - one.brokers:.6f}"
        figures = (f"{one.ours:,.6f}", f"{one.brokers:,.6f}", difference)
        table.add_row(one.symbol, str(one.closes), *figures, style="" if one.agrees else "red")
    _console.print(table)
    worst = max(one.worst for one in comparisons)
    closes = sum(one.closes for one in comparisons)
    agrees = all(one.agrees for one in comparisons)
    _say(
        f"\n{'All' if agrees else 'NOT all'} {closes} closes have the broker's figure; the largest "
        f"difference is {worst:.8f}.\n"
        f"(Statements that their owners published; the sources are in flows/demo/statements.json)"
    )
    return agrees


def _say_imported(told: dict[str, Any]) -> None:
    kinds = [counted(n, kind) for kind, n in told["counts"].items()]
    _say(f"Ran python -m flows.flex import flows/demo/flex.xml: {', '.join(kinds)}")
    for left_out in told["left_out"]:
        row = left_out["row"]
        _say(f"  left out: {row['text']} {row['symbol']}: {left_out['reason']}")


def _say_audit(told: dict[str, Any]) -> bool:
    """Show what the audit compared; return whether nothing differs."""
    table = _table("Flex statement against the book")
    for name in ("equal", "different"):
        table.add_column(name, justify="right")
    for kind, equal in told["equal"].items():
        differ = sum(kind.startswith(each["what"]) for each in told["differences"])
        table.add_row(kind, str(equal), str(differ), style="red" if differ else "")
    _console.print(table)
    for explained in told["explained"]:
        _say(f"  {explained['symbol']}: not compared: {explained['why']}")
    return bool(told["as_expected"])


def _say_where(stage: Stage, *further: str) -> None:
    hash_name, data_dir = stage.settings.positions_hash, stage.settings.data_dir
    _say(f"\nHash     {hash_name}: {stage.client.hlen(hash_name)} positions")
    for name in ("positions", "closed_lots", *further):
        rows = _scan(stage, name).select(pl.len()).collect().item()
        _say(f"Parquet  {data_dir / name}: {rows:,} rows")


def _scan(stage: Stage, data_set: str) -> pl.LazyFrame:
    return pl.scan_parquet(stage.settings.data_dir / data_set)


app = app_of(main)

if __name__ == "__main__":
    enter(app, "demo")
