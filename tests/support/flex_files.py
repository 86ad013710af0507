"""Flex files of the tests' own making: rows from a few words, files from rows."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import count
from pathlib import Path
from xml.sax.saxutils import quoteattr
from zoneinfo import ZoneInfo

from connectors.codec import decode
from connectors.flex.contents import Contents
from connectors.flex.draft import Asked, Draft, Plan
from connectors.flex.known import Known, Names
from connectors.flex.plan import Planner
from connectors.flex.xml import read_rows
from state.book import Book
from state.exact import MONEY_PLACES

NEW_YORK = ZoneInfo("America/New_York")
ACCOUNT = "U7000001"
_numbers = count(1001)


def element(tag: str, **fields: object) -> str:
    """Return an element with attributes; None is left out."""
    said = " ".join(f"{name}={quoteattr(str(value))}" for name, value in fields.items()
                    if value is not None)  # fmt: skip
    return f"<{tag} {said} />"


def trade(symbol: str, qty: object, price: object, when: str, /, **more: object) -> str:
    """Return an execution row; qty is signed, when as the file writes it."""
    number = next(_numbers)
    fields: dict[str, object] = {
        "accountId": ACCOUNT, "currency": "USD", "assetCategory": "STK", "symbol": symbol,
        "conid": con_id(symbol), "multiplier": "1", "tradeID": number, "dateTime": when,
        "transactionType": "ExchTrade", "exchange": "ISLAND", "quantity": qty,
        "tradePrice": price, "taxes": "0", "ibCommission": "0", "ibCommissionCurrency": "USD",
        "transactionID": number + 500_000, "buySell": "BUY" if Decimal(str(qty)) > 0 else "SELL",
        "ibOrderID": number, "ibExecID": f"0000f1e0.{number:08x}.01.01",
        "levelOfDetail": "EXECUTION", "notes": "", "fifoPnlRealized": None, "cost": None,
    }  # fmt: skip
    return element("Trade", **{**fields, **more})


def option(symbol: str, qty: object, price: object, when: str, /, **more: object) -> str:
    """Return an execution row of an option; symbol as OSI writes it."""
    underlying = symbol[:-15].strip()
    said: dict[str, object] = {
        "assetCategory": "OPT", "multiplier": "100", "strike": f"{int(symbol[-8:]) / 1000:g}",
        "putCall": symbol[-9], "underlyingSymbol": underlying,
        "underlyingConid": con_id(underlying),
    }  # fmt: skip
    return trade(symbol, qty, price, when, **{**said, **more})


def booked(codes: str, **more: object) -> dict[str, object]:
    """Return what a row that the broker booked itself has otherwise than a trade."""
    said = {"transactionType": "BookTrade", "ibExecID": "", "notes": codes, "exchange": "--"}
    return {**said, **more}


def action(symbol: str, qty: object, text: str, when: str, /, **more: object) -> str:
    """Return a corporate action's row."""
    number = next(_numbers)
    fields: dict[str, object] = {
        "accountId": ACCOUNT, "currency": "USD", "assetCategory": "STK", "symbol": symbol,
        "conid": con_id(symbol), "multiplier": "1", "dateTime": when, "quantity": qty,
        "actionDescription": text, "proceeds": "0", "value": "0", "fifoPnlRealized": "0",
        "type": "", "code": "", "transactionID": number + 900_000, "levelOfDetail": "DETAIL",
    }  # fmt: skip
    return element("CorporateAction", **{**fields, **more})


def con_id(symbol: str) -> int:
    """Return the contract number that tests give a symbol."""
    return 10_000 + sum(place * ord(sign) for place, sign in enumerate(symbol, start=1))


def flex(
    trades: Iterable[str] = (), actions: Iterable[str] = (), *, section: str = "Trades",
    days: tuple[str, str] = ("20240101", "20241231"), generated: str = "20250101;000000",
    account: str = ACCOUNT, **sections: Iterable[str],
) -> str:  # fmt: skip
    """Return a file's text."""
    parts = {section: trades, "CorporateActions": actions, **sections}
    inner = "\n".join(
        f"<{name}>\n" + "\n".join(rows) + f"\n</{name}>" for name, rows in parts.items() if rows
    )
    head = (f'accountId="{account}" fromDate="{days[0]}" toDate="{days[1]}" '
            f'whenGenerated="{generated}"')  # fmt: skip
    return (
        '<FlexQueryResponse queryName="Tests" type="AF">\n<FlexStatements count="1">\n'
        f"<FlexStatement {head}>\n{inner}\n</FlexStatement>\n</FlexStatements>\n"
        "</FlexQueryResponse>\n"
    )


def contents(directory: Path, *texts: str) -> Contents:
    """Write files, and read them as one call."""
    found = Contents(NEW_YORK)
    for text in texts:
        path = directory / f"{next(_numbers)}.xml"
        path.write_text(text)
        found.add_file(read_rows(path))
    return found


def plan(
    directory: Path, *texts: str, known: Known | None = None, asked: Asked | None = None,
    names: Mapping[str, str] | None = None, multipliers: Mapping[str, Decimal] | None = None,
    currencies: Mapping[str, str] | None = None, openings: bool = False,
) -> Plan:  # fmt: skip
    """Return what an import of files would do."""
    draft = Draft(contents(directory, *texts), asked or Asked(), openings=openings)
    called = Names(names or {}, multipliers, currencies)
    watched = draft.watched(called)
    return Planner(draft, known or Known(), called, watched).plan()


def booked_nets(made: Plan) -> dict[str, Decimal]:
    """Book a plan's messages; return the net P&L that each message realized, by exec_id."""
    books: dict[tuple[str, str], Book] = {}
    nets: dict[str, Decimal] = {}
    for message in made.messages:
        pairs = [word.encode() for pair in message.fields.items() for word in pair]
        symbol, account, decoded = decode(pairs)
        applied = books.setdefault((account or "", symbol), Book(symbol, account)).apply(decoded)
        change = Decimal(applied.net_change).scaleb(-MONEY_PLACES) if applied else Decimal(0)
        name = message.fields.get("exec_id", "")
        nets[name] = nets.get(name, Decimal(0)) + change
    return nets
