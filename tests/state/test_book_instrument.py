"""What belongs to the key: currency, multiplier and contract number."""

from itertools import permutations
from typing import Any

import pytest

from state.book import Book
from state.exact import ONE, from_text
from state.messages import CommissionReport, Execution, Instrument, Message, RejectedError, Split
from tests.support.notation import exec_id, execution


def buy(number: int, **says: Any) -> Execution:
    return execution("BUY 1 @ 10", number)._replace(instrument=instrument(**says))


def cost(number: int, **says: Any) -> CommissionReport:
    name = exec_id(number)
    return CommissionReport(name, name, 1, 1000 * number, ONE, instrument(**says))


def instrument(
    currency: str | None = None, multiplier: str | None = None, con_id: int | None = None
) -> Instrument:
    return Instrument(currency, from_text(multiplier) if multiplier else None, con_id)


def test_what_no_message_says_is_usd_and_one() -> None:
    book = Book("XYZ")
    book.apply(buy(1))
    assert book.instrument == instrument("USD", "1")


def test_what_a_message_leaves_out_is_what_the_key_has() -> None:
    book = Book("XYZ")
    book.apply(buy(1, currency="EUR", multiplier="50", con_id=7))
    book.apply(buy(2))
    book.apply(buy(3, con_id=7))
    assert book.instrument == instrument("EUR", "50", 7)
    assert book.snapshot().cost_basis == 3 * 10 * 50 * 10**20


def test_a_contract_number_may_become_known_later() -> None:
    book = Book("XYZ")
    book.apply(buy(1))
    book.apply(buy(2, con_id=7))
    assert book.instrument.con_id == 7
    with pytest.raises(RejectedError, match=r"^con_id: expected 7, as before, found 8$"):
        book.apply(buy(3, con_id=8))


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"currency": "EUR"}, "currency: expected 'USD', as before, found 'EUR'"),
        ({"multiplier": "100"}, "multiplier: expected 1, as before, found 100"),
        ({"multiplier": "0.5"}, "multiplier: expected 1, as before, found 0.5"),
    ],
)
def test_another_currency_or_multiplier_is_refused_and_leaves_no_trace(
    says: dict[str, str], reason: str
) -> None:
    book = Book("XYZ")
    book.apply(buy(1))
    state = book.to_state()
    others: list[Message] = [
        buy(2, con_id=7, **says), buy(1, con_id=7, **says), cost(1, con_id=7, **says),
        Split(9, 2, 1, instrument(con_id=7, **says)),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(RejectedError) as refused:
            book.apply(other)
        assert str(refused.value) == reason
        assert book.to_state() == state
    assert book.apply(buy(2, con_id=8)), "the contract number of a refused message is not taken"


def test_a_message_refused_for_another_reason_says_nothing_of_the_instrument() -> None:
    book = Book("XYZ")
    book.apply(buy(1))
    with pytest.raises(RejectedError, match="price"):
        book.apply(buy(1, con_id=7)._replace(price=1))
    assert book.apply(buy(2, con_id=8))


def test_a_report_that_comes_first_tells_the_currency_and_leaves_the_rest_open() -> None:
    book = Book("XYZ")
    assert book.apply(cost(1, currency="EUR")) is None
    book.apply(buy(1, multiplier="100"))
    assert book.instrument == instrument("EUR", "100")
    with pytest.raises(RejectedError, match=r"^currency: expected 'EUR', as before, found 'USD'$"):
        book.apply(buy(2, currency="USD"))


def test_what_a_report_says_of_the_instrument_is_heard_in_any_order() -> None:
    says: dict[str, Any] = {"currency": "EUR", "multiplier": "100", "con_id": 7}
    messages: list[Message] = [
        buy(1, **says),
        cost(1, **says),
        buy(2, con_id=7),
        buy(3, multiplier="100"),
    ]
    for order in permutations(messages):
        if order[0] not in messages[:2]:
            continue  # the others alone would make the key's currency USD
        book = Book("XYZ")
        for each in order:
            book.apply(each)
        assert book.instrument == instrument("EUR", "100", 7)


def test_a_book_read_back_from_its_state_hears_the_same() -> None:
    # A contract number first named by a report, then by an execution.
    messages: list[Message] = [buy(1), cost(1, con_id=7), buy(2, con_id=7)]
    straight, cut = Book("XYZ"), Book("XYZ")
    for each in messages:
        straight.apply(each)
        cut.apply(each)
        cut = Book.from_state(cut.to_state())
    assert straight.to_state() == cut.to_state()
    assert straight.instrument.con_id == 7
