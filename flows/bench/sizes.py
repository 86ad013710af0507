"""How much a benchmark does: sizes, and how long it measures."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """The sizes of one run; counts of executions unless said otherwise."""

    catch_up: int = 1_000_000
    handler_s: float = 4.0
    """Seconds for which the peer handler reads the same stream."""
    past: int = 1_000
    """Behind each of the books in the live run."""
    live_s: float = 20.0
    """Seconds at each rate; the round trips beside it get a quarter."""
    idle_s: float = 5.0
    restarts: int = 3
    by_symbols: int = 600_000
    """For each processor time by symbols: 60 for each of 10,000."""
    by_lots: int = 200_000
    """The same by open lots."""
    epoch_s: int = 1
    """Seconds; there, and for those by history."""
    history: tuple[int, ...] = (10**4, 10**5, 10**6)
    """How many there have been when the processor time is taken again."""
    parts: int = 200_000
    of_book: int = 2_000
    """In each book, where books alone are compared."""


FULL = Sizes(history=(10**4, 10**5, 10**6, 10**7))

QUICK = Sizes(
    catch_up=300_000, handler_s=1, live_s=5, restarts=1, by_symbols=200_000, by_lots=50_000,
    history=(10**4, 10**5, 2 * 10**5), parts=60_000, of_book=1_000,
)  # fmt: skip

TINY = Sizes(
    catch_up=20_000, handler_s=0.2, past=20, live_s=1, idle_s=0.5, restarts=1,
    by_symbols=4_000, by_lots=4_000, epoch_s=0, history=(1_000, 2_000, 4_000),
    parts=6_000, of_book=200,
)  # fmt: skip
"""Proves that all is measured; the figures mean nothing."""
