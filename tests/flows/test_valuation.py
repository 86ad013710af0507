"""The second flow beside the first: killed, left without marks, and given wrong ones."""

import math
import os
import random
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import redis as redis_py

from connectors.parquet.minutes import MinuteFiles
from connectors.redis.exact_json import from_json
from tests.support.flow_process import FlowProcess, Row, add, read_hash, until
from tests.support.servers import free_port

SYMBOLS = ("A", "B", "C", "D")
STALE_S = 3


def valuing(directory: Path, url: str, **settings: str) -> FlowProcess:
    """Return a copy of the second flow."""
    return FlowProcess(
        directory,
        url,
        recovery=False,
        flow="flows.valuation",
        MARK_STALE_S=str(STALE_S),
        **settings,
    )


class Market:
    """Publishes executions, marks and what is no mark, and knows the marks that count."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._rng = url, random.Random(seed)
        self.marks: dict[str, tuple[int, str]] = {}
        self._count = 0

    def publish(self, client: redis_py.Redis) -> None:
        rng, now = self._rng, time.time_ns() // 1_000_000
        symbol = rng.choice((*SYMBOLS, "not held"))
        self._count += 1
        if rng.random() < 0.3 and symbol != "not held":
            add(client, {
                "symbol": symbol, "account": rng.choice(("U1", "U2")),
                "side": rng.choice(("BUY", "SELL")), "fill_qty": str(rng.randint(1, 500) / 10),
                "fill_price": str(rng.randint(1, 10_000) / 100), "order_id": "1",
                "exec_id": f"e{self._count}", "timestamp": str(now),
                "multiplier": "100" if symbol == "B" else "1",
            })  # fmt: skip
            return
        at = now + rng.choice((0, 0, 0, -5, 20_000, -3_600_000, 90_000))
        price = f"{rng.randint(-1000, 10**9)}e-{rng.randint(4, 10)}"
        add(client, {"symbol": symbol, "price": price, "timestamp": str(at)}, stream="marks")
        if at <= now + 60_000 and self.marks.get(symbol, (0, ""))[0] <= at:
            self.marks[symbol] = (at, price)
        if rng.random() < 0.1:
            add(client, {"symbol": symbol, "price": "NaN", "timestamp": str(now)}, stream="marks")

    @contextmanager
    def live(self) -> Iterator[None]:
        over = Event()

        def run() -> None:
            with redis_py.Redis.from_url(self._url) as client:
                while not over.wait(0.002):
                    self.publish(client)

        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def as_expected(client: redis_py.Redis, market: Market) -> bool:
    """Tell whether each position is valued exactly by the mark that counts."""
    positions, valuations = read_hash(client), read_hash(client, "valuations")
    return valuations.keys() == positions.keys() and all(
        _worth(position, market) == _figures(valuations[key]) for key, position in positions.items()
    )


def _worth(position: Row, market: Market) -> tuple[Any, ...]:
    qty, at, price = Fraction(position["qty"]), None, None
    worth = None if qty else Fraction(0)
    if position["symbol"] in market.marks:
        at, text = market.marks[position["symbol"]]
        price = Fraction(text)
        worth = qty * price * Fraction(position["multiplier"])
    unrealized = None if worth is None else worth - Fraction(position["cost_basis"])
    total = None if unrealized is None else unrealized + Fraction(position["net_realized_pnl"])
    return (qty, at, price, worth, unrealized, total, position["stream_id"])


def _figures(valuation: Row) -> tuple[Any, ...]:
    names = ("qty", "mark_timestamp", "mark_price", "market_value", "unrealized_pnl", "total_pnl")
    numbers = [None if valuation[name] is None else Fraction(valuation[name]) for name in names]
    return (*numbers, valuation["stream_id"])


def test_whatever_is_killed_each_position_is_valued_exactly_by_the_mark_that_counts(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    market = Market(redis_url, seed=7)
    rng, port = random.Random(7), free_port()
    with (
        FlowProcess(tmp_path / "positions", redis_url) as positions,
        valuing(
            tmp_path / "valuation", redis_url, METRICS_PORT=str(port), BASE_CURRENCY="EUR"
        ) as valuation,
    ):
        with market.live():
            for killed in (valuation, positions, valuation):
                valuation.until(lambda: read_hash(redis, "valuations"), "valuations")
                time.sleep(rng.random())
                killed.kill()
                time.sleep(rng.random())
                killed.start()
        positions.until_committed(redis)
        valuation.until(lambda: as_expected(redis, market), "exact valuations")
        assert "are no marks" in valuation.whole_log
        redis.delete("valuations")
        valuation.until(lambda: as_expected(redis, market), "the deleted valuations")
        _adds_up_in_euros(valuation, redis, port)
        _goes_stale(valuation, redis)
        assert valuation.stop() == 0
        assert positions.stop() == 0
    second = valuing(tmp_path / "refused", redis_url, CHANGES_KEPT="0")
    with second:
        assert second.wait() == 1
        assert "CHANGES_KEPT: expected a number above 0" in second.log


def _goes_stale(valuation: FlowProcess, client: redis_py.Redis) -> None:
    def state() -> Any:
        return {row["state"] for row in read_hash(client, "valuations").values()}

    for symbol in SYMBOLS:
        now = str(time.time_ns() // 1_000_000 + 21_000)
        add(client, {"symbol": symbol, "price": "5", "timestamp": now}, stream="marks")
    valuation.until(lambda: state() == {"live"}, "live valuations")
    valuation.until(lambda: state() == {"stale"}, "stale valuations, without a new mark")


def _adds_up_in_euros(valuation: FlowProcess, client: redis_py.Redis, port: int) -> None:
    def scraped(name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            [line] = re.findall(rf"(?m)^lotstream_{name} (.*)$", answer.read().decode())
        return float(line)

    assert math.isnan(scraped("base_total_pnl"))
    assert scraped("rates_missing") == 1
    now = str(time.time_ns() // 1_000_000)
    add(client, {"symbol": "EUR.USD", "price": "1.25", "timestamp": now}, stream="marks")
    valuation.until(lambda: scraped("rates_missing") == 0, "the rate")
    read, earlier = scraped("marks_read_total"), str(int(now) - 1)
    add(client, {"symbol": "EUR.USD", "price": "2", "timestamp": earlier}, stream="marks")
    valuation.until(lambda: scraped("marks_read_total") > read, "the earlier rate")
    totals = [row["total_pnl"] or 0 for row in read_hash(client, "valuations").values()]
    assert scraped("base_total_pnl") == pytest.approx(float(sum(totals)) / 1.25)
    assert scraped('total_pnl{currency="USD"}'.replace("{", "\\{")) == pytest.approx(
        float(sum(totals))
    )


def totals_of(client: redis_py.Redis) -> Any:
    text = client.get("valuations:totals")
    return from_json(text) if isinstance(text, bytes) else {}


def mark(client: redis_py.Redis, symbol: str, price: str, ago_ms: int = 0) -> None:
    at = str(time.time_ns() // 1_000_000 - ago_ms)
    add(client, {"symbol": symbol, "price": price, "timestamp": at}, stream="marks")


def buy_all_over_the_world(client: redis_py.Redis) -> None:
    """Buy 3 at 100 of each; all have a mark of 101.1 but one of the Swiss."""
    held = {"IBM": "USD", "SAP": "EUR", "NESN": "CHF", "UBSG": "CHF", "SONY": "JPY"}
    for symbol, currency in held.items():
        add(client, {
            "symbol": symbol, "currency": currency, "side": "BUY", "fill_qty": "3",
            "fill_price": "100", "order_id": "1", "exec_id": f"of {symbol}",
            "timestamp": str(time.time_ns() // 1_000_000),
        })  # fmt: skip
        if symbol != "UBSG":
            mark(client, symbol, "101.1")


def test_totals_over_all_currencies_are_exact_say_what_is_missing_and_go_with_the_flow(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    with (
        FlowProcess(tmp_path / "positions", redis_url) as positions,
        valuing(tmp_path / "valuation", redis_url, BASE_CURRENCY="USD") as valuation,
    ):
        buy_all_over_the_world(redis)
        missing = {"CHF.USD": 2, "EUR.USD": 1, "JPY.USD": 1}
        valuation.until(lambda: totals_of(redis).get("no_rate") == missing, "missing rates said")
        assert totals_of(redis)["total_pnl"] == Decimal("3.3")  # that of IBM alone
        mark(redis, "EUR.USD", "1.17")
        mark(redis, "USD.JPY", "160")
        mark(redis, "CHF.USD", "1.1", ago_ms=3_600_000)
        valuation.until(lambda: totals_of(redis).get("no_rate") == {}, "the rates")
        _hold_what_is_expected(totals_of(redis))
        valuation.until(
            lambda: (
                {each["rate_state"] for each in totals_of(redis)["currencies"]} == {None, "stale"}
            ),
            "old rates",
        )
        valuation.kill()
        valuation.start()
        valuation.until(lambda: totals_of(redis).get("unvalued") == 1, "them again")
        _hold_what_is_expected(totals_of(redis))
        valuation.kill()
        until(lambda: redis.exists("valuations:totals") == 0, "them gone")
        assert positions.stop() == 0


def _hold_what_is_expected(totals: Any) -> None:
    # 3.3 USD, 3.3 EUR, 3.3 CHF without UBSG, 3.3 JPY by the inverse pair.
    in_dollars = [Decimal(text) for text in ("3.3", "3.861", "3.63", "0.020625")]
    assert totals["total_pnl"] == totals["unrealized_pnl"] == sum(in_dollars)
    assert totals["unvalued"] == 1
    currencies = {each["currency"]: each for each in totals["currencies"]}
    assert {name: (each["pair"], each["rate"]) for name, each in currencies.items()} == {
        "CHF": ("CHF.USD", Decimal("1.1")), "EUR": ("EUR.USD", Decimal("1.17")),
        "JPY": ("USD.JPY", 160), "USD": (None, None),
    }  # fmt: skip
    assert currencies["CHF"]["rate_state"] == "stale"
    counts = ("positions", "unvalued", "day_unknown", "stale")
    assert {type(each[name]) for each in currencies.values() for name in counts} == {Decimal}


def test_what_stops_it_is_said_once(redis: redis_py.Redis, redis_url: str, tmp_path: Path) -> None:
    redis.set("marks", "no stream")
    with valuing(tmp_path, redis_url) as valuation:
        assert valuation.wait() == 1
    [told] = valuation.messages("critical")
    assert told.startswith("stopped: Redis refuses a command: WRONGTYPE")


def test_what_it_cannot_start_with_is_said_in_one_line(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    redis.set("executions:partitions", 1)
    with valuing(tmp_path, redis_url, STREAM_PARTITIONS="3") as valuation:
        assert valuation.wait() == 1
    assert "STREAM_PARTITIONS: expected 1, as stream 'executions' has had so far" in valuation.log
    files = MinuteFiles(tmp_path / "data")
    files.lock()
    with valuing(tmp_path, redis_url) as valuation:
        assert valuation.wait() == 1
    files.close()
    assert valuation.log.startswith("lotstream: valuations: ")
    assert valuation.log.endswith(f"valuations.lock is held by process {os.getpid()}\n")
