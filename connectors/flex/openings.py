"""What was held before a file's first trade, where the file proves it.

Two proofs: the open-position lots of a day before the first trade; or the lots of the
last day less what was traded, where the lots that were there all the time and the
closed-lot rows of those that went come to just that. Their cost is the broker's, so it
holds the commissions of what opened them.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from connectors.flex.contents import Contents, Problem
from connectors.flex.records import END_OF_DAY, Action, Contract, FlexLot, Trade
from connectors.flex.times import read_time


@dataclass(frozen=True)
class Opening:
    """One lot that was held before the first trade."""

    contract: Contract
    account: str
    lot: FlexLot
    id: str
    since: int
    """What happened before this moment is in it."""


T = TypeVar("T", Trade, FlexLot)
_Key = tuple[str, str]
"""Account and con_id, else symbol: an instrument may be called otherwise later, or by an action."""


def openings(
    contents: Contents, trades: Iterable[Trade], first_moments: Mapping[str, int]
) -> tuple[list[Opening], list[Problem]]:
    """Return the openings that the files prove, and what they cannot prove.

    trades: the executions that count. first_moments: by account, when the files begin.
    """
    traded, open_lots = _by_key(trades), _by_key(contents.open_lots.elements())
    closed = _by_key(contents.closed_lots.elements())
    acted = set(map(_named, contents.actions.values()))
    told, shown, sums = moments_told(contents), _last_shown(contents), sums_told(contents)
    found: list[Opening] = []
    contracts = {key: some[0].contract for key, some in open_lots.items()} | {
        key: some[0].contract for key, some in traded.items()
    }
    summed = {(account, name) for account, name, _ in sums}
    problems = [
        Problem(_NO_LOTS, {"account": account, "instrument": name})
        for account, name in sorted(summed - contracts.keys())
    ]
    for key in sorted(contracts, key=lambda key: (key[0], contracts[key].symbol, key[1])):
        account, begin = key[0], first_moments.get(key[0], sys.maxsize)
        since = min([begin, *(trade.time for trade in traded.get(key, []))])
        days = told.get(account, set()) | told.get("", set())
        # A trade from before the files' own first day, as of an evening, is that day's.
        day = since if begin == sys.maxsize else begin
        lots = _day_before(open_lots.get(key, []), days, day)
        reason = _NO_LOTS if key in summed else ""
        last = max(days, default=0) if lots is None else shown.get(account, 0)
        if lots is None and not reason:
            reason = (_ACTED if key in acted else "") if last else _NO_LOTS
            lots = _held_at(since, last, open_lots.get(key, []), closed.get(key, []))
        if not reason and key not in acted:
            reason = _disproof(
                lots or [], [] if last < day == begin else traded.get(key, []), last,
                open_lots.get(key, []),
            )  # fmt: skip
        if reason:
            problems.append(Problem(reason, {
                "account": account, "symbol": contracts[key].symbol,
                "con_id": contracts[key].con_id,
            }))  # fmt: skip
            continue
        found += [
            Opening(lot.contract, account, lot, f"flex-open-{since}-{number}", since)
            for number, lot in enumerate(lots or [], start=1)
        ]
    return found, problems


_NO_LOTS = ("expected open positions at the level of detail Lot, to know what was held before, "
            "found none")  # fmt: skip
_ACTED = ("expected no corporate action or transfer in a key whose openings follow from its last "
          "day, found one: give a statement of the day before as well")  # fmt: skip


def _by_key(rows: Iterable[T]) -> dict[_Key, list[T]]:
    of: dict[_Key, list[T]] = defaultdict(list)
    for row in rows:
        of[_named(row)].append(row)
    return of


def _named(row: Trade | FlexLot | Action) -> _Key:
    return row.account, row.contract.con_id or row.contract.symbol


def sums_told(contents: Contents) -> set[tuple[str, str, int]]:
    """Return account, con_id (else symbol) and moment of what is told without its lots."""
    lots = {(*_named(lot), lot.time) for lot in contents.open_lots}
    lots |= {("", name, time) for _, name, time in lots}  # a sum over accounts
    held = {
        (account, name, read_time(day, contents.zone, without_time=END_OF_DAY))
        for account, name, day in contents.held
        if day
    }
    return held - lots


def moments_told(contents: Contents) -> dict[str, set[int]]:
    """Return by account ("" for all) the moments of which all open positions are told."""
    told: dict[str, set[int]] = defaultdict(set)
    for lot in contents.open_lots:
        told[lot.account].add(lot.time)
    for account, day in contents.told_open:
        if day:
            told[account].add(read_time(day, contents.zone, without_time=END_OF_DAY))
    return told


def _last_shown(contents: Contents) -> dict[str, int]:
    """Return by account the last moment of which any lots are told."""
    return {lot.account: lot.time for lot in sorted(contents.open_lots, key=lambda lot: lot.time)}


def _day_before(lots: Sequence[FlexLot], days: set[int], since: int) -> list[FlexLot] | None:
    last = max((day for day in days if day < since), default=None)
    if last is None:
        return None
    return sorted((lot for lot in lots if lot.time == last), key=lambda lot: lot.opened)


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
