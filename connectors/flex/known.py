"""What was known before an import: of executions, of other messages, of names.

Whoever starts an import fills this from the history, the stream and the hash of
instruments; the rules of an import only ask it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from connectors.flex.lots import Held, Holding, Number
from connectors.flex.records import Contract
from state.names import plain_name, possible_names


class KnownExecution(NamedTuple):
    """An execution that was booked or is on its way to be."""

    symbol: str
    exec_id: str
    """With its latest revision."""
    qty: Decimal
    """Signed; 0 if it was busted."""
    price: Decimal
    time: int
    commission: Decimal | None = None
    commission_currency: str = ""
    commission_time: int = 0
    """The time of the report that counts; 0 if only the execution itself says it."""
    adjustment: Decimal = Decimal(0)


class KnownEvent(NamedTuple):
    """What changed the lots of a key."""

    time: int
    kind: str
    """`execution`, `opening`, `split`, `cost`, `out`, `in`; `gone`: its figures are lost."""
    id: str
    """The identity of an execution, the exec_id of all else."""
    qty: Number = 0
    """Signed; of a split the ratio."""
    value: Number = 0
    """Money without charges; of `cost` the money per unit."""
    charge: Number = 0
    opened: int = 0
    """When a lot that came in was opened; of a split its decimal places."""
    elsewhere: str = ""
    """The currency of a commission that `charge` leaves out."""


@dataclass
class Known:
    """All that was known before."""

    executions: Mapping[tuple[str, str], KnownExecution] = field(default_factory=dict)
    """By account and identity."""
    others: frozenset[tuple[str, str, str]] = frozenset()
    """Type, account and exec_id of each opening, split, cost and transfer."""
    events: Mapping[tuple[str, str], Sequence[KnownEvent]] = field(default_factory=dict)
    """By account and symbol; of the keys that were asked for, in order of booking."""

    opened_since: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By account and symbol: what was before this moment, an imported opening stands for."""

    def execution(self, account: str, identity: str) -> KnownExecution | None:
        """Find an execution; one that was booked without an account is the same one."""
        found = self.executions.get((account, identity))
        return found if found is not None else self.executions.get(("", identity))


class Named(NamedTuple):
    """An instrument that gets its name by this import."""

    contract: Contract
    names: list[str]
    """What it may be called, the best first; the one name of another contract if `shared`."""
    shared: bool


class Names:
    """The names of instruments, by con_id; a new one never takes another's."""

    def __init__(
        self,
        remembered: Mapping[str, str],
        multipliers: Mapping[str, Decimal] | None = None,
        currencies: Mapping[str, str] | None = None,
    ) -> None:
        self._names = dict(remembered)
        self._taken = set(self._names.values())
        self._multipliers = multipliers or {}
        self._currencies = dict(currencies or {})
        self.new: dict[str, Named] = {}
        """By con_id."""

    def known(self, con_id: str) -> str | None:
        """Return a contract's name if it has one."""
        return self._names.get(con_id)

    def other_multiplier(self, contract: Contract) -> Decimal | None:
        """Return what a point is remembered to be worth, if it is not what the row says."""
        remembered = self._multipliers.get(contract.con_id, contract.multiplier)
        return None if remembered == contract.multiplier else remembered

    def other_currency(self, contract: Contract) -> str:
        """Return the currency that a contract is known in, if it is not the row's, else ""."""
        known = self._currencies.get(contract.con_id, "")
        return known if contract.currency not in ("", known) else ""

    def of(self, contract: Contract, symbol: str = "") -> str:
        """Return a contract's name, a new one if it has none.

        symbol: to be called by instead of the row's own, as that is no ticker.
        """
        con_id = contract.con_id
        if not con_id:
            return contract.symbol
        if con_id not in self._names:
            own = symbol or contract.symbol
            plain = plain_name(
                sec_type=contract.sec_type, symbol=own, local_symbol=own,
                currency=contract.currency, con_id=con_id,
            )  # fmt: skip
            names = possible_names(plain, con_id, contract.exchange)
            free = next(name for name in names if name not in self._taken)
            self._give(contract, free, names[names.index(free) :], shared=False)
        return self._names[con_id]

    def share(self, contract: Contract, name: str) -> None:
        """Let a contract have a name that another has too: both are one position."""
        self._give(contract, name, [name], shared=True)

    def _give(self, contract: Contract, name: str, names: list[str], *, shared: bool) -> None:
        self._names[contract.con_id] = name
        self._currencies.setdefault(contract.con_id, contract.currency)
        self._taken.add(name)
        self.new[contract.con_id] = Named(contract, names, shared)


def book(holding: Holding, event: KnownEvent) -> None:
    """Let an event change what a key holds."""
    match event.kind:
        case "execution" | "opening":
            holding.trade(event.id, event.time, event.qty, event.value, event.charge)
        case "split":
            holding.split(event.qty, event.opened)
        case "cost":
            holding.lay(event.value)
        case "out":
            holding.leave(abs(Fraction(event.qty)))
        case "gone":
            holding.unclear = event.id
        case _:
            holding.join(Held(event.id, event.opened, Fraction(event.qty), Fraction(event.value)))
