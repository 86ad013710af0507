"""The account's figures and orders, from what the library tells of them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ib_insync import AccountValue, Contract, Order, OrderStatus, Trade

from connectors.ibkr.account import Accounts, OpenOrder, account_figures, open_orders
from connectors.ibkr.session import ReadingIB


def library(**answers: Any) -> ReadingIB:
    """Return what stands for the library's connection, with its answers by method."""

    def answer(name: str) -> Any:
        async def later() -> Any:
            return answers[name]

        return later if name.endswith("Async") else lambda: answers[name]

    return cast("ReadingIB", SimpleNamespace(**{name: answer(name) for name in answers}))


def asked(order: Order, contract: Contract) -> OpenOrder:
    trade = Trade(contract, order, OrderStatus(status="Submitted", filled=2.5))
    ib = library(reqAllOpenOrdersAsync=[trade])
    [found] = asyncio.run(open_orders(ib, Accounts(), 5.0))
    return found


@pytest.mark.parametrize(
    ("order_type", "limit", "stop"),
    [
        ("MKT", "", ""), ("LMT", "10.5", ""), ("STP", "", "9"), ("STP LMT", "10.5", "9"),
        ("TRAIL", "", ""),
    ],
)  # fmt: skip
def test_an_order_has_the_prices_that_its_type_is_about(
    order_type: str, limit: str, stop: str
) -> None:
    order = Order(
        orderId=7, clientId=3, action="SELL", totalQuantity=300.0, orderType=order_type,
        lmtPrice=10.5, auxPrice=9.0, tif="GTC", account="U1", orderRef="trend",
    )  # fmt: skip
    assert asked(order, Contract(symbol="AAPL")) == OpenOrder(
        "U1", "AAPL", "SELL", "300", order_type, limit, stop, "GTC", "Submitted", "2.5", 7, 3,
        "trend",
    )  # fmt: skip


def test_an_order_is_of_the_name_that_tells_its_contract_from_others() -> None:
    order, call = Order(account="U1", orderType="MKT"), "AAPL  260717C00200000"
    assert asked(order, Contract(symbol="AAPL", localSymbol=call)).symbol == call


def test_figures_are_the_accounts_own_and_neither_a_models_nor_the_sum() -> None:
    told = [
        AccountValue("U1", "CashBalance", "5.0", "USD", ""),
        AccountValue("U1", "CashBalance", "7", "EUR", ""),
        AccountValue("U1", "CashBalance", "12", "BASE", ""),
        AccountValue("U1", "CashBalance", "1", "USD", "a model"),
        AccountValue("U1", "Cushion", "1", "USD", ""),
        AccountValue("U1", "BuyingPower", "9", "USD", ""),
        AccountValue("U2", "BuyingPower", "8", "USD", ""),
        AccountValue("F1", "BuyingPower", "8", "USD", ""),
    ]
    assert account_figures(library(accountValues=told), Accounts()) == {
        "U1": {"CashBalance": {"USD": "5", "EUR": "7"}, "BuyingPower": {"USD": "9"}},
        "U2": {"BuyingPower": {"USD": "8"}},
    }


def test_the_accounts_that_are_followed_are_those_named_else_all_but_a_masters() -> None:
    every = ("U1", "DU2", "F3", "DF4", "F")
    assert [each for each in every if each in Accounts()] == ["U1", "DU2", "F"]
    assert [each for each in every if each in Accounts(["F3", "U1"])] == ["U1", "F3"]
