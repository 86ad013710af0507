"""The router as a real process, between a TWS double and a real server."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.common.process import ROOT, Program
from tests.support.servers import tied
from tests.support.tws_double import TwsDouble

START_S = 30.0


class Router(Program):
    """`python -m flows.router`, running from `start()` or `with` on.

    tws: the double, or the port of what stands in for one.
    """

    def __init__(self, tws: TwsDouble | int, redis_url: str, log: Path, **settings: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "IBKR_PORT": str(tws if isinstance(tws, int) else tws.port),
            **settings,
        }
        super().__init__(tied([sys.executable, "-m", "flows.router"]), log, environment)

    @property
    def log(self) -> str:
        """What all its runs have written."""
        return self.whole_log

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Return the exit code and how many seconds it took."""
        began = time.monotonic()
        return self.stop(number, START_S), time.monotonic() - began

    def wait(self, deadline_s: float = START_S) -> int:
        return super().wait(deadline_s)

    def saw(self, text: str, count: int = 1) -> Callable[[], bool]:
        return lambda: self.log.count(text) >= count
