"""The book alone: what matching an execution costs here and in others' books.

All get the same made-up executions, ready to be matched: no parsing, no Redis, no
files. The runs are as long as those that a read brings to each of 100 symbols.
"""

from collections.abc import Callable
from itertools import chain
from random import Random
from time import perf_counter

from flows.bench.peers import nautilus_us, simple_book_us
from flows.bench.report import Figure
from flows.bench.rig import FIRST_TIME, no_collection
from flows.bench.sizes import Sizes
from state.book import Book
from state.exact import ONE
from state.messages import Execution, Instrument
from state.run import Run, pack, pack_texts

TITLE = "The book alone, per execution"
STEPS = 4

_BOOKS = 10
_RUN_LENGTH = 20
_CENT = ONE // 100
_FEE = 35 * _CENT


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Match the same executions in each book that can be had."""
    books = [_executions(seed, sizes.of_book) for seed in range(_BOOKS)]
    with no_collection():
        step("book: in runs")
        in_runs = _in_runs_us(books)
        step("book: one by one")
        one_by_one = _one_by_one_us(books)
        step("book: a simple one")
        simple = simple_book_us(books)
        step("book: nautilus_trader")
        nautilus = nautilus_us(books)
    past = f"{sizes.of_book:,} executions each"
    figures = [
        Figure("book.runs", f"ours, in runs of {_RUN_LENGTH}", in_runs, "µs"),
        Figure("book.one_by_one", "ours, one by one", one_by_one, "µs", in_runs, "ours, in runs"),
        Figure("book.simple", "a deque of Decimals", simple, "µs", in_runs, "ours, in runs"),
    ]
    if nautilus is not None:
        what = f"nautilus_trader's Position.apply, {past}"
        figures.append(Figure("book.nautilus", what, nautilus, "µs", in_runs, "ours, in runs"))
    return figures


def _executions(seed: int, count: int) -> list[Execution]:
    random = Random(seed)  # noqa: S311  # any will do
    made = []
    for number in range(count):
        side = random.choice(("BUY", "SELL"))
        qty = random.randint(1, 500) * (ONE if side == "BUY" else -ONE)
        exec_id = f"0000e0d5.{number:08x}.01.01"
        made.append(
            Execution(
                exec_id, exec_id, 1, FIRST_TIME + number, qty,
                random.randint(1_000, 50_000) * _CENT, _FEE, number, side, Instrument("USD"),
            )
        )  # fmt: skip
    return made


def _in_runs_us(books: list[list[Execution]]) -> float:
    runs = [
        [_run_of(book[start : start + _RUN_LENGTH]) for start in range(0, len(book), _RUN_LENGTH)]
        for book in books
    ]
    start = perf_counter()
    for of_book in runs:
        book = Book("SYM")
        for run in of_book:
            assert book.apply_run(run) is not None
    return (perf_counter() - start) / sum(map(len, books)) * 1e6


def _run_of(fills: list[Execution]) -> Run:
    rows = [(one.timestamp, one.qty, one.price, _FEE, one.order_id) for one in fills]
    exec_ids = pack_texts(one.exec_id for one in fills)
    return Run(pack(chain.from_iterable(rows)), exec_ids, b"", fills[0].instrument)


def _one_by_one_us(books: list[list[Execution]]) -> float:
    start = perf_counter()
    for of_book in books:
        book = Book("SYM")
        for fill in of_book:
            book.apply(fill)
    return (perf_counter() - start) / sum(map(len, books)) * 1e6
