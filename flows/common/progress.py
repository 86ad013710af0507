"""How far a long piece of work is: a bar on a terminal, elsewhere a line now and then.

Both go to standard error. A quick run shows nothing: the bar comes after a second, the
first line after five, and none of them says that it is done, as what the command itself
prints does.
"""

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flows.common.overview import age

BAR_AFTER_S, LINE_EVERY_S = 1.0, 5.0


def how_far(done: int, total: int, of: str, seconds: float) -> str:
    """Say how much of a work is done, how fast, and how long the rest takes at that pace.

    >>> how_far(1_200_000, 3_400_000, "entries", 6.0)
    '1,200,000 of 3,400,000 entries, 200,000/s, about 11 s left'
    """
    pace = done / max(seconds, 1e-3)
    left = f", about {age(max(0, total - done) / pace)} left" if done else ""
    return f"{done:,} of {total:,} {of}, {pace:,.0f}/s{left}"


class Work:
    """One piece of work; shown from `with` on, once it is known how much it is.

    what: said before it, such as `reading`. of: what it is counted in, in the plural.
    total: how many there are; None if `expect` says it later.
    """

    def __init__(
        self,
        what: str,
        of: str,
        total: int | None = None,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._of, self._clock = what, of, clock
        self._console = console or Console(stderr=True)
        self._done, self._total = 0, total
        self._began = self._told = clock()
        self._bar: Progress | None = None

    def expect(self, total: int) -> None:
        """Begin to count; total: how many there are."""
        self._done, self._total = 0, total
        self._began = self._told = self._clock()

    def advance(self, steps: int = 1) -> None:
        """Count what was done, and show it if it is time to."""
        self._done += steps
        now = self._clock()
        if self._total is None:
            return
        if self._console.is_terminal:
            if now - self._began >= BAR_AFTER_S:
                self._show_bar()
        elif now - self._told >= LINE_EVERY_S:
            self._told = now
            text = how_far(self._done, self._total, self._of, now - self._began)
            print(f"{self._what}: {text}", file=sys.stderr, flush=True)

    def _show_bar(self) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
                       TimeRemainingColumn())  # fmt: skip
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(self._what)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done, total=self._total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
