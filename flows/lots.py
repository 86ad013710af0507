"""Which lots are open: `python -m flows.lots [KEY]`.

From the Parquet files alone, so it needs no Redis and shows what the flow has committed. A
key whose rows do not tell its lots is named, with what is missing.
"""

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from connectors.redis.exact_json import to_json
from flows.common.doors import app_of, enter, flows_directory, wrong_words
from flows.common.rows import Problem, Shown, has_rows, open_lots
from flows.common.settings import load_settings
from flows.common.texts import print_table, shown


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
    if key and not has_rows(data_dir, key):
        raise SystemExit(f"lotstream: KEY: expected SYMBOL or ACCOUNT:SYMBOL of a position that "
                         f"has rows in {data_dir}, found {key!r}")  # fmt: skip
    found = list(open_lots(data_dir, key, at=moments[0], known_at=moments[1], now=now))
    lots = [each for each in found if isinstance(each, Shown)]
    problems = [each for each in found if isinstance(each, Problem)]
    if json:
        print(to_json([lot._asdict() for lot in lots]))
    elif lots:
        print_table(_table(lots))
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
            shown(lot.account or "–"), shown(lot.symbol), f"{opened:%Y-%m-%d %H:%M:%S}",
            shown(lot.exec_id), f"{lot.qty:,f}", f"{lot.price:,f}",
            shown(f"{lot.cost_basis:,.2f} {lot.currency}"),
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
