"""Data sets that the real flow wrote, for the notebooks to read.

Messages go into a real stream, `python -m bytewax.run flows.positions` books them, and
what it left in the hash is kept beside what it wrote to Parquet: the hash is what the
notebooks' figures are checked against. The valuations are of each day's end.
"""

import random
from pathlib import Path
from typing import NamedTuple

from flows.demo.days import value_days
from tests.support.flow_process import FlowProcess, Row, read_hash
from tests.support.servers import RedisServer

Fields = dict[str, str | int]


class Written(NamedTuple):
    """What a run of the flow was told, and what it left."""

    messages: list[tuple[int, Fields]]
    data_dir: Path
    positions: dict[str, Row]
    """The hash: key to members, numbers as Decimal."""


def written_by_flow(
    server: RedisServer, directory: Path, messages: list[tuple[int, Fields]]
) -> Written:
    """Run the flow on messages until it has committed all of them.

    messages: milliseconds of arrival, which make the entry ids, and fields; in order.
    """
    flow = FlowProcess(directory, server.url)
    with server.client() as client:
        client.flushall()
        for arrival, fields in messages:
            client.xadd("executions", fields, id=f"{arrival}-*")
        with flow:
            if messages:
                flow.until_committed(client)
            else:
                flow.until(flow.recovery_dir.exists, "it heeds signals")
            assert flow.stop() == 0
        assert not client.exists("executions:dead")
        if messages:
            value_days(flow.data_dir)
        return Written(messages, flow.data_dir, read_hash(client))


# --- messages ------------------------------------------------------------------------

MINUTE, DAY = 60_000, 86_400_000
START = 1_704_205_800_000
"""2024-01-02 14:30 UTC: the New York open."""

INSTRUMENTS: list[tuple[str, Fields, float]] = [
    ("AAPL", {"sec_type": "STK", "currency": "USD"}, 185.0),
    ("MSFT", {"sec_type": "STK", "currency": "USD"}, 375.0),
    ("NVDA", {"sec_type": "STK", "currency": "USD"}, 480.0),
    ("SPY   240119C00475000", {"sec_type": "OPT", "currency": "USD", "multiplier": 100}, 4.2),
    ("ESH4", {"sec_type": "FUT", "currency": "USD", "multiplier": 50}, 4790.0),
    ("SAP", {"sec_type": "STK", "currency": "EUR"}, 139.0),
    ("FDXM 20240315", {"sec_type": "FUT", "currency": "EUR", "multiplier": "5"}, 16800.0),
]
ACCOUNTS = ("DU1000001", "DU1000002")
STRATEGIES = ("", "trend", "revert")


def one_row() -> list[tuple[int, Fields]]:
    """Return a single execution, without account, currency or commission."""
    fields: Fields = {
        "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "185.5",
        "order_id": 1, "exec_id": "only-one", "timestamp": START,
    }  # fmt: skip
    return [(START + 200, fields)]


def a_year_of_trading(executions: int = 400, seed: int = 7) -> list[tuple[int, Fields]]:
    """Return what two accounts do in two currencies, with all that a broker's reports bring.

    Commissions with the execution and after it, corrections, busts, executions that come
    days late, duplicates, and what `_rarities` adds.
    """
    chance = random.Random(seed)
    fills = [_fill(chance, number, executions) for number in range(executions)]
    messages = [arrival for fill in fills for arrival in _as_reported(chance, fill)]
    messages += _rarities()
    return sorted(messages, key=lambda message: message[0])


def _fill(chance: random.Random, number: int, of: int) -> Fields:
    symbol, instrument, start_price = chance.choice(INSTRUMENTS)
    time_of_day = chance.randrange(0, 390 * MINUTE, 1000)
    happened = START + number * 420 // of * DAY + time_of_day
    drift = 1 + 0.2 * number / of + chance.gauss(0, 0.02)
    return {
        "account": chance.choice(ACCOUNTS),
        "symbol": symbol,
        **instrument,
        "side": chance.choice(["BUY", "SELL"]),
        "fill_qty": chance.choice([1, 2, 3, 5, 10]),
        "fill_price": f"{start_price * drift:.2f}",
        "order_id": number // 2,
        **({"order_ref": STRATEGIES[number % 3]} if number % 3 else {}),
        "exec_id": f"0000e0d5.{number:08x}.01.01",
        "timestamp": happened,
    }


def _as_reported(chance: random.Random, fill: Fields) -> list[tuple[int, Fields]]:
    """Return how an execution arrives: mostly at once, its commission with it or after it."""
    happened = int(fill["timestamp"])
    arrival = happened + (6 * DAY if chance.random() < 0.08 else 250)
    cost = f"{0.35 + chance.random():.4f}"
    if chance.random() < 0.5:
        reports: list[tuple[int, Fields]] = [(arrival, {**fill, "commission": cost})]
    else:
        of_execution = ("account", "symbol", "currency", "exec_id", "timestamp")
        report = {**{name: fill[name] for name in of_execution}, "type": "commission"}
        reports = [(arrival, fill), (arrival + 800, {**report, "commission": cost})]
    if chance.random() < 0.05:
        reports.append((arrival + 900, fill))  # the same again
    if chance.random() < 0.04:
        bust = chance.random() < 0.3
        exec_id = str(fill["exec_id"])[:-2] + "02"
        price = f"{float(fill['fill_price']) * 1.001:.2f}"
        revised = {**fill, "exec_id": exec_id, "fill_price": price}
        reports.append((arrival + DAY, {**revised, "fill_qty": 0} if bust else revised))
    return reports


def _rarities() -> list[tuple[int, Fields]]:
    """Return what a year brings once or never.

    An opening position and its split, a stock that was held for more than a year, one
    that had a cost, a split that left a fraction away, transfers and an adjustment, and,
    without an account, two positions without any execution: one is an opening alone, the
    other's only execution was busted.
    """
    nvda: Fields = {"account": ACCOUNTS[0], "symbol": "NVDA", "currency": "USD"}
    opening: Fields = {"type": "opening", "qty": 40, "avg_price": "412.3456"}
    ko: Fields = {"account": ACCOUNTS[0], "symbol": "KO", "fill_qty": 50, "order_id": 0}
    vz: Fields = {
        "symbol": "VZ", "side": "SELL", "fill_price": "39", "order_id": 0, "currency": "EUR",
        "timestamp": START,
    }  # fmt: skip
    xom: Fields = {"account": ACCOUNTS[1], "symbol": "XOM"}
    traded: Fields = {**xom, "order_id": 0, "sec_type": "STK", "con_id": 13977}
    told: list[Fields] = [
        {**nvda, **opening, "timestamp": START - DAY},
        {**nvda, "type": "split", "ratio": "10:1", "timestamp": START + 158 * DAY},
        {**ko, "side": "BUY", "fill_price": "59.5", "exec_id": "ko-1", "timestamp": START},
        {**ko, "side": "SELL", "fill_price": "63", "exec_id": "ko-2",
         "timestamp": START + 400 * DAY},
        {"symbol": "T", **opening, "timestamp": START},
        {**vz, "fill_qty": 5, "exec_id": "0000e0d5.ffffffff.01.01"},
        {**vz, "fill_qty": 0, "exec_id": "0000e0d5.ffffffff.01.02"},
        {**xom, "type": "opening", "exec_id": "before", "qty": 7, "cost_basis": "700.07",
         "timestamp": START - DAY},
        {**traded, "side": "BUY", "fill_qty": 10, "fill_price": "100", "exec_id": "xom-1",
         "commission": "1.25", "commission_currency": "EUR", "basis_adjustment": "-3.5",
         "order_ref": "assigned", "timestamp": START},
        {**xom, "type": "cost", "per_unit": "-0.4", "timestamp": START + DAY},
        {**xom, "type": "transfer", "exec_id": "to another broker", "qty": 3,
         "timestamp": START + 2 * DAY},
        {**xom, "type": "transfer", "direction": "IN", "exec_id": "spin-off", "qty": 5,
         "avg_price": "90", "opened": START - 9 * DAY, "timestamp": START + 3 * DAY},
        {**xom, "type": "split", "ratio": "1:2", "places": 0, "timestamp": START + 4 * DAY},
        {**xom, "type": "instrument", "con_id": 999, "timestamp": START + 4 * DAY},
        {**traded, "con_id": 999, "side": "SELL", "fill_qty": 7, "fill_price": "230",
         "exec_id": "xom-2", "commission": "0.7", "timestamp": START + 5 * DAY},
    ]  # fmt: skip
    return [(int(fields["timestamp"]) + 500, fields) for fields in told]
