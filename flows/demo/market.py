"""The invented market of the sample: what trades where, when and at what price.

Prices are random walks; an option is priced from its underlying's. The names are
real, the figures are chance.
"""

import math
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from statistics import NormalDist
from typing import NamedTuple
from zoneinfo import ZoneInfo

FIRST_DAY, LAST_DAY = date(2025, 1, 2), date(2025, 6, 30)

_HOLIDAYS = (
    (1, 9), (1, 20), (2, 17), (4, 18), (4, 21), (5, 1), (5, 5), (5, 26), (6, 19),
)  # fmt: skip
"""When one of the exchanges is closed, nobody trades at all."""

_SATURDAY = 5

TRADING_DAYS = [
    day
    for day in (FIRST_DAY + timedelta(n) for n in range((LAST_DAY - FIRST_DAY).days + 1))
    if day.weekday() < _SATURDAY and (day.month, day.day) not in _HOLIDAYS
]


class Market(NamedTuple):
    """Where and when instruments trade."""

    exchange: str
    zone: ZoneInfo
    opens: time
    closes: time

    def session(self, day: date) -> tuple[datetime, timedelta]:
        """Return when a day's trading begins, in UTC, and how long it lasts."""
        opens, closes = (
            datetime.combine(day, at, self.zone).astimezone(UTC) for at in (self.opens, self.closes)
        )
        return opens, closes - opens


US_STOCKS = Market("NYSE", ZoneInfo("America/New_York"), time(9, 30), time(16))
US_OPTIONS = US_STOCKS._replace(exchange="CBOE")
US_FUTURES = US_STOCKS._replace(exchange="CME")
XETRA = Market("IBIS", ZoneInfo("Europe/Berlin"), time(9), time(17, 30))
EUREX = XETRA._replace(exchange="EUREX")
LONDON = Market("LSE", ZoneInfo("Europe/London"), time(8), time(16, 30))
FOREX = LONDON._replace(exchange="IDEALPRO")


class Fees(NamedTuple):
    """What an execution costs: the largest of the three."""

    per_unit: str = "0"
    share: str = "0"
    """Of quantity x price x multiplier."""
    least: str = "0"


class Option(NamedTuple):
    """What an option is priced from."""

    underlying: str
    strike: float
    sign: int
    """1 for a call, -1 for a put."""


class Instrument(NamedTuple):
    """Something to trade."""

    symbol: str
    sec_type: str
    market: Market
    currency: str
    price: float
    """At the beginning."""
    volatility: float
    """Standard deviation of a year's returns."""
    tick: str
    unit: int
    """Quantity of a small order."""
    accounts: tuple[str, ...]
    fees: Fees
    multiplier: str = "1"
    first: date = FIRST_DAY
    last: date = date.max
    """The day by which it must be closed."""
    option: Option | None = None
    may_be_short: bool = True


STOCKS, FUTURES, EUROPE = "DU1000001", "DU1000002", "DU1000003"
"""The accounts, by what they trade most."""


def _us_stock(symbol: str, price: float, volatility: float, *accounts: str) -> Instrument:
    return Instrument(
        symbol, "STK", US_STOCKS, "USD", price, volatility, "0.01", 100, accounts or (STOCKS,),
        Fees(per_unit="0.0035", least="0.35"),
    )  # fmt: skip


def _eu_stock(
    symbol: str, market: Market, currency: str, price: float, volatility: float
) -> Instrument:
    return Instrument(
        symbol, "STK", market, currency, price, volatility, "0.02", 50, (EUROPE,),
        Fees(share="0.0005", least="1.25"), may_be_short=False,
    )  # fmt: skip


def _option(symbol: str, first: date) -> Instrument:
    """Describe an option; its OCC symbol tells underlying, expiry, right and strike."""
    expiry = date(2000 + int(symbol[6:8]), int(symbol[8:10]), int(symbol[10:12]))
    option = Option(symbol[:6].strip(), int(symbol[13:]) / 1000, 1 if symbol[12] == "C" else -1)
    return Instrument(
        symbol, "OPT", US_OPTIONS, "USD", 0.0, 0.0, "0.01", 2, (STOCKS,),
        Fees(per_unit="0.70", least="1"), "100", first, expiry, option,
    )  # fmt: skip


def _future(
    symbol: str, currency: str, price: float, *, tick: str, multiplier: str, first: date, last: date
) -> Instrument:
    return Instrument(
        symbol, "FUT", EUREX if currency == "EUR" else US_FUTURES, currency, price, 0.18, tick, 1,
        (FUTURES,), Fees(per_unit="2.25"), multiplier, first, last,
    )  # fmt: skip


def _forex(symbol: str, currency: str, price: float) -> Instrument:
    return Instrument(
        symbol, "CASH", FOREX, currency, price, 0.07, "0.00005", 25_000, (FUTURES,),
        Fees(share="0.00002", least="2"),
    )  # fmt: skip


A_FEW = [
    _us_stock("AAPL", 201.5, 0.28, STOCKS, EUROPE),
    _us_stock("NVDA", 138.0, 0.50),
    _eu_stock("SAP", XETRA, "EUR", 240.0, 0.26),
    _eu_stock("SHEL", LONDON, "GBP", 25.1, 0.22),
    _option("AAPL  250718C00205000", date(2025, 6, 2)),
    _option("NVDA  250627P00140000", date(2025, 5, 27)),
    _future(
        "ESU5", "USD", 6050.0, tick="0.25", multiplier="50", first=date(2025, 6, 16), last=date.max
    ),
    _forex("EUR.USD", "USD", 1.1525),
]

INSTRUMENTS = [
    *A_FEW,
    _us_stock("MSFT", 418.0, 0.22),
    _us_stock("TSLA", 330.0, 0.60),
    _us_stock("AMZN", 205.0, 0.32),
    _us_stock("SPY", 584.0, 0.17, STOCKS, FUTURES),
    _eu_stock("SIE", XETRA, "EUR", 190.0, 0.27),
    _eu_stock("AZN", LONDON, "GBP", 105.0, 0.23),
    _option("AAPL  250321C00200000", date(2025, 1, 6)),
    _option("SPY   250516P00570000", date(2025, 3, 24)),
    _future(
        "ESH5", "USD", 5930.0, tick="0.25", multiplier="50", first=FIRST_DAY, last=date(2025, 3, 14)
    ),
    _future(
        "ESM5",
        "USD",
        5980.0,
        tick="0.25",
        multiplier="50",
        first=date(2025, 3, 14),
        last=date(2025, 6, 13),
    ),
    _future(
        "CLN5",
        "USD",
        62.0,
        tick="0.01",
        multiplier="1000",
        first=date(2025, 5, 20),
        last=date(2025, 6, 18),
    ),
    _future(
        "FESX 20250620 M",
        "EUR",
        5300.0,
        tick="1",
        multiplier="10",
        first=date(2025, 3, 21),
        last=date(2025, 6, 20),
    ),
    _forex("EUR.GBP", "GBP", 0.8450),
]


class Prices:
    """Random walks that are looked at now and then."""

    def __init__(self, rng: Random, start: datetime) -> None:
        self._rng = rng
        self._last = {i.symbol: (start, i.price) for i in INSTRUMENTS}
        self._volatility = {i.symbol: i.volatility for i in INSTRUMENTS}

    def at(self, instrument: Instrument, when: datetime) -> float:
        """Return the instrument's price at a time."""
        if instrument.option is None:
            return self._walk(instrument.symbol, when)
        expiry = datetime.combine(instrument.last, time(21), UTC)
        return self._premium(instrument.option, _years(expiry - when), when)

    def _walk(self, symbol: str, when: datetime) -> float:
        before, price = self._last[symbol]
        # The parts of an order may come after the next order's first.
        if when > before:
            spread = self._volatility[symbol] * math.sqrt(_years(when - before))
            price *= math.exp(self._rng.gauss(0, spread) - spread**2 / 2)
            self._last[symbol] = (when, price)
        return price

    def _premium(self, option: Option, years: float, when: datetime) -> float:
        # Bachelier's: what the underlying ends at is normally distributed.
        price = self._walk(option.underlying, when)
        spread = price * self._volatility[option.underlying] * math.sqrt(years)
        gain = option.sign * (price - option.strike)
        normal = NormalDist()
        return gain * normal.cdf(gain / spread) + spread * normal.pdf(gain / spread)


def _years(duration: timedelta) -> float:
    return duration / timedelta(days=365)
