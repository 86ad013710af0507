"""The totals that are kept as valuations change, against sums over the latest of each key."""

import math
import urllib.request
from decimal import Decimal
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from connectors.redis.exact_json import from_json
from connectors.redis.link import RedisLink
from flows.common.settings import Settings
from flows.valuing import totals as totals_module
from flows.valuing.totals import Totals, start_totals
from state.exact import MONEY, ONE
from state.valuation import Day, Holding, Mark, Valuation, value
from tests.conftest import OwnServer
from tests.support.servers import free_port

NOW, STALE_MS = 10_000, 1_000
CURRENCIES = {"A": "USD", "B": "EUR", "C": "EUR", "D": "CHF"}
RATES = {"EUR.USD": Mark(5 * ONE // 4, NOW), "CHF.USD": Mark(2 * ONE, 0)}

holdings = st.builds(
    lambda symbol, qty, basis, net: Holding(
        None, symbol, CURRENCIES[symbol], ONE, qty * ONE, basis * MONEY if qty else 0, 0,
        net * MONEY, "1-0",
    ),
    st.sampled_from(sorted(CURRENCIES)), st.integers(-2, 2), st.integers(-5, 5),
    st.integers(-5, 5),
)  # fmt: skip
marks = st.none() | st.builds(
    lambda price, at: Mark(price * ONE, at), st.integers(-3, 3), st.sampled_from([0, NOW])
)
days = st.builds(Day, st.just("2026-11-27"), st.none() | st.integers(-5, 5).map(MONEY.__mul__))
valuations = st.builds(
    lambda holding, mark, day: value(holding, mark, day, NOW, STALE_MS), holdings, marks, days
)


def taken(changes: list[Valuation], rates: dict[str, Mark]) -> Totals:
    totals = Totals(rates, "USD", STALE_MS)
    for each in changes:
        totals.take(each.symbol, each)
    return totals


def money(amounts: list[int]) -> Decimal | None:
    return Decimal(sum(amounts)) / MONEY if amounts else None


@given(st.lists(valuations, max_size=12))
def test_whatever_changed_they_are_the_sums_of_the_latest_valuations(
    changes: list[Valuation],
) -> None:
    latest = {each.symbol: each for each in changes}
    found = taken(changes, RATES).in_base(NOW)
    assert found is not None
    factors = {"USD": Decimal(1), "EUR": Decimal("1.25"), "CHF": Decimal(2)}
    for total in found.currencies:
        held = [each for each in latest.values() if each.currency == total.currency]
        assert total.positions == len(held)
        assert total.total_pnl == money([e.total_pnl for e in held if e.total_pnl is not None])
        assert total.day_pnl == money([e.day_pnl for e in held if e.day_pnl is not None])
        assert total.unvalued == sum(each.total_pnl is None for each in held)
        assert total.day_unknown == sum(each.day_pnl is None for each in held)
        assert total.stale == sum(each.state == "stale" and each.qty != 0 for each in held)
    for name in ("unrealized_pnl", "day_pnl", "total_pnl"):
        known = [(getattr(each, name), factors[each.currency]) for each in found.currencies]
        sums = [amount * factor for amount, factor in known if amount is not None]
        assert getattr(found, name) == (sum(sums) if sums else None)
    assert {each.currency for each in found.currencies} == {e.currency for e in latest.values()}
    assert found.no_rate == {}


@given(st.lists(valuations, max_size=12))
def test_a_currency_without_a_rate_is_named_and_left_out_unless_it_is_all_0(
    changes: list[Valuation],
) -> None:
    latest = {each.symbol: each for each in changes}
    whole, found = taken(changes, RATES).in_base(NOW), taken(changes, {}).in_base(NOW)
    assert whole is not None
    assert found is not None
    dollars = [e.total_pnl for e in latest.values() if e.currency == "USD"]
    known = [amount for amount in dollars if amount is not None]
    assert (found.total_pnl or 0) == (money(known) or 0)
    assert found.no_rate == {
        f"{each.currency}.USD": each.positions
        for each in whole.currencies
        if each.currency != "USD" and any((each.unrealized_pnl, each.day_pnl, each.total_pnl))
    }


def test_without_a_base_currency_there_are_none() -> None:
    assert Totals(RATES, None, STALE_MS).in_base(NOW) is None


def held(symbol: str, net: int, qty: int = 1, *, marked: bool = True, at: int = NOW) -> Valuation:
    """Return a valuation that makes 0 but what was realized."""
    holding = Holding(None, symbol, CURRENCIES[symbol], ONE, qty * ONE, 0, 0, net * MONEY, "1-0")
    return value(holding, Mark(0, at) if marked else None, Day("", 0), NOW, STALE_MS)


def test_a_key_whose_currency_changed_counts_in_the_new_one_alone() -> None:
    totals = Totals({}, "USD", STALE_MS)
    totals.take("key", held("B", net=5))
    totals.take("key", held("A", net=7))
    totals.take("another", held("D", net=0))
    found = totals.in_base(NOW)
    assert found is not None
    told = [(each.currency, each.positions) for each in found.currencies]
    assert told == [("CHF", 1), ("USD", 1)], "in order of their names"
    assert found.total_pnl == 7
    assert found.no_rate == {}


def test_a_flat_position_makes_no_unknown_sum_a_0() -> None:
    flat = held("A", net=0, qty=0, marked=False)
    without_mark = held("A", net=0, marked=False)
    of = Totals({}, "USD", STALE_MS)
    of.take("flat", flat)
    assert of.sums()["USD"].figure("unrealized_pnl") == 0, "all is flat"
    of.take("open", without_mark)
    assert of.sums()["USD"].figure("unrealized_pnl") is None
    assert of.sums()["USD"].figure("total_pnl") == 0


def test_what_is_unknown_in_a_currency_that_is_left_out_is_not_told_of_the_rest() -> None:
    totals = Totals({}, "USD", STALE_MS)
    totals.take("A", held("A", net=1))
    totals.take("B", held("B", net=1))
    totals.take("B2", held("B", net=1, marked=False))
    found = totals.in_base(NOW)
    assert found is not None
    assert found.no_rate == {"EUR.USD": 2}
    assert (found.unvalued, found.day_unknown) == (0, 0)
    assert found.total_pnl == 1


# --- where they go -------------------------------------------------------------------------


class Started:
    """Totals that are shown, and what they are shown by."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.stop = Event()
        self.link = RedisLink(url, self.stop)
        self.rates: dict[str, Mark] = {}
        self.port = free_port()
        given = Settings(redis_url=url, metrics_port=self.port, **settings)  # type: ignore[arg-type]
        self.totals = start_totals(given, self.link, self.rates)

    def let_live(self) -> None:
        for act in self.link.while_alive:
            act()

    def scrape(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                "".join((sample.name.removeprefix("lotstream_"), *sample.labels.values())):
                sample.value for family in families for sample in family.samples
            }  # fmt: skip


def shown(client: redis_py.Redis) -> Any:
    text = client.get("valuations:totals")
    return from_json(text) if isinstance(text, bytes) else {}


def test_the_first_are_shown_a_look_after_something_was_found(
    redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals_module, "SHOW_EVERY_S", 0.0)
    started = Started(redis_url, base_currency="USD")
    started.let_live()
    started.totals.take("A", held("A", net=1))
    started.let_live()
    assert shown(redis) == {}, "more of the start may be to come"
    started.totals.take("A", held("A", net=2))
    started.let_live()
    assert shown(redis)["total_pnl"] == 2


def test_told_to_end_while_redis_is_away_they_are_left_as_they_are(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals_module, "SHOW_EVERY_S", 0.0)
    server = own_server()
    started = Started(server.url, base_currency="USD")
    started.totals.take("A", held("A", net=1))
    started.let_live()
    server.kill()
    started.stop.set()
    started.let_live()


def test_without_a_base_currency_none_are_shown(redis_url: str) -> None:
    started = Started(redis_url)
    assert started.link.while_alive == []
    assert math.isnan(started.scrape()["rates_missing"])


def test_the_metrics_tell_of_each_currency_and_over_all_if_no_rate_is_missing(
    redis_url: str,
) -> None:
    started = Started(redis_url, base_currency="USD")
    for key, valuation in {
        "A": held("A", net=1), "A2": held("A", net=2, at=0),
        "flat": held("A", net=4, qty=0, marked=False),
        "B": held("B", net=8), "B2": held("B", net=0, marked=False),
    }.items():  # fmt: skip
        started.totals.take(key, valuation)
    seen = started.scrape()
    assert seen["redis_up"] == 1
    assert (seen["total_pnlUSD"], seen["total_pnlEUR"]) == (7, 8)
    assert (seen["unrealized_pnlUSD"], seen["unrealized_pnlEUR"]) == (0, 0)
    states = {name: seen.get(f"valuation_states{name}") for name in ("live", "stale", "no mark")}
    assert states == {"live": 2, "stale": 1, "no mark": 1}
    assert seen["rates_missing"] == 1
    assert math.isnan(seen["base_total_pnl"])
    assert math.isnan(seen["base_unrealized_pnl"])
    started.rates["EUR.USD"] = Mark(5 * ONE // 4, NOW)
    seen = started.scrape()
    assert (seen["rates_missing"], seen["base_total_pnl"]) == (0, 17)
    assert seen["base_unrealized_pnl"] == 0


def test_no_metric_is_0_where_nothing_is_known(redis_url: str) -> None:
    started = Started(redis_url, base_currency="USD")
    started.totals.take("A", held("A", net=1, marked=False))
    seen = started.scrape()
    assert not seen.keys() & {"total_pnlUSD", "unrealized_pnlUSD"}
    assert math.isnan(seen["base_total_pnl"])
    assert math.isnan(seen["base_unrealized_pnl"])


def test_while_redis_is_away_or_refuses_no_figure_looks_like_one_of_now(
    own_server: OwnServer,
) -> None:
    server = own_server()
    started = Started(server.url, base_currency="USD")
    started.totals.take("A", held("A", net=1))
    assert started.scrape()["base_total_pnl"] == 1
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-exists")
        assert started.scrape()["redis_up"] == 0
        client.execute_command("ACL", "SETUSER", "default", "+exists")
    assert started.scrape()["redis_up"] == 1
    server.kill()
    seen = started.scrape()
    assert seen["redis_up"] == 0
    assert all(math.isnan(seen[name]) for name in ("base_total_pnl", "rates_missing"))
    assert not [name for name in seen if name.startswith(("total_pnl", "valuation_states"))]


def test_a_port_that_is_taken_is_said_in_one_line(redis_url: str) -> None:
    started = Started(redis_url)
    with pytest.raises(SystemExit, match=f"METRICS_PORT: expected a free port, .* {started.port}"):
        start_totals(
            Settings(redis_url=redis_url, metrics_port=started.port),  # type: ignore[arg-type]
            started.link, {},
        )  # fmt: skip
