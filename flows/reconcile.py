"""Our positions against IBKR's: `python -m flows.reconcile`.

Quantities are compared, per account and contract. Average prices are shown but not
judged: TWS keeps average cost, not FIFO. A book without an account is compared with
the sum over the accounts that have no book of their own for its symbol. A fill
that happens meanwhile may show as a break: look again.

Exit code 0: no break; 1: a break; 2: TWS, Redis or a setting does not let us compare.
"""

import asyncio
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from threading import Event
from typing import Annotated, Any, NoReturn
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.table import Table

from connectors.ibkr.feed import (
    Account,
    Held,
    Tws,
    TwsError,
    ask_account,
    decimal_text,
    opening_message,
)
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError
from connectors.redis.publisher import Once, Publisher
from flows.common.logs import set_up_logging
from flows.common.settings import Settings, load_settings
from state.keys import position_key

SPARE_CLIENT_IDS = 8
"""Tried after IBKR_CLIENT_ID + 1; that one itself is the router's."""
PIPE_WIDTH = 160


@dataclass(frozen=True)
class Book:
    """A position as the flow has it."""

    account: str | None
    symbol: str
    qty: Decimal
    avg_price: Decimal | None


@dataclass(frozen=True)
class Comparison:
    """One position on both sides."""

    account: str | None
    symbol: str
    book: Book | None
    """None if we have none."""
    held: Sequence[Held]
    """What the broker holds: none, one, or several contracts or accounts."""

    @property
    def key(self) -> str:
        return position_key(self.symbol, self.account)

    @property
    def ours(self) -> Decimal:
        return self.book.qty if self.book else Decimal(0)

    @property
    def theirs(self) -> Decimal:
        return sum((Decimal(each.qty) for each in self.held), Decimal(0))

    @property
    def our_avg_price(self) -> Decimal | None:
        return self.book.avg_price if self.book else None

    @property
    def their_avg_price(self) -> Decimal | None:
        known = len(self.held) == 1 and self.held[0].avg_price
        return Decimal(known) if known else None

    @property
    def is_break(self) -> bool:
        return self.ours != self.theirs


def compare(books: Iterable[Book], positions: Iterable[Held]) -> list[Comparison]:
    """Pair our books with the broker's positions, in order of key; flat on both sides: left out."""
    by_key = {position_key(book.symbol, book.account): book for book in books}
    held: dict[str, list[Held]] = defaultdict(list)
    for position in positions:
        key = position_key(position.symbol, position.account)
        shared = key not in by_key and position.symbol in by_key
        held[position.symbol if shared else key].append(position)
    pairs = [_pair(by_key.get(key), held[key]) for key in sorted({*by_key, *held})]
    return [pair for pair in pairs if pair.ours or pair.theirs or pair.is_break]


def _pair(book: Book | None, held: Sequence[Held]) -> Comparison:
    if book is not None:
        return Comparison(book.account, book.symbol, book, held)
    return Comparison(held[0].account, held[0].symbol, None, held)


# --- asking both sides ---------------------------------------------------------------------


def read_books(link: RedisLink, positions_hash: str) -> list[Book]:
    """Read the flow's positions."""
    values: Any = link.call(lambda client: client.hvals(positions_hash))
    records = [json.loads(value, parse_float=Decimal, parse_int=Decimal) for value in values]
    return [
        Book(record["account"], record["symbol"], record["qty"], record["avg_price"])
        for record in records
    ]


def ask_tws(settings: Settings) -> Account:
    """Read the broker's positions, beside a router that holds IBKR_CLIENT_ID."""
    tws = Tws(
        settings.ibkr_host,
        settings.ibkr_port,
        settings.ibkr_client_id + 1,
        ZoneInfo(settings.ibkr_timezone),
    )
    return asyncio.run(ask_account(tws, SPARE_CLIENT_IDS))


# --- adopting --------------------------------------------------------------------------------


def adopt(
    pairs: Iterable[Comparison], traded: set[str], publisher: Publisher
) -> tuple[set[str], list[str]]:
    """Publish an opening for each position that we have no book for.

    Returns the keys adopted, and why others were not. What was traded today is
    not: its executions are published by the router, and would count twice.
    """
    openings, notes = [], []
    for pair in pairs:
        if pair.book is not None:
            continue
        if pair.key in traded:
            notes.append(f"{pair.key}: not adopted, as TWS lists executions of today for it")
        elif len(pair.held) > 1:
            notes.append(f"{pair.key}: not adopted, as several contracts have this name")
        else:
            message = opening_message(pair.held[0], time.time_ns() // 1_000_000)
            figures = f"{message['qty']} {message.get('avg_price', '')}"
            openings.append(Once(f"opening:{pair.key}", message, figures))
    keys = [opening.once_id.removeprefix("opening:") for opening in openings]
    added = dict(zip(keys, publisher.publish_once(*openings), strict=True))
    notes += [f"{key}: adopted before, but there is no book yet" for key in keys if not added[key]]
    return {key for key in keys if added[key]}, notes


# --- showing ---------------------------------------------------------------------------------


def show_table(pairs: Sequence[Comparison], adopted: set[str]) -> None:
    """Print both sides as a table."""
    table = Table("account", "contract", title="Positions: ours against IBKR's")
    for name in ("ours", "IBKR's", "difference", "our avg price", "IBKR's avg price"):
        table.add_column(name, justify="right")
    table.add_column("")
    for pair in pairs:
        verdict = "adopted" if pair.key in adopted else "BREAK" if pair.is_break else "ok"
        ours = pair.ours if pair.book else None
        figures = (ours, pair.theirs, pair.ours - pair.theirs, pair.our_avg_price)
        texts = [
            "" if each is None else decimal_text(each) for each in (*figures, pair.their_avg_price)
        ]
        style = "bold red" if verdict == "BREAK" else None
        table.add_row(pair.account or "", pair.symbol, *texts, verdict, style=style)
    console = Console()
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def show_json(pairs: Sequence[Comparison], adopted: set[str]) -> None:
    """Print both sides as one JSON array, its numbers exact."""
    rows = [
        {
            "account": pair.account,
            "symbol": pair.symbol,
            "ours": _marked(pair.ours if pair.book else None),
            "broker": _marked(pair.theirs),
            "our_avg_price": _marked(pair.our_avg_price),
            "broker_avg_price": _marked(pair.their_avg_price),
            "break": pair.is_break and pair.key not in adopted,
            "adopted": pair.key in adopted,
        }
        for pair in pairs
    ]
    # The library would write a Decimal as a float, so the marked texts are unquoted here.
    print(re.sub(r'"\\u0000([-.\d]+)"', r"\1", json.dumps(rows, indent=2)))


def _marked(figure: Decimal | None) -> str | None:
    return None if figure is None else f"\0{decimal_text(figure)}"


# --- the command ---------------------------------------------------------------------------


def reconcile(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    adopting: Annotated[
        bool, typer.Option("--adopt", help="Open a book for each position that has none.")
    ] = False,
) -> None:
    """Compare our positions with IBKR's. Exit code 1: a break; 2: one side cannot be asked."""
    try:
        settings = load_settings()
        set_up_logging(settings)
        pairs, adopted, notes = _compare_both(settings, adopting=adopting)
    except TwsError as error:
        _give_up(f"lotstream: no answer from TWS: {error}")
    except StoppedError as error:
        _give_up(f"lotstream: no answer from Redis: {error.__cause__}")
    except RedisRefusedError as error:
        _give_up(f"lotstream: {error}")
    except SystemExit as error:  # a wrong setting; its own code would read as a break
        _give_up(str(error.code))
    (show_json if as_json else show_table)(pairs, adopted)
    for note in notes:
        print(note, file=sys.stderr)
    if any(pair.is_break and pair.key not in adopted for pair in pairs):
        raise typer.Exit(1)


def _compare_both(
    settings: Settings, *, adopting: bool
) -> tuple[list[Comparison], set[str], list[str]]:
    impatient = Event()
    impatient.set()  # an outage is not waited for
    link = RedisLink(settings.redis_url.get_secret_value(), impatient)
    books = read_books(link, settings.positions_hash)
    account = ask_tws(settings)
    pairs = compare(books, account.positions)
    if not adopting:
        return pairs, set(), []
    return pairs, *adopt(pairs, account.traded, Publisher(link, settings.streams))


def _give_up(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(reconcile)
