"""What an import must know of the past: from the Parquet history and from the stream.

The history has every message that was booked, however long ago; the stream has what is
not booked yet. The stream is asked first how far the flow has come, so that nothing
falls between the two.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from connectors.flex.draft import Key
from connectors.flex.known import Known, KnownEvent, KnownExecution, Names
from connectors.flex.records import Cancel
from connectors.redis.instruments import InstrumentHash
from connectors.redis.link import RedisLink, texts
from connectors.redis.names import GROUP, cancelled_key
from connectors.redis.partitions import agree
from flows.common.rows import all_files, laid, scan
from flows.common.settings import Settings
from state.exact import milliseconds
from state.keys import parse_exec_id, partition_of, position_key
from state.records import FIRST_ID

_OPENING = re.compile(r"flex-open-(\d+)-\d+")
_ACTIONS = ("opening", "split", "cost", "transfer")
_SETTLING = ("execution", "opening")
"""What says what a key's currency is, and what a point of its price is worth."""


class Said(NamedTuple):
    """One message of the past, as far as an import asks for it."""

    account: str
    symbol: str
    kind: str
    exec_id: str
    time: int
    qty: Decimal
    """Signed."""
    price: Decimal
    multiplier: Decimal
    currency: str
    """The key's; "" if it does not speak of it."""
    commission: Decimal | None
    commission_currency: str
    """"" for the key's."""
    adjustment: Decimal | None
    """What the execution bears of adjustments after it; None if it says nothing of them."""
    fields: Mapping[str, str]
    """The entry's own, where it is at hand."""


class Match(NamedTuple):
    """What an execution closed of one lot."""

    account: str
    symbol: str
    closed_by: str
    """The identity of the execution that closed."""
    closed: int
    opened_by: str
    opened: int
    qty: Decimal
    """Signed as the lot was."""
    realized: Decimal
    """Gross."""
    point: Decimal
    """The closing price in money per unit."""


class History:
    """What is known of the past; nothing is changed.

    data_dir: the flow's. streams: all partitions, in order. booked: leave out what the
    flow has not booked yet.
    """

    def __init__(
        self, link: RedisLink, streams: list[str], data_dir: Path, *, booked: bool = False
    ) -> None:
        agree(link, streams, record=False)
        self._link, self._streams, self._data_dir = link, streams, data_dir
        self._has_files = bool(all_files(data_dir / "positions"))
        # Asked before the files are listed: what is booked meanwhile is then known twice.
        self._after = {stream: self._committed(stream) for stream in streams}
        self._booked_only = booked
        self._rows = scan(data_dir).sort("arrival", "number")

    def names(self, remembered: Mapping[str, str]) -> dict[str, str]:
        """Return the names of instruments by con_id: what is remembered, else the last used."""
        used = (
            self._rows.filter(pl.col("con_id").is_not_null())
            .group_by("con_id", maintain_order=True)
            .agg(pl.col("symbol").last())
            .collect()
        )
        names = {str(con_id): symbol for con_id, symbol in used.rows()}
        for fields in self._tail():
            if fields.get("con_id") and fields.get("type", "execution") == "execution":
                names[fields["con_id"]] = fields["symbol"]
        return names | dict(remembered)

    def known(self, identities: set[tuple[str, str]], watched: set[Key]) -> Known:
        """Return what is known of executions by account and identity, and of whole keys."""
        wanted = {identity for _, identity in identities}
        by_identity: dict[tuple[str, str], list[Said]] = defaultdict(list)
        others: set[tuple[str, str, str]] = set()
        of_keys: dict[Key, list[Said]] = {key: [] for key in watched}
        currencies: dict[Key, str] = {}
        since: dict[Key, int] = {}
        for said in self._said(wanted, watched):
            if said.currency:
                currencies.setdefault((said.account, said.symbol), said.currency)
            if said.kind in _ACTIONS:
                others.add((said.kind, said.account, said.exec_id))
                if said.kind == "opening" and (match := _OPENING.fullmatch(said.exec_id)):
                    since[said.account, said.symbol] = int(match[1])
            else:
                identity = parse_exec_id(said.exec_id).identity
                if identity in wanted:
                    by_identity[said.account, identity].append(said)
            if (said.account, said.symbol) in of_keys:
                of_keys[said.account, said.symbol].append(said)
        return Known(
            {
                key: found
                for key, told in by_identity.items()
                if (found := _execution(told, currencies)) is not None
            },
            frozenset(others),
            {key: _events(told, currencies) for key, told in of_keys.items()},
            since,
        )

    def holding(self, accounts: Iterable[str]) -> set[Key]:
        """Return the keys of accounts that hold anything but currencies; booked ones only."""
        last = (
            self._rows.filter(pl.col("account").is_in(list(accounts)))
            .group_by("account", "symbol", maintain_order=True)
            .agg(pl.col("qty", "sec_type").last())
            .filter((pl.col("qty") != 0) & (pl.col("sec_type") != "CASH"))
            .select("account", "symbol")
        )
        return set(last.collect().rows())

    def matches(self, identities: set[tuple[str, str]]) -> list[Match]:
        """Return the matches that stand of what executions closed; booked ones only."""
        wanted = list({identity for _, identity in identities})
        names = (
            "account", "symbol", "close_exec_id", "close_timestamp", "open_exec_id",
            "open_timestamp", "direction", "open_price", "close_price", "multiplier",
        )  # fmt: skip
        rows = (
            scan(self._data_dir, "closed_lots")
            .filter(_identity(pl.col("close_exec_id")).is_in(wanted))
            .group_by(names)
            .agg(pl.col("qty", "realized_pnl").sum())
            .filter((pl.col("qty") != 0) | (pl.col("realized_pnl") != 0))
            .sort("close_timestamp", "open_timestamp", "open_exec_id")
        )
        return [
            Match(
                row["account"] or "", row["symbol"],
                parse_exec_id(row["close_exec_id"]).identity, milliseconds(row["close_timestamp"]),
                parse_exec_id(row["open_exec_id"]).identity, milliseconds(row["open_timestamp"]),
                row["qty"] if row["direction"] == "LONG" else -row["qty"], row["realized_pnl"],
                row["close_price"] * row["multiplier"],
            )
            for row in rows.collect().iter_rows(named=True)
        ]  # fmt: skip

    # --- both sources --------------------------------------------------------------------

    def _said(self, wanted: set[str], watched: set[Key]) -> Iterator[Said]:
        yield from self._booked(wanted, watched)
        for fields in self._tail():
            try:
                said = _said_by(fields)
                if said.kind in _ACTIONS:
                    _action_event(said, Fraction(1))
            except (ArithmeticError, KeyError, ValueError):
                continue  # it becomes a dead letter
            yield said

    def _booked(self, wanted: set[str], watched: set[Key]) -> Iterator[Said]:
        key = pl.concat_str(pl.col("account").fill_null(""), pl.lit(":"), "symbol")
        rows = self._rows.with_columns(
            charged=_change("commission"), adjusted=_change("basis_adjustment")
        ).filter(
            pl.col("type").is_in(_ACTIONS)
            | key.is_in([f"{account}:{symbol}" for account, symbol in watched])
            | _identity(pl.col("exec_id")).is_in(list(wanted))
        )
        names = [
            "account", "symbol", "type", "exec_id", "message_timestamp", "side", "fill_qty",
            "fill_price", "multiplier", "message_commission", "message_commission_currency",
            "currency", "charged", "adjusted", "message_terms", "stream_id",
        ]  # fmt: skip
        bears: dict[tuple[str, str, str], tuple[Decimal, Decimal]] = {}
        by_costs = laid(self._data_dir)
        for row in rows.select(names).collect().iter_rows():
            (account, symbol, kind, exec_id, time, side, qty, price, multiplier, commission,
             commission_currency, currency, charged, adjusted, terms, stream_id) = row  # fmt: skip
            of_watched = kind in _ACTIONS and (account or "", symbol) in watched
            qty = qty or Decimal(0)
            one = account or "", symbol, parse_exec_id(exec_id or "").identity
            before = bears.get(one, (Decimal(0), Decimal(0)))
            key_name = position_key(symbol, account)
            adjusted -= by_costs.get((key_name, stream_id), 0)
            bears[one] = charged, adjusted = before[0] + charged, before[1] + adjusted
            if commission is None and charged:  # of a report that came first, and has no row
                commission = charged
            yield Said(
                account or "", symbol, kind, exec_id or "", milliseconds(time),
                -qty if side == "SELL" else qty, price or Decimal(0), multiplier,
                currency if kind in _SETTLING else "",
                commission, commission_currency or "", adjusted or None,
                self._terms(terms, key_name, stream_id) if of_watched else {},
            )  # fmt: skip

    def _terms(self, terms: str | None, key: str, entry_id: str) -> Mapping[str, str]:
        """Return what a row's message said; of an old row without terms, its entry.

        Without either its figures are not known.
        """
        if terms:
            said: dict[str, str | None] = json.loads(terms, parse_float=str, parse_int=str)
            return {name: text for name, text in said.items() if text is not None}
        stream = self._streams[partition_of(key, len(self._streams))]
        entries: Any = self._link.call(lambda client: client.xrange(stream, entry_id, entry_id))
        return texts(entries[0][1]) if entries else {"gone": entry_id}

    def _committed(self, stream: str) -> str:
        """Return the last entry whose row is in the history; without files there is none."""
        if not self._has_files:
            return FIRST_ID
        groups: Any = self._link.call(
            lambda client: client.xinfo_groups(stream) if client.exists(stream) else []
        )
        ids = [group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()]
        return ids[0].decode() if ids else FIRST_ID

    def _tail(self) -> Iterator[dict[str, str]]:
        """Yield the entries that the flow has not booked yet."""
        if not self._booked_only:
            for stream, after in self._after.items():
                yield from self._link.entries(stream, after)

    @property
    def behind(self) -> int:
        """How many entries the flow has not booked yet."""
        return sum(
            sum(1 for _ in self._link.entries(stream, after))
            for stream, after in self._after.items()
        )


def _change(column: str) -> pl.Expr:
    before = pl.col(column).shift(1, fill_value=0).over("account", "symbol")
    return pl.col(column) - before


def _identity(exec_id: pl.Expr) -> pl.Expr:
    return exec_id.str.replace(r"^([0-9A-Za-z]{8}\.[0-9A-Za-z]{8}\.\d{2})\.\d{2}$", "${1}.01")


def _said_by(fields: Mapping[str, str]) -> Said:
    kind = fields.get("type") or "execution"
    qty, sides = _decimal(fields, "fill_qty") or Decimal(0), {"BUY": 1, "SELL": -1}
    paid_in = fields.get("currency" if kind == "commission" else "commission_currency")
    settles = kind in _SETTLING and (kind == "execution" or _decimal(fields, "qty"))
    return Said(
        fields.get("account", ""), fields["symbol"], kind,
        fields.get("exec_id") or ("opening" if kind == "opening" else fields["timestamp"]),
        int(fields["timestamp"]),
        qty * sides[fields.get("side", "").upper()] if kind == "execution" else qty,
        _decimal(fields, "fill_price") or Decimal(0),
        _decimal(fields, "multiplier") or Decimal(1),
        (fields.get("currency") or "USD") if settles else "",
        _decimal(fields, "commission"), paid_in or "", _decimal(fields, "basis_adjustment"),
        fields,
    )  # fmt: skip


def _decimal(fields: Mapping[str, str], name: str) -> Decimal | None:
    if not fields.get(name):
        return None
    number = Decimal(fields[name])
    if not number.is_finite():
        raise ValueError(number)
    return number


# --- what messages come to -------------------------------------------------------------------


def _revision(said: Said) -> int:
    return parse_exec_id(said.exec_id).revision or 1


def _facts(said: Said) -> tuple[int, int, Decimal, Decimal]:
    return _revision(said), said.time, said.qty, said.price


def _execution(told: Iterable[Said], currencies: Mapping[Key, str]) -> KnownExecution | None:
    """Return what counts of an execution: the last revision, and the report that is valid."""
    told = list(told)
    executions = [said for said in told if said.kind == "execution"]
    if not executions:
        return None
    last = max(executions, key=_revision)  # of equal ones the first: the rest completes it
    reports = [said for said in told if said.kind == "commission" and said.commission is not None]
    # The latest of equal ones: the last to arrive.
    report = max(reversed(reports), key=lambda said: (_revision(said), said.time), default=None)
    # The same id with other figures is refused as a whole.
    own = [said for said in executions if _facts(said) == _facts(last)]
    said_itself = next((said for said in own if said.commission is not None), None)
    counts = report or said_itself
    currency = currencies.get((last.account, last.symbol), "")
    return KnownExecution(
        last.symbol, last.exec_id, last.qty, last.price, last.time,
        counts.commission if counts else None,
        counts.commission_currency or currency if counts else "",
        report.time if report else 0,
        next((said.adjustment for said in own if said.adjustment is not None), Decimal(0)),
    )  # fmt: skip


def _events(told: Iterable[Said], currencies: Mapping[Key, str]) -> list[KnownEvent]:
    """Return what changed the lots of one key, executions with their last revision."""
    told = list(told)
    # The first that can speak of it settles it for all, also for those that leave it out.
    multiplier = Fraction(next((said.multiplier for said in told if said.currency), 1))
    executions: dict[str, list[Said]] = defaultdict(list)  # in the order that they came in
    reports: dict[str, list[Said]] = defaultdict(list)
    actions: dict[tuple[str, str], KnownEvent] = {}
    for said in told:
        if said.kind in ("execution", "commission"):
            of_kind = executions if said.kind == "execution" else reports
            of_kind[parse_exec_id(said.exec_id).identity].append(said)
        elif said.kind in _ACTIONS:
            # The same again changes nothing; an opening of no quantity takes it back for good.
            event, one = _action_event(said, multiplier), (said.kind, said.exec_id)
            if one not in actions or (event.kind == "opening" and not event.qty):
                actions[one] = event
    events = list(actions.values())
    for identity, those in executions.items():
        known = _execution([*those, *reports[identity]], currencies)
        if known is not None and known.qty:
            value = Fraction(known.qty) * Fraction(known.price) * multiplier
            own = known.commission_currency == currencies.get((those[0].account, known.symbol), "")
            charge = (known.commission or 0) * own + known.adjustment
            elsewhere = known.commission_currency if known.commission and not own else ""
            event = KnownEvent(
                known.time, "execution", identity, known.qty, value, charge, elsewhere=elsewhere
            )
            events.append(event)
    return sorted(events, key=lambda event: event.time)


def _action_event(said: Said, multiplier: Fraction) -> KnownEvent:
    fields = said.fields
    if "gone" in fields:
        return KnownEvent(said.time, "gone", said.exec_id)
    qty = Fraction(fields.get("qty") or 0)
    match said.kind, fields.get("direction", "OUT").upper():
        case "split", _:
            new, old = fields["ratio"].split(":")
            ratio = Fraction(new) / Fraction(old)
            places = int(fields.get("places") or 10)
            return KnownEvent(said.time, "split", said.exec_id, ratio, opened=places)
        case "cost", _:
            per_unit = Fraction(fields["per_unit"]) * multiplier
            return KnownEvent(said.time, "cost", said.exec_id, value=per_unit)
        case "opening", _:
            value = _value(fields, qty, multiplier)
            return KnownEvent(said.time, "opening", said.exec_id, qty, value)
        case _, "IN":
            value, opened = _value(fields, qty, multiplier), int(fields["opened"])
            return KnownEvent(said.time, "in", said.exec_id, qty, value, opened=opened)
        case _, "OUT":
            return KnownEvent(said.time, "out", said.exec_id, qty or 10**17)
        case _, direction:
            raise ValueError(direction)


def _value(fields: Mapping[str, str], qty: Fraction, multiplier: Fraction) -> Fraction:
    if fields.get("cost_basis"):
        return Fraction(fields["cost_basis"])
    return qty * Fraction(fields["avg_price"]) * multiplier if qty else Fraction(0)


# --- names -----------------------------------------------------------------------------------


class Cancels:
    """Remembers cancellations whose trades were in no file, for when their files come."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        self._link, self._name = link, cancelled_key(settings.executions_stream)

    def known(self) -> list[Cancel]:
        """Return all that are remembered."""
        values: Any = self._link.call(lambda client: client.hvals(self._name))
        return [_cancel(json.loads(value)) for value in values]

    def keep(self, cancels: Sequence[Cancel]) -> None:
        """Remember cancellations too."""
        fields: dict[Any, Any] = {
            json.dumps(cancel.key): json.dumps(cancel._asdict(), default=str) for cancel in cancels
        }
        if fields:
            self._link.call(lambda client: client.hset(self._name, mapping=fields))


def _cancel(kept: Mapping[str, Any]) -> Cancel:
    return Cancel(
        kept["account"], tuple(kept["trade_ids"]), Decimal(kept["qty"]), Decimal(kept["price"]),
        kept["shown"], Decimal(kept.get("charge", 0)),
    )  # fmt: skip


def remembered(instruments: InstrumentHash, history: History) -> Names:
    """Return the names of instruments, and what their points are worth, as it is known."""
    records = instruments.known()
    names = {str(con_id): record["name"] for con_id, record in records.items()}
    multipliers = {
        str(con_id): Decimal(multiplier)
        for con_id, record in records.items()
        if (multiplier := record.get("multiplier"))
        and record.get("sec_type") not in ("BOND", "BILL")
    }
    currencies = {str(con_id): record.get("currency") or "" for con_id, record in records.items()}
    known = {con_id: name for con_id, name in names.items() if name}
    return Names(history.names(known), multipliers, currencies)


def remember(instruments: InstrumentHash, names: Names) -> list[str]:
    """Write new names to the hash; return the con_ids that another program named otherwise."""
    other = []
    for con_id, (contract, possible, shared) in names.new.items():
        priced = contract.sec_type not in ("BOND", "BILL")  # the router counts these otherwise
        record = {
            "symbol": contract.symbol, "sec_type": contract.sec_type,
            "currency": contract.currency,
            "multiplier": f"{contract.multiplier:f}" if priced else None,
            "local_symbol": contract.symbol, "primary_exchange": contract.exchange,
        }  # fmt: skip
        claim = instruments.share if shared else instruments.claim
        if claim(int(con_id), possible, record).get("name") != names.known(con_id):
            other.append(con_id)
    return other
