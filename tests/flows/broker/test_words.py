"""What watch, page and metrics say of the broker's side, from what a router has left."""

import json
from pathlib import Path

import pytest
import redis as redis_py
from rich.console import Console

from connectors.redis.broker_state import NO_BROKER, BrokerView
from connectors.redis.overview import OverviewReader
from flows.common.overview import break_words, broker_words
from flows.watch import MOST_BREAKS, View, as_json, page
from tests.support.flow_process import ROOT

BREAK = '{"kind": "quantity", "ours": 2, "broker": 3.5, "detail": "", "since": 9}'
FIGURES = {
    "net_liquidation": {"USD": "1234567.891"}, "buying_power": {},
    "cash": {"EUR": "-5", "USD": "7"},
    "open_orders": [
        {
            "account": "U1", "symbol": "AAPL", "side": "BUY", "qty": "10", "order_type": "LMT",
            "limit_price": "12.5", "stop_price": "", "tif": "DAY", "status": "Submitted",
            "filled": "0", "order_id": 7, "client_id": 0, "order_ref": "",
        }
    ],
    "as_of": 1_783_348_205_000,
}  # fmt: skip


def leave(redis: redis_py.Redis, *, age_ms: int = 0) -> None:
    seconds, micros = redis.time()
    now = seconds * 1000 + micros // 1000 - age_ms
    state = {"known": True, "as_of": now, "accounts": {"U1": now}}
    redis.hset("broker", ":state", json.dumps(state))
    redis.hset("broker:breaks", "U1:AAPL", BREAK)
    redis.hset("broker:account", "U1", json.dumps(FIGURES))


def look(redis_url: str, *, account: bool = False) -> View:
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=[], positions_hash="positions"
    )
    view = View(account=account)
    view.look(reader)
    reader.close()
    return view


def text_of(view: View) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(page(view))
    return captured.get()


def test_breaks_are_shown_and_counted(redis: redis_py.Redis, redis_url: str) -> None:
    leave(redis)
    view = look(redis_url)
    assert "1 break\n" in text_of(view).replace("  \n", "\n")
    assert "break: U1:AAPL: ours 2, broker's 3.5 (quantity)" in text_of(view)
    assert json.loads(as_json(view))["broker"]["breaks"]["U1:AAPL"]["broker"] == 3.5
    assert "at the broker" not in text_of(view)


def test_of_many_breaks_some_are_shown_and_the_others_counted(
    redis: redis_py.Redis, redis_url: str
) -> None:
    leave(redis)
    redis.hset("broker:breaks", mapping={f"U2:{n}": BREAK for n in range(MOST_BREAKS + 1)})
    text = text_of(look(redis_url))
    assert text.count("break: ") == MOST_BREAKS
    assert "and 2 breaks more" in text


def test_what_the_broker_has_not_told_of_an_account_is_said(
    redis: redis_py.Redis, redis_url: str
) -> None:
    assert "told nothing of an account yet" in text_of(look(redis_url, account=True))
    redis.hset("broker", ":state", '{"accounts": {}}')
    redis.hset("broker:account", "U1", json.dumps({**FIGURES, "open_orders": None}))
    text = text_of(look(redis_url, account=True))
    assert "open orders: not known" in text
    assert "told nothing" not in text


def test_a_router_that_died_leaves_nothing_that_is_known(
    redis: redis_py.Redis, redis_url: str
) -> None:
    leave(redis, age_ms=11_000)
    text = text_of(look(redis_url))
    assert "broker's side unknown" in text
    assert "U1:AAPL" not in text


def test_without_a_router_nothing_is_said_of_a_broker(redis_url: str) -> None:
    assert "broker" not in text_of(look(redis_url))
    assert broker_words(NO_BROKER) == ("", "")


def test_the_account_is_shown_as_the_broker_says_it(redis: redis_py.Redis, redis_url: str) -> None:
    leave(redis)
    text = text_of(look(redis_url, account=True))
    assert "U1 at the broker" in text
    assert "Net liquidation: 1,234,567.89 USD" in text
    assert "Buying power: not told" in text
    assert "Cash: -5.00 EUR, 7.00 USD" in text
    assert "order BUY 10 AAPL LMT 12.5, Submitted" in text


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (BrokerView([], {}, {}), ("broker's side unknown", "warn")),
        (BrokerView(["U1"], {}, {}), ("0 breaks", "good")),
        (BrokerView(["U1"], {"A": {}, "B": {}}, {}), ("2 breaks", "bad")),
    ],
)
def test_the_broker_s_side_is_said_in_words(view: BrokerView, words: tuple[str, str]) -> None:
    assert broker_words(view) == words


def test_a_break_s_detail_is_said() -> None:
    found = {"kind": "two names", "ours": 2, "broker": 2, "detail": "U1:META"}
    assert break_words("U1:FB", found).endswith("(two names U1:META)")


def test_the_page_has_a_place_for_breaks_and_accounts() -> None:
    html = Path(ROOT, "flows/board/page/index.html").read_text()
    assert 'id="breaks"' in html
    assert 'id="accounts"' in html
