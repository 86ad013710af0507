"""Which lots are open: `python -m flows.lots [KEY]`.

From the Parquet files alone, so it needs no Redis and shows what the flow has committed.
A key's rows are told to a book once more (`state.retold`); what comes out is held against
the position that the last row has. A key whose rows do not tell all is named, with what is
missing, rather than shown with lots that may be wrong.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from connectors.redis.exact_json import to_json
from flows.common.doors import app_of, enter, flows_directory, wrong_words
from flows.common.settings import load_settings
from state.exact import MONEY_PLACES, to_text
from state.retold import Told, retell
from state.snapshot import OpenLot

PIPE_WIDTH = 200
_ONLY = ("account", "symbol", "currency", "stream_id", *Told._fields)


class Shown(NamedTuple):
    """An open lot, as it is shown."""

    account: str | None
    symbol: str
    currency: str
    multiplier: Decimal
    qty: Decimal
    """Signed."""
    price: Decimal
    cost_basis: Decimal
    """Money, signed as the quantity."""
    opened: int
    """Milliseconds since 1970, UTC; of an opening: the time that it was told with."""
    age_s: int | None
    """Seconds from then; None for what an opening brought, as nobody knows."""
    exec_id: str


class Problem(NamedTuple):
    """A key whose lots its rows do not tell."""

    key: str
    text: str


def open_lots(
    data_dir: Path,
    key: str | None = None,
    *,
    at: datetime | None = None,
    known_at: datetime | None = None,
    now: datetime,
) -> Iterator[Shown | Problem]:
    """Yield the open lots of a key, or of all, in order of keys, the oldest first.

    at: those open at a moment, by what is known; known_at: by what had arrived by then.
    now: from when ages count.
    """
    for name, rows in _by_key(data_dir, key, known_at):
        told = [Told(*row) for row in rows.select(Told._fields).iter_rows()]
        try:
            lots = retell(told, name, None if at is None else _ms(at))
        except ValueError as error:
            yield Problem(name, str(error))
            continue
        dateless = {row.exec_id for row in told if row.type == "opening"}
        dateless = {each for each in dateless if not (each or "").startswith("flex-open-")}
        about = rows.select("account", "symbol", "currency", "multiplier").row(-1)
        for lot in lots:
            known = lot.exec_id not in dateless
            yield _shown(about, lot, (_ms(now) - lot.opened) // 1000 if known else None)


def _shown(about: tuple[Any, ...], lot: OpenLot, age_s: int | None) -> Shown:
    account, symbol, currency, multiplier = about
    return Shown(
        account, symbol, currency, _plain(multiplier), Decimal(to_text(lot.qty)),
        Decimal(to_text(lot.price)), Decimal(to_text(lot.cost, MONEY_PLACES)),
        lot.opened, age_s, lot.exec_id,
    )  # fmt: skip


def _plain(text: str) -> Decimal:
    """Read a decimal without the zeros that fill up its places."""
    return Decimal(text.rstrip("0").rstrip("."))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _by_key(
    data_dir: Path, key: str | None, known_at: datetime | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    files = sorted((data_dir / "positions").glob("date=*/*.parquet"))
    if not files:
        return
    rows = pl.scan_parquet(files, glob=False, missing_columns="insert", schema=_SCHEMA,
                           extra_columns="ignore", hive_partitioning=False)  # fmt: skip
    rows = rows.with_columns(
        key=pl.concat_str("account", "symbol", separator=":", ignore_nulls=True),
        arrival=pl.col("stream_id").str.split_exact("-", 1).struct.field("field_0").cast(pl.Int64),
        number=pl.col("stream_id").str.split_exact("-", 1).struct.field("field_1").cast(pl.UInt64),
        message_timestamp=pl.col("message_timestamp").dt.epoch("ms"),
    )
    if key is not None:
        rows = rows.filter(pl.col("key") == key)
    if known_at is not None:
        rows = rows.filter(pl.col("arrival") <= _ms(known_at))
    rows = rows.sort("key", "arrival", "number").with_columns(
        pl.selectors.decimal().cast(pl.String)
    )
    for (name,), of_key in rows.collect().group_by("key", maintain_order=True):
        yield str(name), of_key


_QUANTITY, _MONEY, _TIME = pl.Decimal(38, 10), pl.Decimal(38, 20), pl.Datetime("ms", "UTC")
_SCHEMA: dict[str, Any] = {
    name: {
        "message_timestamp": _TIME, "fill_qty": _QUANTITY, "fill_price": _QUANTITY,
        "multiplier": _QUANTITY, "qty": _QUANTITY, "cost_basis": _MONEY, "open_lots": pl.Int64,
    }.get(name, pl.String)
    for name in _ONLY
}  # fmt: skip


def main(
    *,
    key: Annotated[
        str | None, typer.Argument(help="SYMBOL, or ACCOUNT:SYMBOL; all if not given.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Those open at a time, such as 2026-07-06T14:30Z.")
    ] = None,
    known_at: Annotated[str | None, typer.Option(help="By what had arrived at a time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, exact figures.")] = False,
) -> None:
    """Show the open lots as of the flow's last commit, or of any moment before.

    Exit code 1 if the rows of a key do not tell its lots.
    """
    moments = [_moment(text, name) for name, text in (("--at", at), ("--known-at", known_at))]
    now = next((each for each in moments if each is not None), datetime.now(UTC))
    data_dir = flows_directory(load_settings().data_dir)
    if key and not any(_by_key(data_dir, key, None)):
        raise SystemExit(f"lotstream: KEY: expected SYMBOL or ACCOUNT:SYMBOL of a position that "
                         f"has rows in {data_dir}, found {key!r}")  # fmt: skip
    found = list(open_lots(data_dir, key, at=moments[0], known_at=moments[1], now=now))
    lots = [each for each in found if isinstance(each, Shown)]
    problems = [each for each in found if isinstance(each, Problem)]
    if json:
        print(to_json([lot._asdict() for lot in lots]))
    elif lots:
        console = Console()
        (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(_table(lots))
    for problem in problems:
        print(problem.text, file=sys.stderr)
    if not found and not json:
        print(f"no open lots{f' of {key}' if key else ''} in {data_dir}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise wrong_words(option, "a time with its zone, such as 2026-07-06T14:30Z", text)
    return moment


def _table(lots: list[Shown]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Account", "Symbol", "Opened (UTC)", "Execution"):
        table.add_column(name)
    for name in ("Quantity", "Price", "Cost basis", "Age"):
        table.add_column(name, justify="right")
    for lot in lots:
        opened = datetime.fromtimestamp(lot.opened / 1000, UTC)
        table.add_row(
            lot.account or "–", lot.symbol, f"{opened:%Y-%m-%d %H:%M:%S}", lot.exec_id,
            f"{lot.qty:,f}", f"{lot.price:,f}", f"{lot.cost_basis:,.2f} {lot.currency}",
            _age(lot.age_s),
        )  # fmt: skip
    return table


def _age(seconds: int | None) -> str:
    if seconds is None:
        return "?"
    days, rest = divmod(seconds, 86_400)
    return f"{days} d" if days else f"{rest // 3600}:{rest // 60 % 60:02}"


app = app_of(main)

if __name__ == "__main__":
    enter(app, "lots")
