"""The system's clock may be set at any moment; the engine trusts it.

Bytewax 0.21.1 ends an epoch, and asks a source again, when that clock says so. Set
forward it does no harm. Set back by an hour, nothing would be committed for an hour.
"""

import time
from datetime import UTC, datetime

AT_ONCE = datetime.fromtimestamp(0, UTC)
"""A time that is over, whatever the clock says next."""

_SET_BACK_S = 10.0
"""A shorter wait is none that needs a new start."""


def now_ms() -> int:
    """Return the time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class ClockError(Exception):
    """The clock was set back so far that the engine would stand still."""


class Clock:
    """Notices that the system's clock was set back since an epoch began."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Note that an epoch begins."""
        self._ahead = _ahead()

    def check(self) -> None:
        """Raise ClockError if the clock is behind where it was when the epoch began."""
        ahead = _ahead()
        self._ahead = max(ahead, self._ahead)
        if self._ahead - ahead > _SET_BACK_S:
            raise ClockError(
                f"the system's clock was set back by {self._ahead - ahead:.0f} s, and the engine "
                f"would commit nothing for so long; start it again, nothing is lost"
            )


def _ahead() -> float:
    return time.time() - time.monotonic()
