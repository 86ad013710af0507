"""Live positions, lag and dead letters in the terminal: `python -m flows.watch`.

Where positions are valued, also what they are worth. It only reads. Redis or the flow
being away is said in words, above the last figures that were seen. For scripts: `--once`
prints one page, `--json` exact figures.
"""

import os
import re
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

from connectors.codec import LAST_TIMESTAMP
from connectors.redis.base_totals import BaseTotals
from connectors.redis.exact_json import to_json
from connectors.redis.overview import (
    Overview,
    OverviewReader,
    Position,
    RedisAwayError,
    StreamState,
    Total,
)
from connectors.redis.worth import Worth
from flows.common.doors import app_of, enter, wrong_words
from flows.common.overview import (
    Rate,
    age,
    base_words,
    break_words,
    broker_words,
    counted,
    flow_words,
    lacking_words,
    overview_reader,
)
from flows.common.settings import load_settings
from flows.common.texts import shown
from state.valuation import STALE

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
    top: int = 0
    """The row at the top."""
    room: int = 1
    """Rows that were shown last."""
    search: str = ""
    """Only positions whose key or currency has each of these words."""
    typing: bool = False
    """Whether keys go to `search`."""
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
        words = self.search.lower().split()
        shown = [
            (key, position)
            for key, position in self.overview.positions.items()
            if (self.show is Show.ALL or (self.show is Show.OPEN) == bool(position.qty))
            and all(word in f"{key} {position.currency}".lower() for word in words)
        ]
        return sorted(shown, key=_SORT_KEYS[self.sort])

    def press(self, key: str) -> bool:
        """Do what a key asks for; return False if that is to end."""
        if self.typing:
            self._type(key)
            return True
        match key:
            case "s":
                self.sort = _next(self.sort)
            case "f":
                self.show = _next(self.show)
            case "/":
                self.typing, self.search = True, ""
            case "\x1b":
                self.search = ""
            case _:
                self.top += _ROWS_BY.get(key, 0) + _PAGES_BY.get(key, 0) * self.room
        return key != "q"

    def _type(self, key: str) -> None:
        match key:
            case "\r" | "\n":
                self.typing = False
            case "\x1b":
                self.typing, self.search = False, ""
            case "\x7f" | "\b":
                self.search = self.search[:-1]
            case _ if key.isprintable():
                self.search += key


_UP, _DOWN, _PAGE_UP, _PAGE_DOWN = "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~"
_ROWS_BY = {_UP: -1, _DOWN: 1, "k": -1, "j": 1}
_PAGES_BY = {_PAGE_UP: -1, _PAGE_DOWN: 1, " ": 1, "n": 1, "b": -1, "p": -1}

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


def page(view: View, height: int | None = None, width: int = 80) -> RenderableType:
    """Draw all of it.

    height: lines there are; the positions that fit are shown. None: all of them.
    width: columns there are; figures that do not fit are left out, the least wanted first.
    """
    parts: list[RenderableType] = []
    if view.problem:
        parts.append(Text(view.problem, style="bold white on red"))
    if view.overview is None:
        return Group(*parts, Text("Nothing to show yet."))
    parts += [_header(view, view.overview), *_streams(view.overview), *_breaks(view.overview)]
    if view.account:
        parts += _accounts(view.overview)
    totals = view.overview.totals
    lacking = list(_lacking(view.overview))
    summed = len(totals) + (view.overview.base is not None)
    more = len(Text(view.problem).wrap(Console(), width)) - 1
    taken = len(parts) + summed + len(lacking) + 3 + more
    rows = view.positions()
    room = view.room = len(rows) if height is None else max(1, height - taken)
    last = len(rows) - 1 - (len(rows) - 1) % room if rows else 0
    view.top = min(max(view.top, 0), last)
    on_page = rows[view.top : view.top + room]
    parts.append(_positions(on_page, view.overview, width))
    parts += [_totals(view.overview, width), *lacking]
    parts += [_footer(view, len(rows), width, keys=height is not None)]
    return Group(*parts)


def _header(view: View, overview: Overview) -> RenderableType:
    clock = moment(overview.at_ms, overview.at_ms)
    per_second = view.rate.per_second
    letters = overview.dead_letters
    text = Text(f"lotstream {clock} UTC  ", style="dim" if view.problem else "", **_ONE_LINE)
    text.append(f"dead letters: {letters:,}", style="bold red" if letters else "")
    words, kind = broker_words(overview.broker)
    if words:
        text.append(f"  {words}", style=_BROKER_STYLES[kind])
    if per_second is not None:
        text.append(f"  {per_second:,.0f} executions/s")
    return text


_ONE_LINE: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}


def _breaks(overview: Overview) -> Iterator[RenderableType]:
    found = list(overview.broker.breaks.items())
    for key, about in found[:MOST_BREAKS]:
        text = shown(f"break: {break_words(key, about)}")
        text.no_wrap, text.overflow = True, "ellipsis"
        text.stylize("bold red")
        yield text
    if len(found) > MOST_BREAKS:
        yield Text(f"and {counted(len(found) - MOST_BREAKS, 'break')} more", style="bold red")


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
            **_ONE_LINE,
        )
    if len(worst_first) > MOST_STREAMS:
        yield Text(f"and {counted(len(worst_first) - MOST_STREAMS, 'stream')} more")


_BROKER_STYLES = {"good": "green", "bad": "bold red", "warn": "yellow"}
_FLOW_STYLES = {"running": "green", "away": "bold red", "unknown": "yellow"}


def progress(state: StreamState) -> str:
    """Say how far the flow is."""
    lag = "some entries" if state.lag is None else f"{state.lag:,}"
    waited = f" ({age(state.lag_s)})" if state.lag_s else ""
    if state.committed_age_s is None:
        return f"lag {lag}{waited}, nothing committed"
    if not state.lag_s:
        return "lag 0, all committed"
    return f"lag {lag}{waited}, committed up to {age(state.committed_age_s)} ago"


Cell = str | Text
Column = tuple[str, int, list[Cell]]
"""A title, how much it is wanted (less is more), and a cell a row."""


def _positions(rows: list[tuple[str, Position]], overview: Overview, width: int) -> Table:
    held, now_ms = [position for _, position in rows], overview.at_ms
    columns: list[Column] = [
        ("Qty", 0, [figure(each.qty, _QTY_WIDTH) for each in held]),
        ("Avg price", 3, [price(each.avg_price) for each in held]),
        ("Last price", 7, [price(each.last_price) for each in held]),
        ("Cost basis", 6, [figure(each.cost_basis, _MONEY_WIDTH, 2) for each in held]),
        ("Realized P&L", 4, [money(each.realized_pnl) for each in held]),
        ("Net P&L", 1, [money(each.net_realized_pnl) for each in held]),
        ("Commission", 8, [figure(each.commission, _MONEY_WIDTH, 2) for each in held]),
        ("Cur", 2, [shown(each.currency[:4]) for each in held]),
        ("Changed", 5, [moment(each.changed_at, now_ms) for each in held]),
    ]
    if overview.worth:
        # What was wanted most before is wanted less than what the positions are worth.
        less = {"Net P&L": 6, "Avg price": 7, "Realized P&L": 9, "Changed": 11}
        columns = [(name, less.get(name, wanted), cells) for name, wanted, cells in columns]
        valued = [(position, overview.worth[key]) for key, position in rows]
        columns[4:4] = _worth(valued, now_ms)
    return _table("Position", [shown(key) for key, _ in rows], columns, width)


def _worth(rows: list[tuple[Position, Worth]], now_ms: int) -> list[Column]:
    """Return the columns of what positions are worth; what is not known is said in words."""
    return [
        ("Mark", 5, [price(worth.mark_price) for _, worth in rows]),
        ("Mark age", 8, [_mark_age(worth, now_ms) for _, worth in rows]),
        ("Unrealized", 1, [_unrealized(*row) for row in rows]),
        ("Day", 3, [money_or_unknown(worth.day_pnl) for _, worth in rows]),
        ("Total", 4, [money_or_unknown(worth.total_pnl) for _, worth in rows]),
    ]


def _mark_age(worth: Worth, now_ms: int) -> str:
    at = worth.mark_timestamp
    return "-" if at is None else age(max(0, now_ms - at) / 1000)


def _unrealized(position: Position, worth: Worth) -> Text:
    if worth.unrealized_pnl is None:
        return Text(worth.state, style="yellow")
    amount = money(worth.unrealized_pnl)
    old = worth.state == STALE and bool(position.qty)
    return Text.assemble(("stale ", "yellow"), amount) if old else amount


def _totals(overview: Overview, width: int) -> Table:
    totals, base = overview.totals, overview.base
    names = [f"{each.currency}: {each.open:,} open, {each.flat:,} flat" for each in totals]
    columns: list[Column] = [
        ("Cost basis", 2, [figure(each.cost_basis, _MONEY_WIDTH, 2) for each in totals]),
        ("Realized P&L", 1, [money(each.realized_pnl) for each in totals]),
        ("Net P&L", 0, [money(each.net_realized_pnl) for each in totals]),
        ("Commission", 3, [figure(each.commission, _MONEY_WIDTH, 2) for each in totals]),
    ]
    if overview.worth:
        told: list[Total | BaseTotals] = [*totals]
        if base is not None:
            names.append(f"all in {base.base_currency}")
            told.append(base)
        columns = [(name, wanted + 3, [*cells, ""][: len(told)]) for name, wanted, cells in columns]
        columns[:0] = [
            ("Unrealized", 0, [money_or_unknown(each.unrealized_pnl) for each in told]),
            ("Day", 1, [money_or_unknown(each.day_pnl) for each in told]),
            ("Total", 2, [money_or_unknown(each.total_pnl) for each in told]),
        ]
    return _table("Total", [shown(name) for name in names], columns, width)


def _lacking(overview: Overview) -> Iterator[RenderableType]:
    """Say of which positions the totals know nothing."""
    said = {
        total.currency: lacking_words(total.unvalued, total.day_unknown, total.stale)
        for total in overview.totals
    }
    if (base := overview.base) is not None:
        said[f"all in {base.base_currency}"] = base_words(base, overview.at_ms)
    for name, words in said.items():
        if words:
            yield Text(f"{shown(name)}: {', '.join(words)}", style="yellow", **_ONE_LINE)


def _table(title: str, names: list[Text], columns: list[Column], width: int) -> Table:
    """Make a table of the columns that there is room for beside the names."""
    room = width - 1 - min(_NAME_WIDTH, max([len(title), *map(len, names)]))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=1)
    fitting: list[Column] = []
    for column in sorted(columns, key=lambda column: column[1]):
        heading, wanted, cells = column
        if wanted >= _EXTRA and width < _WIDE:
            break
        room -= 1 + max([len(heading), *map(len, cells)])
        if room < 0:
            break
        fitting.append(column)
    chosen = [column for column in columns if column in fitting]
    for heading, _, _ in chosen:
        table.add_column(heading, justify="left" if heading in _TEXTS else "right", no_wrap=True)
    for row in zip(names, *(cells for _, _, cells in chosen), strict=True):
        table.add_row(*row)
    return table


_NAME_WIDTH = 32
"""Of a position; an account with an option's symbol has it."""
_EXTRA, _WIDE = 6, 100
"""Columns no more wanted than this are for wide terminals, so that they do not come and go."""
_TEXTS = {"Cur", "Changed"}


def _footer(view: View, rows: int, width: int, *, keys: bool) -> Text:
    if view.typing:
        return Text(f"filter: {view.search}_   (Enter keeps it, Esc drops it)", **_ONE_LINE)
    kind = "" if view.show is Show.ALL else f"{view.show} "
    text = f"{counted(rows, f'{kind}position')} by {view.sort}"
    if view.search:
        text += f", with {view.search!r}"
    if keys:
        text += f", {view.top // view.room + 1}/{max(1, -(-rows // view.room))}"
        told = (_KEYS, _KEYS_SHORT, "")
        text += next(words for words in told if len(text) + len(words) <= width or not words)
    return Text(text, style="dim", **_ONE_LINE)


_KEYS = "   s sort, f open/flat/all, / filter, arrows, PgUp, PgDn, q quit"
_KEYS_SHORT = "   keys: s f / PgDn q"


def money(value: Decimal) -> Text:
    """Write an amount to the cent, a loss in red, a gain in green."""
    style = "red" if value < 0 else "green" if value else ""
    return Text(figure(value, _MONEY_WIDTH, 2), style=style)


def money_or_unknown(value: Decimal | None) -> Text:
    """Write an amount; say so if nobody knows it, rather than 0 or nothing."""
    return Text("unknown", style="dim") if value is None else money(value)


def price(value: Decimal | None) -> str:
    """Write a price to 4 places, a small one to 4 digits."""
    return figure(value, _PRICE_WIDTH, max(4, 3 - value.adjusted()) if value else 4)


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


def moment(at_ms: int, now_ms: int) -> str:
    """Write a time of the last hours as a time of day (UTC), an older one as a date."""
    if at_ms > LAST_TIMESTAMP:  # an entry's id may be any number
        return "no time"
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
            "base": overview.base,
            "worth": overview.worth,
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
    search: Annotated[
        str,
        typer.Option("--filter", metavar="WORDS", help="Only keys or currencies with these words."),
    ] = "",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 0.5,
) -> None:
    """Show live positions, lag and errors. Exit code 1 if Redis is away (with --once)."""
    reader = overview_reader(load_settings(), valued=True)
    view = View(sort, show, search=search, account=account)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        if once:
            view.look(reader)
            console = Console()
            print(as_json(view)) if json else console.print(page(view, width=console.width))
            raise typer.Exit(1 if view.problem else 0)
        if not (json or sys.stdout.isatty()):
            raise wrong_words("watch", "a terminal, or else --once or --json")
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
            screen.update(page(view, console.height, console.width), refresh=True)
            while key := pressed(until - time.monotonic()):
                if not view.press(key):
                    return
                screen.update(page(view, console.height, console.width), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key and returns it, or nothing."""
    if not sys.stdin.isatty():
        yield _wait
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    waiting: list[str] = []

    def pressed(seconds: float) -> str:
        if not waiting:
            ready, _, _ = select.select([terminal], [], [], max(0.0, seconds))
            if ready:
                # A key such as an arrow is several characters, which come together.
                typed = os.read(terminal, 1024).decode(errors="ignore")
                waiting.extend(_KEY.findall(typed) or "q")
        return waiting.pop(0) if waiting else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


_KEY = re.compile(r"\x1b[\[O][\d;]*[A-Za-z~]|.", re.DOTALL)


def _wait(seconds: float) -> str:
    time.sleep(max(0.0, seconds))
    return ""


app = app_of(watch)

if __name__ == "__main__":
    enter(app, "watch")
