"""Live positions, lag and dead letters in the terminal: `python -m flows.watch`.

It only reads. Redis or the flow being away is said in words, above the last figures
that were seen. For scripts: `--once` prints one page, `--json` exact figures.
"""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from connectors.redis.exact_json import to_json
from connectors.redis.overview import (
    Overview,
    OverviewReader,
    Position,
    RedisAwayError,
    StreamState,
    Total,
)
from flows.common.overview import (
    Rate,
    age,
    break_words,
    broker_words,
    flow_words,
    overview_reader,
)
from flows.common.settings import load_settings

MOST_BREAKS = 6
MOST_STREAMS = 6
"""Streams listed one by one, those that need attention first."""
_A_WHILE_MS = 20 * 3_600_000
_QTY_WIDTH, _PRICE_WIDTH, _MONEY_WIDTH = 10, 11, 14


class Sort(StrEnum):
    """What the positions are sorted by."""

    KEY = "key"
    PNL = "pnl"
    CHANGE = "change"


class Show(StrEnum):
    """Which positions are shown."""

    OPEN = "open"
    FLAT = "flat"
    ALL = "all"


@dataclass
class View:
    """What the user wants to see, and what was seen."""

    sort: Sort = Sort.KEY
    show: Show = Show.OPEN
    page: int = 0
    overview: Overview | None = None
    """The last look that succeeded."""
    problem: str = ""
    """Why a later one did not."""
    rate: Rate = field(default_factory=Rate)
    """Of executions booked."""
    account: bool = False
    """Whether to show the accounts' own figures."""

    def look(self, reader: OverviewReader) -> None:
        """Take a look at Redis."""
        try:
            self.overview, self.problem = reader.read(), ""
        except RedisAwayError as error:
            self.problem = f"Redis is away: {error}"
            self.rate.reset()
        except ValueError as error:
            self.problem = str(error)
        else:
            self.rate.count(self.overview.executions)

    def positions(self) -> list[tuple[str, Position]]:
        """Return the positions to show, sorted."""
        assert self.overview is not None
        shown = [
            (key, position)
            for key, position in self.overview.positions.items()
            if self.show is Show.ALL or (self.show is Show.OPEN) == bool(position.qty)
        ]
        return sorted(shown, key=_SORT_KEYS[self.sort])

    def press(self, key: str) -> bool:
        """Do what a key asks for; return False if that is to end."""
        match key:
            case "s":
                self.sort = _next(self.sort)
            case "f":
                self.show = _next(self.show)
            case " " | "n":
                self.page += 1
            case "b" | "p":
                self.page -= 1
        return key != "q"


_SORT_KEYS: dict[Sort, Callable[[tuple[str, Position]], Any]] = {
    Sort.KEY: lambda item: item[0],
    Sort.PNL: lambda item: (-item[1].realized_pnl, item[0]),
    Sort.CHANGE: lambda item: (-item[1].changed_at, item[0]),
}


Choice = TypeVar("Choice", Sort, Show)


def _next(choice: Choice) -> Choice:
    choices = list(type(choice))
    return choices[(choices.index(choice) + 1) % len(choices)]


# --- the page -------------------------------------------------------------------------


def page(view: View, height: int | None = None) -> RenderableType:
    """Draw all of it.

    height: lines there are; the positions that fit are shown. None: all of them.
    """
    parts: list[RenderableType] = []
    if view.problem:
        parts.append(Text(view.problem, style="bold white on red"))
    if view.overview is None:
        return Group(*parts, Text("Nothing to show yet."))
    parts += [_header(view, view.overview), *_streams(view.overview), *_breaks(view.overview)]
    if view.account:
        parts += _accounts(view.overview)
    totals = _totals(view.overview.totals)
    taken = len(parts) + len(view.overview.totals) + 3
    rows = view.positions()
    room = len(rows) if height is None else max(1, height - taken)
    pages = max(1, -(-len(rows) // max(1, room)))
    view.page = min(max(view.page, 0), pages - 1)
    on_page = rows[view.page * room : (view.page + 1) * room]
    parts.append(_positions(on_page, view.overview.at_ms))
    parts += [totals, _footer(view, len(rows), pages, keys=height is not None)]
    return Group(*parts)


def _header(view: View, overview: Overview) -> RenderableType:
    clock = moment(overview.at_ms, overview.at_ms)
    per_second = view.rate.per_second
    rate = "" if per_second is None else f"  {per_second:,.0f} executions/s"
    letters = overview.dead_letters
    text = Text(f"lotstream {clock} UTC{rate}  ", style="dim" if view.problem else "")
    text.append(f"dead letters: {letters:,}", style="bold red" if letters else "")
    words, kind = broker_words(overview.broker)
    if words:
        text.append(f"  {words}", style=_BROKER_STYLES[kind])
    return text


def _breaks(overview: Overview) -> Iterator[RenderableType]:
    found = list(overview.broker.breaks.items())
    for key, about in found[:MOST_BREAKS]:
        text = shown(f"break: {break_words(key, about)}")
        text.stylize("bold red")
        yield text
    if len(found) > MOST_BREAKS:
        yield Text(f"and {len(found) - MOST_BREAKS} breaks more", style="bold red")


def _accounts(overview: Overview) -> Iterator[RenderableType]:
    """Show what the broker says of its accounts, as it says it."""
    if not overview.broker.figures:
        yield Text("The broker has told nothing of an account yet.", style="dim")
    for account, about in overview.broker.figures.items():
        told_at = moment(int(about["as_of"]), overview.at_ms)
        yield Text.assemble(shown(account), f" at the broker, {told_at} UTC", style="bold")
        for title, name in _FIGURES.items():
            amounts = [
                f"{figure(Decimal(amount), _MONEY_WIDTH, 2)} {currency}"
                for currency, amount in about[name].items()
            ]
            yield shown(f"  {title}: {', '.join(amounts) or 'not told'}")
        yield from map(_order, about["open_orders"] or ())
        if about["open_orders"] is None:
            yield Text("  open orders: not known", style="dim")


_FIGURES = {
    "Net liquidation": "net_liquidation", "Buying power": "buying_power", "Cash": "cash",
}  # fmt: skip


def _order(order: Mapping[str, Any]) -> Text:
    prices = " ".join(filter(None, (order["limit_price"], order["stop_price"])))
    words = (order["side"], order["qty"], order["symbol"], order["order_type"], prices)
    return shown(f"  order {' '.join(filter(None, words))}, {order['status']}")


def _streams(overview: Overview) -> Iterator[RenderableType]:
    worst_first = sorted(
        overview.streams, key=lambda state: (state.flow == "running", -state.lag_s)
    )
    for state in worst_first[:MOST_STREAMS]:
        yield Text.assemble(
            shown(f"{state.stream}: "),
            (flow_words(state), _FLOW_STYLES[state.flow]),
            f", {progress(state)}",
            no_wrap=True,
            overflow="ellipsis",
        )
    if len(worst_first) > MOST_STREAMS:
        yield Text(f"and {len(worst_first) - MOST_STREAMS} streams more")


_BROKER_STYLES = {"good": "green", "bad": "bold red", "warn": "yellow"}
_FLOW_STYLES = {"running": "green", "away": "bold red", "unknown": "yellow"}


def progress(state: StreamState) -> str:
    """Say how far the flow is."""
    lag = "some entries" if state.lag is None else f"{state.lag:,}"
    waited = f" ({age(state.lag_s)})" if state.lag_s else ""
    if state.committed_age_s is None:
        return f"lag {lag}{waited}, nothing committed"
    return f"lag {lag}{waited}, committed up to {age(state.committed_age_s)} ago"


def _positions(rows: list[tuple[str, Position]], now_ms: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    table.add_column("Position", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, width in (("Qty", 7), ("Avg price", 9), ("Realized P&L", 12), ("Net P&L", 11)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("Cur", no_wrap=True)
    table.add_column("Changed", no_wrap=True)
    for key, position in rows:
        table.add_row(
            shown(key),
            figure(position.qty, _QTY_WIDTH),
            figure(position.avg_price, _PRICE_WIDTH, 4),
            money(position.realized_pnl),
            money(position.net_realized_pnl),
            shown(position.currency[:4]),
            moment(position.changed_at, now_ms),
        )
    return table


def _totals(totals: list[Total]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    table.add_column("Total", no_wrap=True, ratio=1)
    for name in ("Cost basis", "Realized P&L", "Net P&L", "Commission"):
        table.add_column(name, justify="right", no_wrap=True)
    for total in totals:
        table.add_row(
            shown(f"{total.currency}: {total.open:,} open, {total.flat:,} flat"),
            figure(total.cost_basis, _MONEY_WIDTH, 2),
            money(total.realized_pnl),
            money(total.net_realized_pnl),
            figure(total.commission, _MONEY_WIDTH, 2),
        )
    return table


def _footer(view: View, rows: int, pages: int, *, keys: bool) -> Text:
    shown = "" if view.show is Show.ALL else f"{view.show} "
    text = f"{rows:,} {shown}positions by {view.sort}"
    if keys:
        text += f", {view.page + 1}/{pages}   keys: s sort, f filter, n next, p back, q quit"
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def money(value: Decimal) -> Text:
    """Write an amount to the cent, a loss in red, a gain in green."""
    style = "red" if value < 0 else "green" if value else ""
    return Text(figure(value, _MONEY_WIDTH, 2), style=style)


def figure(value: Decimal | None, width: int, places: int | None = None) -> str:
    """Write a figure with thousands apart; one that is too long with an exponent.

    places: decimal places, None for as many as it has.
    """
    if value is None:
        return "-"
    if places is None:
        text = f"{value:,f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:,.{places}f}"
    return text if len(text) <= width else f"{value:.{width - 8}e}"


def shown(name: str) -> Text:
    """Return a name so that it cannot draw on the terminal."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in name))


def moment(at_ms: int, now_ms: int) -> str:
    """Write a time of the last hours as a time of day (UTC), an older one as a date."""
    form = "%H:%M:%S" if now_ms - at_ms < _A_WHILE_MS else "%Y%m%d"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def as_json(view: View) -> str:
    """Write what was seen as one line of JSON, figures exact."""
    if view.overview is None or view.problem:
        return to_json({"problem": view.problem})
    overview = view.overview
    return to_json(
        {
            "at_ms": overview.at_ms,
            "executions_per_s": view.rate.per_second,
            "dead_letters": overview.dead_letters,
            "broker": overview.broker,
            "streams": [{**state._asdict(), "flow": state.flow} for state in overview.streams],
            "totals": overview.totals,
            "positions": [position for _, position in view.positions()],
        }
    )


# --- the command ----------------------------------------------------------------------


def watch(
    *,
    sort: Annotated[Sort, typer.Option(help="Key, largest P&L or latest change first.")] = Sort.KEY,
    show: Annotated[Show, typer.Option(help="Which positions.")] = Show.OPEN,
    once: Annotated[bool, typer.Option("--once", help="Print one page and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a look.")] = False,
    account: Annotated[
        bool, typer.Option("--account", help="Also what the broker says of the account.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 0.5,
) -> None:
    """Show live positions, lag and errors. Exit code 1 if Redis is away (with --once)."""
    reader, view = overview_reader(load_settings()), View(sort, show, account=account)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        if once:
            view.look(reader)
            print(as_json(view)) if json else Console().print(page(view))
            raise typer.Exit(1 if view.problem else 0)
        if json:
            _stream_json(reader, view, every)
        else:
            _live(reader, view, every)


def _stream_json(reader: OverviewReader, view: View, every_s: float) -> None:
    while True:
        view.look(reader)
        print(as_json(view), flush=True)
        time.sleep(every_s)


def _live(reader: OverviewReader, view: View, every_s: float) -> None:
    console = Console()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            view.look(reader)
            until = time.monotonic() + every_s
            screen.update(page(view, console.height), refresh=True)
            while key := pressed(until - time.monotonic()):
                if not view.press(key):
                    return
                screen.update(page(view, console.height), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key and returns it, or nothing."""
    if not sys.stdin.isatty():
        yield _wait
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], max(0.0, seconds))
        return os.read(terminal, 1).decode(errors="ignore") or "q" if ready else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _wait(seconds: float) -> str:
    time.sleep(max(0.0, seconds))
    return ""


if __name__ == "__main__":
    typer.run(watch)
