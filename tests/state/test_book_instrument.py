"""What belongs to the key: currency, multiplier and contract numbers; and what is shown of it."""

from itertools import permutations
from typing import Any

import pytest

from state.book import Book
from state.exact import ONE, from_text
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)
from tests.support.notation import exec_id, execution


def buy(number: int, **says: Any) -> Execution:
    return execution("BUY 1 @ 10", number)._replace(instrument=instrument(**says))


def held(name: str = "opening", **says: Any) -> Opening:
    return Opening(name, 1000, ONE, 10 * ONE, None, instrument(**says))


def report(number: int, currency: str | None = None) -> CommissionReport:
    name = exec_id(number)
    return CommissionReport(name, name, 1, 1000 * number, ONE, currency)


def instrument(
    currency: str | None = None,
    multiplier: str | None = None,
    con_id: int | None = None,
    sec_type: str | None = None,
) -> Instrument:
    return Instrument(currency, from_text(multiplier) if multiplier else None, con_id, sec_type)


def book_of(*taken: Message) -> Book:
    book = Book("XYZ")
    for each in taken:
        book.apply(each)
    return book


def shown(book: Book) -> tuple[str, int, int | None, str | None]:
    told = book.snapshot()
    return told.currency, told.multiplier // ONE, told.con_id, told.sec_type


OTHERS: list[Message] = [
    report(1, "GBP"), Split("a", 1, 2, 1), Cost("a", 1, ONE), TransferOut("a", 1),
    TransferIn("b", 1, ONE, ONE, None, 1), ContractNumber(1, 9), Opening("x", 1, 0, None),
]  # fmt: skip
"""Messages that say nothing of currency and multiplier."""


def test_what_no_message_says_is_usd_and_one() -> None:
    assert shown(book_of()) == ("USD", 1, None, None)
    assert shown(book_of(buy(1))) == ("USD", 1, None, None)


def test_what_a_message_leaves_out_is_what_the_key_has() -> None:
    book = book_of(buy(1, currency="EUR", multiplier="50", con_id=7), buy(2), buy(3, con_id=7))
    assert shown(book) == ("EUR", 50, 7, None)
    assert book.snapshot().cost_basis == 3 * 10 * 50 * 10**20


@pytest.mark.parametrize("first", [buy(1), held()], ids=["execution", "opening"])
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"currency": "EUR"}, "currency: expected 'USD', as before, found 'EUR'"),
        ({"multiplier": "100"}, "multiplier: expected 1, as before, found 100"),
        ({"multiplier": "0.5"}, "multiplier: expected 1, as before, found 0.5"),
    ],
)
def test_another_currency_or_multiplier_is_refused_and_leaves_no_trace(
    says: dict[str, str], reason: str, first: Message
) -> None:
    book = book_of(first)
    state = book.to_state()
    others: list[Message] = [
        buy(2, con_id=7, **says),
        buy(1, con_id=7, **says),
        held("other", con_id=7, **says),
    ]
    for other in others:
        with pytest.raises(RejectedError) as refused:
            book.apply(other)
        assert str(refused.value) == reason
        assert book.to_state() == state
    assert book.apply(buy(2, con_id=8)), "the contract number of a refused message is not taken"


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other).__name__)
def test_only_executions_and_openings_settle_what_belongs_to_the_key(other: Message) -> None:
    book = book_of(other, buy(1, currency="EUR", multiplier="100", con_id=7))
    assert shown(book)[:3] == ("EUR", 100, 7)


@pytest.mark.parametrize("first", [buy(1), held(), execution("#1.2 BUST at 1")])
def test_the_first_that_is_taken_settles_what_it_leaves_out(first: Message) -> None:
    for late in ({"currency": "EUR"}, {"multiplier": "100"}):
        with pytest.raises(RejectedError):
            book_of(first).apply(buy(9, **late))


def test_a_message_that_was_refused_settles_nothing() -> None:
    book = book_of()
    # No cost basis may reach 1e17.
    huge = execution("BUY 900000000 @ 900000000")._replace(instrument=instrument("GBP", "100", 3))
    with pytest.raises(RejectedError):
        book.apply(huge)
    assert book.apply(buy(1, currency="EUR", multiplier="50", con_id=7))
    assert shown(book) == ("EUR", 50, 7, None)


def test_a_message_refused_for_another_reason_says_nothing_of_the_instrument() -> None:
    book = book_of(buy(1))
    with pytest.raises(RejectedError, match="price"):
        book.apply(buy(1, con_id=7)._replace(price=1))
    # Said again, it is not taken for what was settled already.
    assert book.apply(buy(2, con_id=7))
    with pytest.raises(RejectedError, match="con_id: expected 7, as before, found 8"):
        book.apply(buy(3, con_id=8))


# --- contract numbers -----------------------------------------------------------------------


def test_a_contract_number_may_become_known_later() -> None:
    book = book_of(buy(1), buy(2, con_id=7))
    assert book.snapshot().con_id == 7
    with pytest.raises(RejectedError, match=r"^con_id: expected 7, as before, found 8$"):
        book.apply(buy(3, con_id=8))
    with pytest.raises(RejectedError, match=r"^con_id: expected 7"):
        book.apply(held(con_id=8))


def test_a_key_may_get_another_contract_number_and_keeps_the_first() -> None:
    book = book_of(buy(1, con_id=7))
    assert book.apply(ContractNumber(9000, 8)) is None, "it makes no row"
    assert book.apply(buy(3, con_id=8)), "whatever the time of the one or the other"
    assert book.apply(buy(2, con_id=7))
    assert book.snapshot().con_id == 8
    with pytest.raises(RejectedError, match=r"^con_id: expected 7.* found 9$"):
        book.apply(buy(4, con_id=9))


def test_a_further_contract_number_is_no_further_multiplier() -> None:
    """A book counts multipliers in units of 10^-10: 0.1 is 1,000,000,000 of them."""
    book = book_of(buy(1), ContractNumber(9000, 1_000_000_000))
    with pytest.raises(RejectedError, match=r"^multiplier: expected 1, as before, found 0\.1$"):
        book.apply(buy(2, multiplier="0.1"))


def test_an_instrument_message_that_comes_first_leaves_the_first_number_open() -> None:
    book = book_of(ContractNumber(1000, 8), buy(1, con_id=7), buy(2, con_id=8))
    with pytest.raises(RejectedError, match=r"^con_id"):
        book.apply(buy(3, con_id=9))


def test_a_number_that_is_known_already_is_the_first_one_when_it_is_named_first() -> None:
    book = book_of(ContractNumber(1000, 8), buy(1, con_id=8))
    with pytest.raises(RejectedError, match=r"^con_id: expected 8, as before, found 9"):
        book.apply(buy(3, con_id=9))


def test_a_book_read_back_from_its_state_knows_the_same_numbers() -> None:
    messages: list[Message] = [
        buy(1), ContractNumber(1, 8), buy(2, con_id=7, sec_type="STK"), buy(3, con_id=8), buy(4),
    ]  # fmt: skip
    straight, cut = Book("XYZ"), Book("XYZ")
    for each in messages:
        straight.apply(each)
        cut.apply(each)
        cut = Book.from_state(cut.to_state())
    assert straight.to_state() == cut.to_state()
    assert shown(straight) == shown(cut) == ("USD", 1, 8, "STK")
    with pytest.raises(RejectedError):
        cut.apply(buy(5, con_id=9))


# --- what is shown --------------------------------------------------------------------------


def test_the_type_and_the_number_shown_are_those_named_last_in_booking_order() -> None:
    messages: list[Message] = [
        buy(1, con_id=7, sec_type="STK"), buy(2, sec_type="CFD"), buy(3),
        held(con_id=7, sec_type="OPT"),
    ]  # fmt: skip
    for order in permutations(messages):
        assert shown(book_of(*order)) == ("USD", 1, 7, "CFD")


def test_what_a_late_execution_says_is_shown_once_a_later_one_says_it_again() -> None:
    before = [buy(5, con_id=7, sec_type="STK"), buy(1, con_id=7, sec_type="CFD")]
    assert shown(book_of(*before)) == ("USD", 1, 7, "STK")
    assert shown(book_of(*before, buy(9, con_id=7, sec_type="CFD"))) == ("USD", 1, 7, "CFD")


@pytest.mark.parametrize("later", [{"con_id": 7}, {"sec_type": "STK"}])
def test_what_a_later_one_leaves_out_is_looked_for_before_it(later: dict[str, Any]) -> None:
    before = [buy(1, con_id=7, sec_type="STK"), buy(5, **later)]
    assert shown(book_of(*before, buy(3))) == ("USD", 1, 7, "STK")


def test_an_opening_tells_the_type_and_the_number_while_nothing_later_does() -> None:
    assert shown(book_of(held(con_id=7, sec_type="STK"))) == ("USD", 1, 7, "STK")
    assert shown(book_of(buy(1), held(con_id=7, sec_type="STK"))) == ("USD", 1, 7, "STK")
    removal = Opening("opening", 5, 0, None)
    assert shown(book_of(held(con_id=7, sec_type="STK"), removal)) == ("USD", 1, None, None)


def test_what_a_busted_or_corrected_execution_said_is_not_shown() -> None:
    first = buy(1, con_id=7, sec_type="STK")
    bust = execution("#1.2 BUST at 1")._replace(instrument=instrument(sec_type="OPT"))
    assert shown(book_of(first, bust)) == ("USD", 1, None, None)
    bust = bust._replace(instrument=first.instrument)
    said_again = buy(2)._replace(instrument=first.instrument)
    assert shown(book_of(first, bust, said_again)) == ("USD", 1, 7, "STK")
    again = execution("#1.2 BUY 2 @ 3 at 1")._replace(instrument=instrument(sec_type="FUT"))
    assert shown(book_of(first, again)) == ("USD", 1, None, "FUT")
