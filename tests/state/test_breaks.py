"""What a break is, and what is none."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.breaks import BreakWatch, Difference, Kind, Side, differences, price_factor


def side(qty: str, price: str | None = "10", con_id: str = "1", key: str = "U1:AAPL") -> Side:
    account, _, symbol = key.rpartition(":")
    return Side(
        account or None, symbol, Decimal(qty), None if price is None else Decimal(price), con_id
    )


def kinds(ours: dict[str, Side], broker: dict[str, Side], *accounts: str) -> dict[str, str]:
    found = differences(ours, broker, accounts or ("U1", "U2"))
    return {key: str(difference.kind) for key, difference in found.items()}


# --- what differs now ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "broker", "kind"),
    [
        ("100", "100", None), ("100", "99", "quantity"), ("-1", "1", "quantity"),
        ("0.3", "0.4", "quantity"), ("3", None, "only ours"), (None, "3", "only the broker's"),
        ("0", "3", "only the broker's"), ("0", None, None),
    ],
)  # fmt: skip
def test_a_quantity_that_differs_is_a_difference(
    ours: str | None, broker: str | None, kind: str | None
) -> None:
    own = {} if ours is None else {"U1:AAPL": side(ours)}
    held = {} if broker is None else {"U1:AAPL": side(broker)}
    assert kinds(own, held) == ({} if kind is None else {"U1:AAPL": kind})


@pytest.mark.parametrize(
    ("ours", "broker", "factor"),
    [
        ("1088.5", "10.885", "100"), ("10.885", "1088.5", "1/100"), ("95", "10", "10"),
        ("1050", "1", "1000"), ("80", "10", None), ("5", "5", None), ("100", "99", None),
        (None, "5", None), ("0", "5", None), ("-100", "1", None), ("-100", "-1", "100"),
        ("5", "0", None), ("110", "10", "10"), ("10", "110", "1/10"), ("111", "10", None),
    ],
)  # fmt: skip
def test_a_price_is_in_doubt_if_it_is_about_a_power_of_ten_off(
    ours: str | None, broker: str, factor: str | None
) -> None:
    assert price_factor(ours and Decimal(ours), Decimal(broker)) == factor  # type: ignore[arg-type]


def test_the_decimal_context_of_the_thread_does_not_matter() -> None:
    with localcontext(prec=1):
        assert price_factor(Decimal(112), Decimal(10)) is None


def test_of_a_sum_over_accounts_no_price_is_in_doubt() -> None:
    broker = {
        "U1:AAPL": side("5", "1"), "U2:AAPL": side("5", "19", key="U2:AAPL"),
    }  # fmt: skip
    assert kinds({"AAPL": side("10", key="AAPL")}, broker) == {}


def test_a_contract_under_two_names_is_told_under_both() -> None:
    ours = {"U1:FB": side("5", con_id="7", key="U1:FB")}
    broker = {"U1:META": side("5", con_id="7", key="U1:META")}
    found = differences(ours, broker, ["U1"])
    assert {key: (each.kind, each.detail) for key, each in found.items()} == {
        "U1:FB": (Kind.TWO_NAMES, "U1:META"), "U1:META": (Kind.TWO_NAMES, "U1:FB"),
    }  # fmt: skip
    assert [found[key].missing for key in ours | broker] == [-5, 5]


def test_positions_without_a_contract_number_are_not_of_one_contract() -> None:
    sides = {f"U1:{name}": side("5", key=f"U1:{name}")._replace(con_id=None) for name in "AB"}
    assert kinds(sides, sides) == {}


def test_a_name_whose_position_is_flat_is_no_second_name() -> None:
    ours = {
        "U1:FB": side("0", None, "7", "U1:FB"), "U1:META": side("5", con_id="7", key="U1:META"),
    }  # fmt: skip
    assert kinds(ours, {"U1:META": side("5", con_id="7", key="U1:META")}) == {}


def test_one_contract_in_two_accounts_has_one_name() -> None:
    ours = {f"{a}:AAPL": side("5", key=f"{a}:AAPL") for a in ("U1", "U2")}
    assert kinds(ours, dict(ours)) == {}


def test_what_is_not_known_is_no_difference() -> None:
    ours = {"U1:AAPL": side("5"), "U2:AAPL": side("5", key="U2:AAPL")}
    assert kinds(ours, {}, "U2") == {"U2:AAPL": "only ours"}
    assert differences(ours, {}, []) == {}
    assert kinds({}, ours, "U2") == {"U2:AAPL": "only the broker's"}


def test_a_book_without_account_is_held_against_the_sum_over_accounts() -> None:
    broker = {f"{a}:AAPL": side("5", key=f"{a}:AAPL") for a in ("U1", "U2")}
    assert kinds({"AAPL": side("10", key="AAPL")}, broker) == {}
    own = {"AAPL": side("5", key="AAPL"), "U1:AAPL": side("5")}
    assert kinds(own, broker) == {}


# --- what has lasted -----------------------------------------------------------------------


def missing(qty: int) -> dict[str, Difference]:
    return {"U1:AAPL": Difference(Kind.QUANTITY, Decimal(10), Decimal(10 + qty))}


def test_what_differs_for_more_than_ten_seconds_is_a_break_until_it_does_not() -> None:
    watch = BreakWatch()
    told = [watch.look(second, missing(5)) for second in range(12)]
    assert [bool(begun) for begun, _ in told] == [False] * 10 + [True, False]
    begun, ended = watch.look(12.0, {})
    assert (begun, ended) == ({}, missing(5))
    assert watch.breaks == {}


def test_another_difference_each_time_is_a_flow_of_fills() -> None:
    watch = BreakWatch()
    for second in range(100):
        watch.look(second, missing(second % 2 + 1))
    assert watch.breaks == {}


def test_time_in_which_nothing_is_told_does_not_count() -> None:
    watch = BreakWatch()
    for second in range(0, 200, 2):
        watch.look(second, missing(5))
        watch.look(second + 1, None)
    assert watch.breaks == {}


def test_another_kind_of_difference_is_another_one() -> None:
    watch = BreakWatch()
    for second in range(100):
        kind = [Kind.QUANTITY, Kind.TWO_NAMES][second % 2]
        watch.look(second, {"U1:AAPL": Difference(kind, Decimal(10), Decimal(15))})
    assert watch.breaks == {}


@pytest.mark.parametrize("lost", [5, -5])
def test_what_is_missing_is_a_break_also_if_the_rest_is_closed_and_opened_again(
    lost: int,
) -> None:
    watch = BreakWatch()
    for second in range(11):
        held = 10 if second % 8 < 4 else 0  # by both sides
        ours, broker = max(held, held - lost), max(held, held + lost)
        own, theirs = ({"U1:AAPL": side(str(qty))} if qty else {} for qty in (ours, broker))
        watch.look(second, differences(own, theirs, ["U1"]))
    assert [each.missing for each in watch.breaks.values()] == [lost]


def test_what_differed_before_the_broker_was_unknown_begins_anew() -> None:
    watch = BreakWatch()
    for second in range(10):
        watch.look(second, missing(5))
    watch.unknown()
    told = [watch.look(100 + second, missing(5)) for second in range(11)]
    assert [bool(begun) for begun, _ in told] == [False] * 10 + [True]


def test_a_break_outlasts_a_time_in_which_nothing_is_told() -> None:
    watch = BreakWatch()
    for second in range(11):
        watch.look(second, missing(5))
    watch.unknown()
    assert watch.look(500, None) == ({}, {})
    assert watch.breaks == missing(5)
    assert watch.look(501, missing(7)) == ({}, {})  # the same break, of another size
    assert watch.breaks == missing(7)


class World:
    """A broker, a flow and what is on its way between them.

    Fills happen at the broker. They travel, are queued while a connection is lost, and
    are booked; the broker's own figure is seen late or not at all.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.broker = self.seen = self.booked = 0
        self.travelling: list[int] = []
        self.waiting: list[int] = []
        self.known = True
        self.watch = BreakWatch()

    def step(self, what: str, amount: int) -> None:
        if what == "fill":
            self.broker += amount
            self.travelling.append(amount)
        elif what == "lose":
            self.known = False
            self.watch.unknown()
        elif what == "connect":
            self.known = True  # and TWS lists all that was missed
        elif what == "book" and self.waiting:
            self.booked += self.waiting.pop(0)
        if self.known:
            # Both sides of a fill arrive with the connection, if not in the same packet.
            self.seen = self.broker - (amount if what == "fill" else 0)
            if what != "fill":
                self.waiting += self.travelling
                self.travelling = []
        self.look()

    def look(self) -> None:
        self.now += 1
        found = None
        if self.known and not self.waiting:
            ours = {"U1:AAPL": side(str(self.booked))}
            found = differences(ours, {"U1:AAPL": side(str(self.seen))}, ["U1"])
        self.watch.look(self.now, found)


STEPS = st.tuples(
    st.sampled_from(["fill", "fill", "lose", "connect", "connect", "book", "book", "book"]),
    st.integers(-100, 100).filter(bool),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=150))
def test_however_connections_are_lost_no_break_is_told_that_is_none(
    steps: list[tuple[str, int]],
) -> None:
    world = World()
    for what, amount in steps:
        world.step(what, amount)
        assert world.watch.breaks == {}
    world.step("connect", 1)
    while world.waiting:
        world.step("book", 1)
    for _ in range(30):
        world.look()
    assert world.watch.breaks == {}


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(-9, 9).filter(bool))
def test_a_fill_that_never_comes_is_a_break_however_connections_are_lost(
    steps: list[tuple[str, int]], lost: int
) -> None:
    world = World()
    world.broker += lost
    for what, amount in steps:
        world.step(what, amount)
    world.step("connect", 1)
    while world.waiting:
        world.step("book", 1)
    for _ in range(12):
        world.look()
    [difference] = world.watch.breaks.values()
    assert difference.missing == lost


def test_ten_thousand_lost_connections_make_no_break() -> None:
    world = World()
    for number in range(10_000):
        for what in ("fill", "lose", "fill", "connect", "book", "book")[number % 2 :]:
            world.step(what, number % 7 + 1)
        assert world.watch.breaks == {}
