"""What was held before a file's first trade, where the file proves it.

Two proofs: the open-position lots of a day before the first trade; or the lots of the
last day less what was traded, where the lots that were there all the time and the
closed-lot rows of those that went come to just that. Their cost is the broker's, so it
holds the commissions of what opened them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from connectors.flex.contents import Contents, Problem
from connectors.flex.records import Contract, FlexLot, Trade


@dataclass(frozen=True)
class Opening:
    """One lot that was held before the first trade."""

    contract: Contract
    account: str
    lot: FlexLot
    id: str
    since: int
    """What happened before this moment is in it."""


class _Traded(NamedTuple):
    first: int
    qty: Decimal


_Key = tuple[str, Contract]


def openings(
    contents: Contents, trades: Iterable[Trade], first_moments: Mapping[str, int]
) -> tuple[list[Opening], list[Problem]]:
    """Return the openings that the files prove, and what they cannot prove.

    trades: the executions that count. first_moments: by account, when the files begin.
    """
    traded: dict[_Key, list[Trade]] = defaultdict(list)
    for trade in trades:
        traded[trade.account, trade.contract].append(trade)
    open_lots, closed = (
        _by_key(contents.open_lots.elements()),
        _by_key(contents.closed_lots.elements()),
    )
    acted = {(each.account, each.contract) for each in contents.actions.values()}
    told = {account: max(lot.time for lot in lots) for account, lots in _by_account(open_lots)}
    found: list[Opening] = []
    problems: list[Problem] = []
    for key in sorted(
        {*traded, *open_lots}, key=lambda key: (key[0], key[1].symbol, key[1].con_id)
    ):
        account, contract = key
        since = min([*(trade.time for trade in traded[key]), first_moments.get(account, 0)])
        lots = _day_before(open_lots.get(key, []), since)
        if lots is None:
            reason = "" if account in told else _NO_LOTS
            reason = reason or (_ACTED if key in acted else "")
            if not reason:
                lots = _held_at(since, told[account], open_lots.get(key, []), closed.get(key, []))
                reason = _disproof(lots, traded[key], told[account], open_lots.get(key, []))
            if reason:
                row = {"account": account, "symbol": contract.symbol, "con_id": contract.con_id}
                problems.append(Problem(reason, row))
                continue
        found += [
            Opening(contract, account, lot, f"flex-open-{since}-{number}", since)
            for number, lot in enumerate(lots or [], start=1)
        ]
    return found, problems


_NO_LOTS = ("expected open positions at the level of detail Lot, to know what was held before, "
            "found none")  # fmt: skip
_ACTED = ("expected no corporate action in a key whose openings follow from its last day, found "
          "one: give a statement of the day before as well")  # fmt: skip


def _by_key(lots: Iterable[FlexLot]) -> dict[_Key, list[FlexLot]]:
    of: dict[_Key, list[FlexLot]] = defaultdict(list)
    for lot in lots:
        of[lot.account, lot.contract].append(lot)
    return of


def _by_account(lots: Mapping[_Key, list[FlexLot]]) -> list[tuple[str, list[FlexLot]]]:
    of: dict[str, list[FlexLot]] = defaultdict(list)
    for (account, _), some in lots.items():
        of[account] += some
    return list(of.items())


def _day_before(lots: Sequence[FlexLot], since: int) -> list[FlexLot] | None:
    days = {lot.time for lot in lots if lot.time < since}
    if not days:
        return None
    return sorted((lot for lot in lots if lot.time == max(days)), key=lambda lot: lot.opened)


def _held_at(
    since: int, last: int, open_lots: Sequence[FlexLot], closed: Sequence[FlexLot]
) -> list[FlexLot]:
    stayed = [lot for lot in open_lots if lot.time == last and lot.opened < since]
    went = [lot for lot in closed if lot.opened < since <= lot.time]
    return sorted([*went, *stayed], key=lambda lot: lot.opened)


def _disproof(
    lots: Sequence[FlexLot], trades: Sequence[Trade], last: int, open_lots: Sequence[FlexLot]
) -> str:
    end = sum((lot.qty for lot in open_lots if lot.time == last), Decimal(0))
    start = end - sum((trade.qty for trade in trades if trade.time <= last), Decimal(0))
    told = sum((lot.qty for lot in lots), Decimal(0))
    if told == start:
        return ""
    return (
        f"expected lots of {start:f} held before the first trade, found {told:f}: let the query "
        f"give closed lots too, or give a statement of the day before"
    )
