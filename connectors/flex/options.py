"""How options end: which option rows and which share rows are one assignment or exercise.

The option ends without P&L; what it cost net (its `cost`, commissions included) moves
to the trade that it led to, pro rata by quantity. Only both legs together say so: a
leg without the other is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from connectors.flex.contents import Problem
from connectors.flex.lots import exact_text, spread
from connectors.flex.records import OPTIONS, Trade

ENDS = frozenset({"A", "EX", "AEX", "MEX", "GEA"})
"""Codes of an assignment and an exercise; A and M before Ex: for a dividend's sake."""
_OSI_STRIKE = 8
_THOUSANDTHS = 1000


@dataclass
class OptionEnds:
    """What an import makes of assignments and exercises; trades by their `key`."""

    leave: set[tuple[str, ...]]
    """Option rows that leave at their own cost."""
    settled: dict[tuple[str, ...], Decimal]
    """Option rows that were closed in cash, and at which price."""
    adjustments: dict[tuple[str, ...], str]
    """What an option's end adds to a trade's cost, above 0 a cost."""
    problems: list[Problem]
    left_out: set[tuple[str, ...]]


def option_ends(trades: Iterable[Trade]) -> OptionEnds:
    """Find the assignments and exercises among trades, and join their legs."""
    ends = OptionEnds(set(), {}, {}, [], set())
    options: list[Trade] = []
    delivered: list[Trade] = []
    for trade in trades:
        if is_end(trade) and not trade.cancels:
            (options if _is_option(trade) else delivered).append(trade)
    for option in options:
        _settle(option, ends)
    for group_options, group_delivered in _groups(options, delivered):
        _join(group_options, group_delivered, ends)
    return ends


def is_end(trade: Trade) -> bool:
    """Tell whether a row is of an assignment or an exercise."""
    return not ENDS.isdisjoint(note.upper() for note in trade.notes)


def _is_option(trade: Trade) -> bool:
    return trade.contract.sec_type in OPTIONS


def _settle(option: Trade, ends: OptionEnds) -> None:
    """Take an end with a P&L of its own as a close, at the price that its figures come to."""
    if option.pnl is None or option.cost is None:
        _leave_out([option], ends, "expected cost and fifoPnlRealized of an option that was "
                   "assigned or exercised, found none: let the query give both")  # fmt: skip
    elif option.pnl != 0 or option.price != 0:
        units = option.qty * option.contract.multiplier
        price = (option.cost - option.pnl) / units if option.price == 0 else option.price
        if price < -Decimal("0.0001"):
            _leave_out([option], ends, f"expected a settlement price, found that cost "
                       f"{option.cost:f} and P&L {option.pnl:f} come to {price:f}")  # fmt: skip
        else:
            ends.settled[option.key] = max(price, Decimal(0))


def _groups(
    options: Sequence[Trade], delivered: Sequence[Trade]
) -> Iterable[tuple[list[Trade], list[Trade]]]:
    groups: dict[tuple[object, ...], tuple[list[Trade], list[Trade]]] = defaultdict(
        lambda: ([], [])
    )
    shared = {(each.account, each.action_id) for each in options if each.action_id} & {
        (each.account, each.action_id) for each in delivered if each.action_id
    }
    by_facts: dict[tuple[object, ...], list[Trade]] = defaultdict(list)
    for trade in delivered:
        action = (trade.account, trade.action_id)
        if action in shared:
            groups[action][1].append(trade)
            continue
        facts = (trade.account, trade.time, trade.price, trade.qty > 0)
        groups[(*facts, trade.contract.con_id or trade.contract.symbol)][1].append(trade)
        by_facts[facts].append(trade)
    for option in options:
        action = (option.account, option.action_id)
        if action in shared:
            groups[action][0].append(option)
            continue
        found = [
            (*facts, trade.contract.con_id or trade.contract.symbol)
            for facts in _expected(option)
            for trade in by_facts.get(facts, [])
            if _is_underlying(trade, option)
        ]
        groups[found[0] if found else ("alone", *option.key)][0].append(option)
    return groups.values()


def _expected(option: Trade) -> list[tuple[object, ...]]:
    strike = _strike(option)
    bought = [option.qty < 0] if option.contract.right == "C" else [option.qty > 0]
    sides = bought if option.contract.right else [True, False]
    return [(option.account, option.time, strike, side) for side in sides]


def _strike(option: Trade) -> Decimal | None:
    text = option.contract.strike
    if not text and option.contract.symbol[-_OSI_STRIKE:].isdigit():
        return Decimal(option.contract.symbol[-_OSI_STRIKE:]) / _THOUSANDTHS
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def _is_underlying(trade: Trade, option: Trade) -> bool:
    said = option.contract
    if said.underlying and trade.contract.con_id:
        return said.underlying == trade.contract.con_id
    named = said.underlying_symbol or said.symbol.partition(" ")[0]
    return named == trade.contract.symbol


def _join(options: list[Trade], delivered: list[Trade], ends: OptionEnds) -> None:
    if any(option.key in ends.left_out for option in options):
        _leave_out(delivered, ends, "expected an option row that can be used, of what was "
                   "assigned or exercised, found one that cannot")  # fmt: skip
        return
    leaving = [option for option in options if option.key not in ends.settled]
    if not options:
        _leave_out(delivered, ends, "expected the row of the option that was assigned or "
                   "exercised (same positionActionID; or same account, underlying and time, its "
                   "strike the price), found none: import its file together with "
                   "this one")  # fmt: skip
    elif leaving and not delivered:
        _leave_out(leaving, ends, "expected the trade that the assignment or exercise led to "
                   "(same positionActionID; or same account, underlying and time, its price the "
                   "strike), found none: import its file together with this one")  # fmt: skip
    elif leaving and not _same_units(leaving, delivered):
        _leave_out([*leaving, *delivered], ends, "expected as many units delivered as the options "
                   "stand for, found another number")  # fmt: skip
    else:
        ends.leave.update(option.key for option in leaving)
        premium = sum((Fraction(option.cost or 0) for option in leaving), Fraction(0))
        parts = spread(-premium, [Fraction(abs(trade.qty)) for trade in delivered])
        ends.adjustments.update(
            (trade.key, exact_text(part, 10))
            for trade, part in zip(delivered, parts, strict=True)
            if part
        )


def _same_units(options: Sequence[Trade], delivered: Sequence[Trade]) -> bool:
    # A future is delivered one for one; where the file joins the rows itself, an
    # adjusted contract may stand for another number of shares.
    if options[0].action_id and options[0].action_id == delivered[0].action_id:
        return True
    of_options = sum(
        abs(each.qty) * (1 if each.contract.sec_type == "FOP" else each.contract.multiplier)
        for each in options
    )
    return of_options == sum(abs(each.qty) for each in delivered)


def _leave_out(trades: Iterable[Trade], ends: OptionEnds, reason: str) -> None:
    for trade in trades:
        if trade.key not in ends.left_out:
            ends.left_out.add(trade.key)
            ends.problems.append(Problem(reason, trade.shown))
