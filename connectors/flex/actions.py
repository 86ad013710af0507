"""What a corporate action does, read from its rows: one step for each kind.

The rows of one action belong together by `actionID`, else by what their text begins
with. What a figure needs and no row tells (how a spin-off divides the cost) is asked
for, never guessed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction

from connectors.flex.contents import Problem
from connectors.flex.lots import exact_text, rounded
from connectors.flex.records import TRANSFER, Action, Contract

BROKERS_PLACES = 4
"""To how many places the broker rounds shares, unless the row itself shows more."""
_RATIO = re.compile(r"(\d+(?:\.\d+)?) +FOR +(\d+(?:\.\d+)?)\b", re.IGNORECASE)
_LEADING = re.compile(r"(?P<symbol>[^()]*)\((?P<isin>[A-Z0-9]+)\)")
_INSTRUMENT = re.compile(r"\([^(),]+,.*\)\s*$")
"""What a text ends with: the row's own symbol, its name, which may be of any words, its ISIN."""
_OPTIONS_END = re.compile(r"\d{6}[CP]\d{8}$")
_DAY = 24 * 3600 * 1000
_LARGEST = 10**9
_AS_GOOD_AS_EQUAL = Fraction(1, 10**15)


@dataclass(frozen=True)
class Step:
    """What is common to all steps."""

    account: str
    time: int
    id: str
    """What the exec_ids of its messages begin with."""
    rows: tuple[Action, ...]
    cancelled: tuple[str, ...] = field(default=(), kw_only=True)
    """Ids of what the rows that were cancelled were published under, if they were before."""


@dataclass(frozen=True)
class SplitStep(Step):
    """A split or a stock dividend; the key may get a new contract number."""

    old: Contract
    new: Contract
    called: str
    """The ticker before the action."""
    ratio: str
    places: int | None
    """To how many the broker rounded; None if there was nothing to round."""


@dataclass(frozen=True)
class RenameStep(Step):
    """The same instrument under a new number, or a new number and a new name."""

    old: Contract
    new: Contract
    called: str


@dataclass(frozen=True)
class SaleStep(Step):
    """All or a part is taken for money, or for nothing: a plain execution."""

    contract: Contract
    qty: Fraction
    price: Fraction


@dataclass(frozen=True)
class MoveStep(Step):
    """Lots go from one key into others, or a part of their cost does (a spin-off)."""

    source: Contract
    called: str
    leaves: Fraction | None
    """How much leaves, signed as the row says; None if the source keeps its units."""
    targets: tuple[tuple[Action, Fraction | None], ...]
    """Each with its share of the cost; None if no row tells it."""
    note: str = ""
    per_unit: Fraction | None = None
    """How many come for each unit, if that is known and nothing goes."""
    into: str = ""
    """The account that it goes to, if another one."""
    sold: Fraction | None = None
    """Which part of the cost was sold for the source's proceeds; None if none was sold."""

    @property
    def is_rights(self) -> bool:
        """Whether one row comes at no cost, and nothing goes."""
        return self.leaves is None and [share for _, share in self.targets] == [0]


@dataclass(frozen=True)
class LeftOutStep(Step):
    """An action that cannot be said in messages: from then on, what it touches is not clear."""

    touched: tuple[Contract, ...]
    reason: str


def steps(
    actions: Iterable[Action], ratios: Mapping[str, Fraction], contracts: Mapping[str, Contract]
) -> tuple[list[Step], list[Problem]]:
    """Return what the corporate actions do, in order of time, and cancellations of nothing.

    ratios: shares of cost by transaction id, con_id or symbol of the row that gets it.
    contracts: known contracts by ISIN and by symbol, each alone and with a currency behind it,
    to find what a text names.
    """
    done: list[Step] = []
    problems: list[Problem] = []
    for group in _groups(_details(actions)):
        rows, gone, alone = _without_cancelled(group)
        problems += [Problem("expected the action that this row cancels, found none", row.shown)
                     for row in alone]  # fmt: skip
        cancelled = tuple(f"flex-{row.transaction_id}" for row in gone if row.transaction_id)
        if gone and not rows:
            done.append(Step(*_common(gone), cancelled=cancelled))
        for number, part in enumerate(_parts(rows)):
            moves = part[0].code == TRANSFER
            try:
                step = _transfer(part) if moves else _step(part, ratios, contracts)
            except _InexpressibleError as error:
                parent = _named_first(part[0], contracts)
                # What comes from elsewhere may be known already: its quantity will tell.
                touched = [] if moves else [row.contract for row in part]
                touched += [parent] if parent else []
                step = LeftOutStep(*_common(part), tuple(touched), str(error))
            if number and not any(row.transaction_id for row in part):
                step = replace(step, id=f"{step.id}-{number}")
            done.append(replace(step, cancelled=cancelled))
    return sorted(done, key=lambda step: (step.time, len(step.id), step.id)), problems


class _InexpressibleError(Exception):
    pass


def _details(actions: Iterable[Action]) -> list[Action]:
    """Return the rows without the sums, over accounts too, of those that stand there."""
    actions = list(actions)
    told: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in actions:
        if not row.summary:
            told[row.contract.con_id, row.text].append(row.time)
    return [
        row
        for row in actions
        if not row.summary
        or all(abs(row.time - time) > _DAY for time in told[row.contract.con_id, row.text])
    ]


def _groups(actions: Iterable[Action]) -> Iterable[list[Action]]:
    groups: dict[tuple[str, ...], list[Action]] = defaultdict(list)
    for row in actions:
        facts = (row.action_id,) if row.action_id else (str(row.time), row.code, _said(row))
        groups[*(row.between or (row.account,)), *facts].append(row)
    return groups.values()


def _said(row: Action) -> str:
    """Return what a text says of the action, the same in all its rows."""
    return _INSTRUMENT.sub("", row.text).strip()


def _without_cancelled(
    rows: Sequence[Action],
) -> tuple[list[Action], list[Action], list[Action]]:
    """Return the rows that stand, those that were cancelled, and cancellations of nothing."""
    stand: list[Action] = [row for row in rows if not row.cancelled]
    gone: list[Action] = []
    alone: list[Action] = []
    for cancelled in (row for row in rows if row.cancelled):
        for row in stand:
            if row.contract == cancelled.contract and row.qty == -cancelled.qty:
                stand.remove(row)
                gone.append(row)
                break
        else:
            alone.append(cancelled)
    return stand, gone, alone


def _parts(rows: list[Action]) -> list[list[Action]]:
    """Divide an action in which options on the share, or CFDs, take part: each is for itself.

    So is each row that goes for money alone, while others of its instrument go for shares,
    or no row goes for shares.
    """
    sold = [row for row in rows if row.proceeds * row.qty < 0]
    if len(sold) < len(rows):
        others = {(row.contract, row.qty > 0) for row in rows if not row.proceeds}
        sold = [row for row in sold if (row.contract, row.qty > 0) in others]
    rows = [row for row in rows if row not in sold]
    is_split = bool(rows) and _is_split(rows[0])
    swapped = _are_swapped([row for row in rows if _is_option(row)])
    kinds: dict[tuple[str, str], list[Action]] = defaultdict(list)
    for row in rows:
        kind = row.contract.sec_type if is_split or _is_option(row) else ""
        # By a split an option gets another strike, else one comes with the same for what goes.
        alone = _is_option(row) and not (is_split or swapped)
        end = _OPTIONS_END.search(row.contract.symbol) if alone else None
        kinds[kind, end[0] if end else ""].append(row)
    parts = [[row] for row in sold]
    for (kind, _), of_kind in kinds.items():
        # Of rows of both signs one goes and another comes for it, or nobody knows.
        are_added = is_split and kind == "OPT" and len({row.qty > 0 for row in of_kind}) == 1
        parts += [[row] for row in of_kind] if are_added else [of_kind]
    return parts


def _is_option(row: Action) -> bool:
    return row.contract.sec_type == "OPT"


def _are_swapped(rows: Sequence[Action]) -> bool:
    """Tell whether as many options of other terms come for those that go."""
    return len(rows) == 2 and rows[0].qty == -rows[1].qty and all(map(_is_option, rows))  # noqa: PLR2004


def _step(
    rows: list[Action], ratios: Mapping[str, Fraction], contracts: Mapping[str, Contract]
) -> Step:
    text, code = _said(rows[0]).upper(), rows[0].code
    _without_money([row for row in rows if not row.qty])
    rows = [row for row in rows if row.qty]
    if not rows:
        raise _InexpressibleError("expected a quantity other than 0")
    is_split = _is_split(rows[0])
    adds = code == "SD" or ("STOCK DIVIDEND" in text and code not in ("HI", "CH", "CD"))
    is_named = code == "IC" or "CUSIP/ISIN CHANGE" in text
    if _are_swapped(rows) or (is_named and not (is_split or adds)):
        return _rename(_without_money(rows))
    if is_split or adds:
        return (_split if is_split else _stock_dividend)(_without_money(rows))
    if code in ("SO", "RI") or "SPINOFF" in text.replace("-", "") or "RIGHTS ISSUE" in text:
        return _spin_off(_without_money(rows), ratios, contracts)
    if len(rows) == 1 and (rows[0].proceeds or _is_worthless(rows[0])):
        return _sale(rows[0])
    if code in ("TC", "TO", "TI", "BC") or "MERGE" in text or "TENDER" in text:
        return _merger(rows, ratios)
    if "STOCK DIVIDEND" in text:
        raise _InexpressibleError(
            "expected a stock dividend without a choice, as what chosen shares cost stands in no "
            "row: publish them as a transfer IN with their cost"
        )
    raise _InexpressibleError(
        "expected a split, stock dividend, rename, merger, tender, spin-off, rights issue, "
        f"redemption or delisting, found type {code!r}"
    )


def _without_money(rows: list[Action]) -> list[Action]:
    for row in rows:
        if row.proceeds or row.pnl:
            raise _InexpressibleError(
                f"expected no money beside the {row.qty:f} that go or come, found proceeds of "
                f"{row.proceeds:f} and a P&L of {row.pnl or Decimal(0):f}"
            )
    return rows


def _is_split(row: Action) -> bool:
    return row.code in ("FS", "RS") or bool(re.search(r"\bSPLIT\b", _said(row).upper()))


def _is_worthless(row: Action) -> bool:
    text = _said(row).upper()
    said = ("WORTHLESS", "DELIST", "EXPIRE")
    return row.code in ("DW", "ED") or any(word in text for word in said)


def _common(rows: Sequence[Action]) -> tuple[str, int, str, tuple[Action, ...]]:
    first = min(rows, key=lambda row: (len(row.transaction_id), row.transaction_id))
    own = first.transaction_id or first.action_id or f"{first.contract.con_id}-{first.time}"
    return first.account, first.time, f"flex-{own}", tuple(rows)


def _called(row: Action) -> str:
    """Return the ticker before the action: the row's own may be the one that it got by it."""
    if row.contract.sec_type in ("OPT", "CFD"):
        return row.contract.symbol  # the text names the share
    match = _LEADING.match(row.text)
    return match["symbol"].strip().removesuffix(".OLD") if match else row.contract.symbol


def _text_ratio(row: Action) -> tuple[Fraction, Fraction]:
    found = _RATIO.findall(_said(row))
    if len(found) != 1 or not float(found[0][0]) or not float(found[0][1]):
        raise _InexpressibleError("expected one ratio such as 2 FOR 1 in the row's text")
    return Fraction(found[0][0]), Fraction(found[0][1])


# --- one key -----------------------------------------------------------------------------


def _split(rows: list[Action]) -> SplitStep:
    new, old = _text_ratio(rows[0])
    return _scaled(rows, new / old)


def _stock_dividend(rows: list[Action]) -> SplitStep:
    added, per = _text_ratio(rows[0])
    if _LEADING.match(rows[0].text) and not _is_named_first(rows[0]):
        raise _InexpressibleError(
            "expected a stock dividend in its own shares, found one in another instrument: "
            "what that costs stands in no row"
        )
    return _scaled(rows, 1 + added / per)


def _scaled(rows: list[Action], ratio: Fraction) -> SplitStep:
    if len(rows) == 1:
        row = rows[0]
        places = _places_of_added(ratio, row.qty)
        if _is_option(row) and (Fraction(row.qty) / (ratio - 1)).denominator != 1:
            raise _InexpressibleError(f"expected whole contracts, found {row.qty:f} that come")
        return SplitStep(*_common(rows), row.contract, row.contract, _called(row),
                         *_written(ratio, places, row.qty))  # fmt: skip
    if len(rows) != 2:  # noqa: PLR2004
        raise _InexpressibleError(f"expected one row or two, found {len(rows)}")
    for old, new in (rows, rows[::-1]):
        try:
            places = _places(ratio, Fraction(-old.qty), new.qty)
        except _InexpressibleError:
            continue
        if ratio != 1 or _is_old(old):
            return SplitStep(*_common(rows), old.contract, new.contract, _called(old),
                             *_written(ratio, places, new.qty))  # fmt: skip
    raise _InexpressibleError(
        f"expected one row to be {exact_text(ratio, 10)} times the other, rounded, found "
        f"{rows[0].qty:f} and {rows[1].qty:f}"
    )


def _is_old(row: Action) -> bool:
    leading = _LEADING.match(row.text)
    return row.contract.symbol.endswith(".OLD") or (
        leading is not None
        and (leading["isin"] == row.contract.isin or (_is_option(row) and _is_named_first(row)))
    )


def places_for(step: SplitStep, held: Fraction) -> int | None:
    """Return to how many places the broker rounded what is held.

    A row that tells only what comes fits several holdings; the one that is there decides.
    """
    if len(step.rows) != 1 or not held:
        return step.places
    new, old = map(int, step.ratio.split(":"))
    after = Decimal(exact_text(held + Fraction(step.rows[0].qty), 10))
    try:
        return _places(Fraction(new, old), held, after)
    except _InexpressibleError:
        return step.places


def _places(ratio: Fraction, old: Fraction, new: Decimal) -> int | None:
    """Return to how many places the broker rounded; None if there was nothing to round."""
    exact, shown = old * ratio, -int(new.as_tuple().exponent)
    if exact == new:
        return None
    for places in sorted({max(BROKERS_PLACES, shown), max(shown, 0)}, reverse=True):
        if places <= 10 and rounded(exact, places) == new:  # noqa: PLR2004
            return places
    raise _InexpressibleError(f"expected {exact_text(exact, 10)} after it, rounded, found {new:f}")


def _places_of_added(ratio: Fraction, added: Decimal) -> int | None:
    """Return the same where only what comes is told, for a holding of as few places as fit."""
    if ratio == 1:
        raise _InexpressibleError("expected a ratio other than 1")
    for held_places in range(9):
        old = rounded(Fraction(added) / (ratio - 1), held_places)
        with_new = old + Fraction(added)
        new = Decimal(exact_text(with_new, 10))
        if old and Fraction(new) == with_new:
            try:
                return _places(ratio, old, new)
            except _InexpressibleError:
                continue
    raise _InexpressibleError(f"expected what comes to fit the ratio, found {added:f}")


def _written(ratio: Fraction, places: int | None, qty: Decimal) -> tuple[str, int | None]:
    """Return a ratio as the stream takes it: whole numbers below 1e9.

    One of larger numbers is replaced by the nearest one, if that is as good as equal:
    rounded as the broker rounds, no quantity differs.
    """
    if max(ratio.numerator, ratio.denominator) < _LARGEST:
        return f"{ratio.numerator}:{ratio.denominator}", places
    near = ratio.limit_denominator(max(int((_LARGEST - 1) / max(ratio, Fraction(1))), 1))
    if near.numerator >= _LARGEST or abs(near - ratio) > ratio * _AS_GOOD_AS_EQUAL:
        raise _InexpressibleError(
            f"expected a ratio of whole numbers below {_LARGEST}, or one that is close to such a "
            f"one, found {ratio}"
        )
    shown = max(-int(qty.as_tuple().exponent), BROKERS_PLACES)
    return f"{near.numerator}:{near.denominator}", shown if places is None else places


def _sale(row: Action) -> SaleStep:
    price = -Fraction(row.proceeds) / (Fraction(row.qty) * Fraction(row.contract.multiplier))
    if price < 0:
        raise _InexpressibleError(
            f"expected money for what goes, found {row.proceeds:f} for {row.qty:f}"
        )
    return SaleStep(*_common([row]), row.contract, Fraction(row.qty), price)


# --- two keys ----------------------------------------------------------------------------


def _rename(rows: list[Action]) -> RenameStep:
    if len(rows) != 2 or rows[0].qty != -rows[1].qty:  # noqa: PLR2004
        raise _InexpressibleError(
            f"expected two rows, as much going as coming, found {[f'{r.qty:f}' for r in rows]}"
        )
    old, new = rows if _is_old(rows[0]) and not _is_old(rows[1]) else rows[::-1]
    if not _is_old(old) or _is_old(new):
        old, new = sorted(rows, key=lambda row: row.qty)
    return RenameStep(*_common(rows), old.contract, new.contract, _called(old))


def _transfer(rows: list[Action]) -> MoveStep:
    going = [row for row in _without_money(rows) if row.qty < 0]
    if len(going) != 1 or len(rows) > 2:  # noqa: PLR2004
        raise _InexpressibleError(
            "expected a row of what goes, found only what comes, and what that cost and when it "
            "was opened stands in no row: give the other account's file too, if it is yours; else "
            "publish each lot as a transfer IN, unless an opening has it already"
            if not going else
            f"expected one transfer between the same accounts of this day and quantity, found "
            f"{len(going)}"
        )  # fmt: skip
    [source], coming = going, [row for row in rows if row.qty > 0]
    return MoveStep(
        *_common([source])[:3], (source, *coming), source.contract, source.contract.symbol,
        Fraction(source.qty), tuple((row, Fraction(1)) for row in coming),
        into=coming[0].account if coming else "",
    )  # fmt: skip


def _merger(rows: list[Action], ratios: Mapping[str, Fraction]) -> MoveStep:
    going = [row for row in rows if row.qty < 0]
    coming = [row for row in rows if row.qty > 0]
    if len(coming) == 1 and (len(going) != 1 or _is_named_first(coming[0])):
        going, coming = coming, going  # what was sold short goes the other way
    if len(going) != 1 or not coming:
        raise _InexpressibleError(
            f"expected one row that goes and some that come, found {len(going)} and {len(coming)}"
        )
    [source] = going
    note = ""
    realized = sum((row.pnl or Decimal(0) for row in rows), Decimal(0))
    paid = [row.proceeds for row in coming if row.proceeds]
    if paid or source.proceeds * source.qty > 0:
        raise _InexpressibleError(
            f"expected nothing to be paid for new shares, found {(*paid, source.proceeds)[0]:f}: "
            f"how it is divided stands in no row"
        )
    sold = None
    if realized:
        sold = Fraction(source.proceeds - realized)
        if sold < 0 or source.qty > 0:
            raise _InexpressibleError(
                f"expected a P&L of no more than what was paid for a long position, found "
                f"{realized:f}: a merger that realizes more cannot be said in messages"
            )
        note = (f"{source.proceeds:f} paid in cash sell {exact_text(sold, 10)} of the cost, as "
                f"the row's P&L is {realized:f}")  # fmt: skip
    elif source.proceeds:
        note = f"{source.proceeds:f} paid in cash change no cost, as the row's P&L is 0"
    shares = _shares(coming, ratios, whole=True)
    return MoveStep(*_common(rows), source.contract, _called(source), Fraction(source.qty),
                    tuple(zip(coming, shares, strict=True)), note, sold=sold)  # fmt: skip


def _spin_off(
    rows: list[Action], ratios: Mapping[str, Fraction], contracts: Mapping[str, Contract]
) -> MoveStep | SaleStep:
    parent = _named_first(rows[0], contracts)
    is_rights = rows[0].code == "RI" or "RIGHTS ISSUE" in _said(rows[0]).upper()
    if parent is None and is_rights and len(rows) == 1:
        return SaleStep(*_common(rows), rows[0].contract, Fraction(rows[0].qty), Fraction(0))
    if parent is None:
        raise _InexpressibleError(
            "expected the parent's row or trades in the files, found nothing of what the text "
            "names first"
        )
    if is_rights:
        shares: list[Fraction | None] = [Fraction(0)] * len(rows)  # rights cost nothing
    else:
        shares = _shares(rows, ratios, whole=False)
    found = _RATIO.findall(_said(rows[0]))
    per_unit = None
    if len(rows) == len(found) == 1 and not is_rights:
        new, old = _text_ratio(rows[0])
        per_unit = new / old
    return MoveStep(*_common(rows), parent, _called(rows[0]), None,
                    tuple(zip(rows, shares, strict=True)), per_unit=per_unit)  # fmt: skip


def _is_named_first(row: Action) -> bool:
    """Tell whether a row is of the instrument that its text begins with: what goes."""
    leading = _LEADING.match(row.text)
    symbol = row.contract.symbol
    own = {row.contract.isin, symbol.partition(" ")[0] if _is_option(row) else symbol} - {""}
    return leading is not None and not own.isdisjoint((leading["isin"], leading["symbol"].strip()))


def _named_first(row: Action, contracts: Mapping[str, Contract]) -> Contract | None:
    leading = _LEADING.match(row.text)
    if leading is None:
        return None
    for name in (leading["isin"], leading["symbol"].strip()):
        # A share that is listed twice has one ISIN, and two currencies.
        found = contracts.get(f"{name} {row.contract.currency}") or contracts.get(name)
        if found is not None:
            return found
    return None


def _shares(
    rows: list[Action], ratios: Mapping[str, Fraction], *, whole: bool
) -> list[Fraction | None]:
    """Find each row's share of the cost; of a whole that is divided the last one follows."""
    if whole and len(rows) == 1:
        return [Fraction(1)]
    shares: list[Fraction | None] = [
        next((ratios[name] for name in names_of(row) if name in ratios), None) for row in rows
    ]
    missing = [row for row, share in zip(rows, shares, strict=True) if share is None]
    if whole and len(missing) == 1:
        rest = 1 - sum((share for share in shares if share is not None), Fraction(0))
        return [rest if share is None else share for share in shares]
    if missing:
        asked = " ".join(f"--ratio {names_of(row)[0]}=SHARE" for row in missing)
        raise _InexpressibleError(
            f"expected to be told which share of the cost goes to {missing[0].contract.symbol} "
            f"(it stands in no row; the issuer's form 8937 says it): {asked}"
        )
    total = sum((share for share in shares if share is not None), Fraction(0))
    if total > 1 or (whole and total != 1):
        raise _InexpressibleError(f"expected shares of the cost that add up, found {total}")
    return shares


def paid_id(step: Step) -> str:
    """Return the exec_id of the sale of what a merger pays in cash."""
    return f"{step.id}-paid"


def names_of(row: Action) -> list[str]:
    """Return what `--ratio` may call a row."""
    return [name for name in (row.transaction_id, row.contract.con_id, row.contract.symbol) if name]
