"""Our positions against IBKR's: `python -m flows.reconcile`.

TWS is asked anew. Quantities are compared, per account and contract, and average prices
only as far as a factor of 10, 100 or 1000 betrays a wrong multiplier: TWS keeps average
cost, not FIFO. A book without an account is compared with the sum over the accounts that
have no book of their own for its symbol. Of each break it is said what it most likely is,
and what would heal it. A fill that happens meanwhile may show as a break: look again.

Exit code 0: no break; 1: a break; 2: TWS, Redis or a setting does not let us compare.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table

from connectors.ibkr.account import Account, Accounts, ask_account
from connectors.ibkr.instruments import Record
from connectors.ibkr.messages import Held, decimal_text
from connectors.ibkr.session import TwsError
from connectors.redis.exact_json import from_json
from connectors.redis.instruments import InstrumentHash
from connectors.redis.link import NotOursError, RedisLink
from connectors.redis.overview import lags
from connectors.redis.partitions import agree
from connectors.redis.publisher import Publisher
from flows.broker.healing import Adopter, Booked, likely, price_of
from flows.broker.tws import tws_of
from flows.common.doors import app_of, enter, wrong_words
from flows.common.logs import set_up_logging
from flows.common.overview import counted
from flows.common.settings import Settings, load_settings
from flows.common.texts import print_table, shown
from state.breaks import Difference, Side, differences
from state.keys import position_key

SPARE_CLIENT_IDS = 8
"""Tried after IBKR_CLIENT_ID + 1; that one itself is the router's."""
BOOKED_WITHIN_S = 10.0


@dataclass(frozen=True)
class Book:
    """A position as the flow has it."""

    account: str | None
    symbol: str
    qty: Decimal
    avg_price: Decimal | None
    con_id: str | None = None
    stream_id: str = ""
    """The entry that caused it."""


@dataclass(frozen=True)
class Comparison:
    """One position on both sides."""

    account: str | None
    symbol: str
    book: Book | None
    """None if we have none."""
    held: Sequence[Held]
    """What the broker holds: none, one, or several contracts or accounts."""
    difference: Difference | None = None
    """How they differ; None if they do not."""

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
        return price_of(self.held)

    @property
    def is_break(self) -> bool:
        return self.difference is not None


def compare(books: Iterable[Book], positions: Iterable[Held]) -> list[Comparison]:
    """Pair our books with the broker's positions, in order of key; flat on both sides: left out."""
    by_key = {position_key(book.symbol, book.account): book for book in books}
    held: dict[str, list[Held]] = defaultdict(list)
    sides: dict[str, Side] = {}
    for position in positions:
        key = position_key(position.symbol, position.account)
        shared = key not in by_key and position.symbol in by_key
        held[position.symbol if shared else key].append(position)
        sides[key] = _broker_side(position, sides.get(key))
    ours = {
        key: Side(book.account, book.symbol, book.qty, book.avg_price, book.con_id)
        for key, book in by_key.items()
    }
    accounts = {side.account for side in (*ours.values(), *sides.values()) if side.account}
    found = differences(ours, sides, accounts)
    pairs = [_pair(by_key.get(key), held[key], found.get(key)) for key in sorted({*by_key, *held})]
    return [pair for pair in pairs if pair.ours or pair.theirs]


def _broker_side(position: Held, of_the_same_name: Side | None) -> Side:
    qty = Decimal(position.qty)
    price = Decimal(position.avg_price) if position.avg_price else None
    if of_the_same_name is not None:
        return of_the_same_name._replace(qty=of_the_same_name.qty + qty, avg_price=None)
    return Side(position.account, position.symbol, qty, price, position.con_id or None)


def _pair(book: Book | None, held: Sequence[Held], difference: Difference | None) -> Comparison:
    one = held[0] if book is None else book
    return Comparison(one.account, one.symbol, book, held, difference)


# --- asking both sides ---------------------------------------------------------------------


def read_books(link: RedisLink, positions_hash: str) -> list[Book]:
    """Read the flow's positions."""
    values: Any = link.call(lambda client: client.hgetall(positions_hash))
    return [_book(key, value) for key, value in values.items()]


def _book(key: bytes, value: bytes) -> Book:
    try:
        record = from_json(value)
        con_id = record.get("con_id")
        return Book(
            record["account"], record["symbol"], record["qty"], record["avg_price"],
            None if con_id is None else str(con_id), record.get("stream_id", ""),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotOursError(
            f"position {key.decode(errors='backslashreplace')!r}: expected a JSON object with "
            f"account, symbol, qty and avg_price, found {value[:80]!r}"
        ) from error


class DirectRegister:
    """The hash `instruments` for a program that has nothing else to do meanwhile."""

    def __init__(self, instruments: InstrumentHash) -> None:
        self._hash = instruments

    async def known(self) -> dict[int, Record]:
        return self._hash.known()

    async def claim(self, con_id: int, names: Sequence[str], record: Record | None) -> Record:
        return self._hash.claim(con_id, names, record)


def ask_tws(settings: Settings, link: RedisLink) -> Account:
    """Read the broker's positions, beside a router that holds IBKR_CLIENT_ID."""
    tws = tws_of(settings, settings.ibkr_client_id + 1)
    names = InstrumentHash(link, settings.instruments_hash, settings.positions_hash)
    accounts = Accounts(settings.ibkr_accounts)
    return asyncio.run(ask_account(tws, SPARE_CLIENT_IDS, DirectRegister(names), accounts))


# --- adopting --------------------------------------------------------------------------------


def adopt(
    pairs: Iterable[Comparison], account: Account, adopter: Adopter
) -> tuple[set[str], list[str]]:
    """Publish an opening for each break that one heals.

    Returns the keys adopted, and of the others why not.
    """
    adopted, notes = set(), []
    for pair in pairs:
        if pair.difference is None:
            continue
        booked = None
        if pair.book is not None:
            booked = Booked(pair.book.qty, pair.book.avg_price, pair.book.stream_id)
        traded = account.traded.get(pair.key, ())
        why_not = adopter.adopt(pair.key, pair.difference, booked, pair.held, traded)
        if why_not:
            notes.append(f"{pair.key}: {why_not}")
        else:
            adopted.add(pair.key)
    return adopted, notes


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
        names = shown(pair.account or ""), shown(pair.symbol)
        table.add_row(*names, *texts, verdict, style=style)
    print_table(table)


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
        bool,
        typer.Option("--adopt", help="Publish an opening for what was held before."),
    ] = False,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="[KEY=]PRICE", help="An opening's price, where it cannot be derived."),
    ] = None,
) -> None:
    """Compare our positions with IBKR's. Exit code 1: a break; 2: one side cannot be asked."""
    prices = dict(map(_priced, price or ()))
    if prices and not adopting:
        raise wrong_words("--price", "--adopt with it, as it is an opening's")
    settings = load_settings()
    set_up_logging(settings)
    try:
        pairs, adopted, notes = _compare_both(settings, prices if adopting else None)
    except TwsError as error:
        raise SystemExit(f"lotstream: no answer from TWS: {error}") from None
    (show_json if as_json else show_table)(pairs, adopted)
    for pair in pairs:
        if pair.difference is not None and pair.key not in adopted:
            others = {each.key: each.difference for each in pairs if each.difference}
            text = likely(pair.key, pair.difference, pair.held, pair.our_avg_price, others)
            print(f"{pair.key}: {text}", file=sys.stderr if as_json else sys.stdout)
    for note in notes:
        print(note, file=sys.stderr)
    if any(pair.is_break and pair.key not in adopted for pair in pairs):
        raise typer.Exit(1)


def _compare_both(
    settings: Settings, prices: Mapping[str, str] | None
) -> tuple[list[Comparison], set[str], list[str]]:
    """Compare; adopt as well if there are `prices`, none of which needs to be given."""
    link = RedisLink(settings.redis_url.get_secret_value(), stop=None)
    agree(link, settings.streams, record=False)
    account = ask_tws(settings, link)
    waiting = 0 if prices is None else _wait_for_flow(link, settings.streams)
    books = read_books(link, settings.positions_hash)
    known, notes = _known(books, account.accounts)
    pairs = compare(known, account.positions)
    if prices is None:
        return pairs, set(), notes
    if _figures(ask_tws(settings, link)) != _figures(account):
        nothing = "nothing adopted, as something happened meanwhile: try again"
        return pairs, set(), [*notes, nothing]
    _check_prices(prices, [pair.key for pair in pairs if pair.is_break])
    adopter = Adopter(link, Publisher(link, settings.streams), prices, waiting=waiting)
    adopted, why_not = adopt(pairs, account, adopter)
    return pairs, adopted, [*notes, *why_not]


def _known(books: Sequence[Book], accounts: Sequence[str]) -> tuple[list[Book], list[str]]:
    """Return the books of which the broker's side is known, and what there is of other accounts."""
    known = [book for book in books if book.account is None or book.account in accounts]
    others = Counter(
        book.account
        for book in books
        if book.account is not None and book.account not in accounts and book.qty
    )
    return known, [
        f"account {account}: {counted(count, 'position')} not compared, as this TWS does not have "
        f"the account, or IBKR_ACCOUNTS leaves it out"
        for account, count in sorted(others.items())
    ]


def _check_prices(prices: Mapping[str, str], breaks: Sequence[str]) -> None:
    """Give up if a price is for no break, or could be for several."""
    there = ", ".join(breaks) or "none"
    for key in sorted(prices):
        if key in breaks:
            continue
        if key:
            raise SystemExit(
                f"lotstream: --price: expected a position that differs ({there}), found {key}"
            )
        if len(breaks) > 1:
            raise SystemExit(
                f"lotstream: --price: expected KEY=PRICE, as several positions differ ({there}); "
                f"found a price alone"
            )


def _figures(account: Account) -> tuple[list[Held], dict[str, list[str]]]:
    return [each._replace(doubt="") for each in account.positions], account.traded


def _wait_for_flow(link: RedisLink, streams: Sequence[str]) -> int:
    """Give the flow a while to book what there is; return how many entries it has not."""
    link.client.set_response_callback("XINFO STREAM", lambda reply, **_: reply)
    until = time.monotonic() + BOOKED_WITHIN_S
    while True:
        waiting = link.call(lambda client: sum(filter(None, lags(client, streams))))
        if not waiting or time.monotonic() > until:
            return waiting
        time.sleep(0.2)


def _priced(text: str) -> tuple[str, str]:
    """Take `KEY=PRICE` apart; a key may hold an equals sign, a price does not."""
    key, _, price = text.rpartition("=")
    if re.fullmatch(r"\d+(\.\d{1,10})?", price) is None:
        raise wrong_words("--price", "[KEY=]PRICE", text)
    return key, price


app = app_of(reconcile)

if __name__ == "__main__":
    enter(app, "reconcile", failure=2)
