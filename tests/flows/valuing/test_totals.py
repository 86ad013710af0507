"""The totals that are kept as valuations change, against sums over the latest of each key."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from flows.valuing.totals import Totals
from state.exact import MONEY, ONE
from state.valuation import Day, Holding, Mark, Valuation, value

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
