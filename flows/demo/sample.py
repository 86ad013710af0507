"""An invented trading history: what `python -m flows.demo` publishes.

A trader without foresight trades in market hours, in three accounts and currencies,
and the broker reports it as brokers do: partial fills within a second, commissions in
messages of their own, executions that arrive late or twice, corrections, busts.
Nothing is left to the moment: the same arguments give the same messages.
"""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import NamedTuple

from flows.demo.market import (
    A_FEW,
    EUROPE,
    INSTRUMENTS,
    TRADING_DAYS,
    Instrument,
    Prices,
)

# Of so many executions one arrives late, arrives twice, is corrected, is busted.
_LATE, _TWICE, _CORRECTED, _BUSTED = 60, 90, 150, 400

# What a trader draws from: orders a day, units to hold, parts that an order fills in.
_ORDERS = (0, 1, 1, 1, 1, 2, 2, 3, 4)
_UNITS = (-2, -1, 0, 0, 1, 1, 2, 3)
_PARTS = (1, 1, 2, 2, 3, 4)

_OPENING = {
    "type": "opening", "account": EUROPE, "symbol": "SAP", "currency": "EUR", "qty": "400",
    "avg_price": "122.44", "timestamp": "1683014400000",
}  # fmt: skip
"""Held since May 2023, before anything that the stream tells."""

_SEED = 11

_Message = dict[str, str]


class Sample(NamedTuple):
    """A history as it is published."""

    messages: list[_Message]
    """In order of arrival."""
    counts: Counter[str]
    """How many of them are an execution, commission, duplicate, correction, bust."""
    late: int
    """How many executions come after later ones."""


def history(days: int = len(TRADING_DAYS), *, few: bool = False) -> Sample:
    """Invent the messages of so many trading days, the last of which is always the same.

    few: only the instruments that make a short table.
    """
    start = datetime.fromisoformat(f"{TRADING_DAYS[-days]}T00:00+00:00")
    broker = _Broker(Random(f"{_SEED} {days} {few}"))  # noqa: S311  # chance, not secrecy
    broker.send(start, "opening", _OPENING)
    trader = _Trader(broker, start)
    for when, account, instrument in _orders(broker.rng, days, A_FEW if few else INSTRUMENTS):
        trader.trade(when, account, instrument)
    broker.sent.sort(key=lambda sent: sent[:2])
    return Sample([message for _, _, message in broker.sent], broker.counts, broker.late)


def _orders(
    rng: Random, days: int, instruments: list[Instrument]
) -> list[tuple[datetime, str, Instrument]]:
    """Draw when which account trades what, in order of time."""
    orders = []
    for day in TRADING_DAYS[-days:]:
        for instrument in instruments:
            opens, length = instrument.market.session(day)
            trades = instrument.first <= day <= instrument.last
            for account in instrument.accounts if trades else ():
                number = rng.choice(_ORDERS) if day < instrument.last else 1
                for _ in range(number):
                    # Not in the last seconds, which the parts of the order may need.
                    seconds = rng.randrange(int(length.total_seconds()) - 60)
                    orders.append((opens + timedelta(seconds=seconds), account, instrument))
    return sorted(orders, key=lambda order: (order[0], order[1], order[2].symbol))


class _Broker:
    """Keeps the messages that a broker would send, each with the time of its arrival."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.sent: list[tuple[datetime, int, _Message]] = []
        self.counts: Counter[str] = Counter()
        self.late = 0

    def send(self, when: datetime, kind: str, message: _Message) -> None:
        self.counts[kind] += 1
        self.sent.append((when, len(self.sent), message))

    def report(self, when: datetime, message: _Message, instrument: Instrument) -> bool:
        """Send an execution, its commission and what else comes of it; tell if it stands."""
        number = self.counts["execution"]
        arrival = when
        if _falls_on(number, _LATE):
            self.late += 1
            arrival += timedelta(minutes=self.rng.randint(20, 120))
        self.send(arrival, "execution", message)
        self.send(arrival + _SECOND, "commission", _commission(message, when, instrument))
        if _falls_on(number, _TWICE):
            self._send_later(when, "duplicate", message)
        if _falls_on(number, _CORRECTED):
            price = Decimal(message["fill_price"]) + Decimal(instrument.tick)
            self._send_later(when, "correction", _revised(message, fill_price=str(price)))
        if _falls_on(number, _BUSTED):
            self._send_later(when, "bust", _revised(message, fill_qty="0"))
            return False
        return True

    def _send_later(self, when: datetime, kind: str, message: _Message) -> None:
        self.send(when + timedelta(minutes=self.rng.randint(2, 30)), kind, message)


class _Trader:
    """Moves each holding to a size drawn by chance."""

    def __init__(self, broker: _Broker, start: datetime) -> None:
        self._broker, self._rng = broker, broker.rng
        self._prices = Prices(broker.rng, start)
        self._held: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._held[_OPENING["account"], _OPENING["symbol"]] = int(_OPENING["qty"])
        self._orders = self._executions = 0

    def trade(self, when: datetime, account: str, instrument: Instrument) -> None:
        """Place one order and report its executions."""
        units = self._rng.choice(_UNITS) if when.date() < instrument.last else 0
        if not instrument.may_be_short:
            units = abs(units)
        wanted = units * instrument.unit - self._held[account, instrument.symbol]
        self._orders += 1
        for part in self._parts(abs(wanted), instrument.unit):
            when += timedelta(seconds=self._rng.choice((0, 0, 1, 2)))
            signed = part if wanted > 0 else -part
            message = self._execution(when, account, instrument, signed)
            if self._broker.report(when, message, instrument):
                self._held[account, instrument.symbol] += signed

    def _parts(self, qty: int, unit: int) -> list[int]:
        """Divide an order's quantity into those of its executions."""
        step = max(1, unit // 20)
        steps = qty // step
        if not steps:
            return []
        cuts = self._rng.sample(range(1, steps), min(self._rng.choice(_PARTS), steps) - 1)
        cuts.sort()
        return [(after - before) * step for before, after in pairwise([0, *cuts, steps])]

    def _execution(
        self, when: datetime, account: str, instrument: Instrument, signed: int
    ) -> _Message:
        self._executions += 1
        tick = Decimal(instrument.tick)
        ticks = round(self._prices.at(instrument, when) / float(tick))
        return {
            "account": account,
            "symbol": instrument.symbol,
            "sec_type": instrument.sec_type,
            "currency": instrument.currency,
            "exchange": instrument.market.exchange,
            "multiplier": instrument.multiplier,
            "side": "BUY" if signed > 0 else "SELL",
            "fill_qty": str(abs(signed)),
            "fill_price": str(max(ticks, 1) * tick),
            "order_id": str(self._orders),
            "order_ref": _STRATEGIES[self._orders % len(_STRATEGIES)],
            "exec_id": f"0000e0d5.{0x67750000 + self._executions:08x}.01.01",
            "timestamp": _milliseconds(when),
        }


_SECOND = timedelta(seconds=1)
_STRATEGIES = ("trend", "revert", "")
"""By order; the last is an order that names none."""


def _falls_on(number: int, every: int) -> bool:
    return number % every == every // 2


def _commission(execution: _Message, when: datetime, instrument: Instrument) -> _Message:
    return {
        "type": "commission",
        **{name: execution[name] for name in ("account", "symbol", "exec_id", "currency")},
        "commission": _cost(execution, instrument),
        "timestamp": _milliseconds(when + _SECOND),
    }


def _revised(execution: _Message, **changes: str) -> _Message:
    """Return an execution's next revision."""
    return {**execution, "exec_id": execution["exec_id"][:-2] + "02", **changes}


def _cost(execution: _Message, instrument: Instrument) -> str:
    qty, fees = Decimal(execution["fill_qty"]), instrument.fees
    value = qty * Decimal(execution["fill_price"]) * Decimal(instrument.multiplier)
    cost = max(qty * Decimal(fees.per_unit), value * Decimal(fees.share), Decimal(fees.least))
    return str(cost.quantize(Decimal("0.000001")))


def _milliseconds(when: datetime) -> str:
    return str(int(when.timestamp()) * 1000)
