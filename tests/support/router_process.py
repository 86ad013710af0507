"""The router as a real process, between a TWS double and a real server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers import tied
from tests.support.tws_double import TwsDouble

ROOT = Path(__file__).parents[2]
START_S = 30.0


class Router:
    """`python -m flows.router`, running from `start()` or `with` on.

    tws: the double, or the port of what stands in for one.
    """

    def __init__(self, tws: TwsDouble | int, redis_url: str, log: Path, **settings: str) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "IBKR_PORT": str(tws if isinstance(tws, int) else tws.port),
            **settings,
        }

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied([sys.executable, "-m", "flows.router"]),
                env=self._environment, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Return the exit code and how many seconds it took."""
        began = time.monotonic()
        return self._end(number), time.monotonic() - began

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(START_S)

    def saw(self, text: str, count: int = 1) -> Callable[[], bool]:
        return lambda: self.log.count(text) >= count

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(START_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
