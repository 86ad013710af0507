"""What the flow is compared with: the bare limit, and what others do.

The bare loop reads and does nothing: no reader of the stream in Python is faster.
The handler is what most people write first: read one, update one, write one. Its
arithmetic is exact, and it has none of the flow's promises.
"""

import json
from collections import defaultdict, deque
from collections.abc import Sequence
from decimal import Decimal
from importlib import import_module
from time import perf_counter
from typing import Any

import redis

from connectors.redis.link import send
from connectors.redis.source import entries_of
from flows.bench.rig import STREAM, Rig, no_collection
from state.exact import ONE, to_text
from state.messages import Execution

_READ_COUNT = 2_000


def bare_rate(rig: Rig) -> float:
    """Return entries a second of a loop that reads all of the stream and drops it."""
    read, last = 0, b"0-0"
    with rig.raw_client() as client, no_collection():
        start = perf_counter()
        while entries := entries_of(
            send(client, "XREAD", "COUNT", _READ_COUNT, "STREAMS", STREAM, last)
        ):
            read, last = read + len(entries), entries[-1][0]
        return read / (perf_counter() - start)


class SimpleBook:
    """A FIFO position as it is written in an afternoon: Decimals, a deque of lots."""

    def __init__(self) -> None:
        self.lots: deque[tuple[Decimal, Decimal]] = deque()
        """Signed quantity and price."""
        self.realized = Decimal(0)

    def apply(self, qty: Decimal, price: Decimal) -> None:
        """Book a fill; the quantity is signed."""
        while qty and self.lots and (self.lots[0][0] > 0) != (qty > 0):
            lot_qty, lot_price = self.lots.popleft()
            closed = min(abs(qty), abs(lot_qty)).copy_sign(lot_qty)
            self.realized += (price - lot_price) * closed
            qty += closed
            if lot_qty != closed:
                self.lots.appendleft((lot_qty - closed, lot_price))
        if qty:
            self.lots.append((qty, price))

    def to_json(self) -> str:
        """Return it for the hash."""
        return json.dumps(
            {
                "qty": str(sum(qty for qty, _ in self.lots)),
                "cost_basis": str(sum(qty * price for qty, price in self.lots)),
                "realized_pnl": str(self.realized),
            }
        )


def handler_rate(rig: Rig, seconds: float) -> float:
    """Return entries a second of a handler that reads one, updates one and writes one."""
    books: defaultdict[str, SimpleBook] = defaultdict(SimpleBook)
    last, handled, start = "0-0", 0, perf_counter()
    with redis.Redis.from_url(rig.url, protocol=2, decode_responses=True) as client:
        while perf_counter() - start < seconds:
            entries = entries_of(client.xread({STREAM: last}, count=1))
            if not entries:
                break
            last, fields = entries[0]
            qty = Decimal(fields["fill_qty"])
            book = books[fields["symbol"]]
            book.apply(qty if fields["side"] == "BUY" else -qty, Decimal(fields["fill_price"]))
            client.hset("handler", fields["symbol"], book.to_json())
            handled += 1
        return handled / (perf_counter() - start)


def simple_book_us(books: Sequence[Sequence[Execution]]) -> float:
    """Return the microseconds that an execution takes in the handler's books."""
    fills = [
        [(Decimal(to_text(fill.qty)), Decimal(to_text(fill.price))) for fill in book]
        for book in books
    ]
    start = perf_counter()
    for of_book in fills:
        simple = SimpleBook()
        for qty, price in of_book:
            simple.apply(qty, price)
    return (perf_counter() - start) / sum(map(len, fills)) * 1e6


# --- nautilus_trader ------------------------------------------------------------------------


def has_nautilus() -> bool:
    """Tell whether nautilus_trader is installed; tried with version 1.221."""
    try:
        import_module("nautilus_trader.model")
    except ImportError:
        return False
    return True


def nautilus_us(books: Sequence[Sequence[Execution]]) -> float | None:
    """Return the microseconds that an execution takes in nautilus_trader's `Position.apply`.

    Its events are made before. None if it is not installed.
    """
    if not has_nautilus():
        return None
    position = import_module("nautilus_trader.model").Position
    instrument = _equity()
    taken = 0.0
    for of_book in books:
        first, *rest = [_filled(instrument, number, fill) for number, fill in enumerate(of_book)]
        held = position(instrument, first)
        start = perf_counter()
        for filled in rest:
            held.apply(filled)
        taken += perf_counter() - start
    return taken / sum(len(book) - 1 for book in books) * 1e6


def _equity() -> Any:
    model = import_module("nautilus_trader.model")
    return import_module("nautilus_trader.model.instruments").Equity(
        instrument_id=model.InstrumentId.from_str("SYM.SIM"),
        raw_symbol=model.Symbol("SYM"),
        currency=model.Currency.from_str("USD"),
        price_precision=2,
        price_increment=model.Price.from_str("0.01"),
        lot_size=model.Quantity.from_int(1),
        ts_event=0,
        ts_init=0,
    )


def _filled(instrument: Any, number: int, fill: Execution) -> Any:
    model, enums = (
        import_module("nautilus_trader.model"),
        import_module("nautilus_trader.model.enums"),
    )
    dollars = model.Currency.from_str("USD")
    nanoseconds = fill.timestamp * 1_000_000
    return import_module("nautilus_trader.model.events").OrderFilled(
        trader_id=model.TraderId("T-1"),
        strategy_id=model.StrategyId("S-1"),
        instrument_id=instrument.id,
        client_order_id=model.ClientOrderId(f"O-{number}"),
        venue_order_id=model.VenueOrderId(str(number)),
        account_id=model.AccountId("SIM-1"),
        trade_id=model.TradeId(fill.exec_id),
        position_id=model.PositionId("P-1"),
        order_side=enums.OrderSide.BUY if fill.qty > 0 else enums.OrderSide.SELL,
        order_type=enums.OrderType.LIMIT,
        last_qty=model.Quantity.from_int(abs(fill.qty) // ONE),
        last_px=model.Price(fill.price / ONE, 2),
        currency=dollars,
        commission=model.Money((fill.commission or 0) / ONE, dollars),
        liquidity_side=enums.LiquiditySide.TAKER,
        event_id=import_module("nautilus_trader.core.uuid").UUID4(),
        ts_event=nanoseconds,
        ts_init=nanoseconds,
    )
