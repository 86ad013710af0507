"""A program that runs beside this one: started, awaited, ended, and what it has said.

The demo and the benchmarks run the main job so, and so do the tests.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
MAIN_JOB = (sys.executable, "-m", "bytewax.run", "flows.positions")
SECOND_JOB = (sys.executable, "-m", "bytewax.run", "flows.valuation")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals by which a user ends a program."""

_POLL_S = 0.01
_LOG_LINES = 20


class ProcessError(Exception):
    """A program has ended too early, or not in time; the text has the end of its log."""


def until(condition: Callable[[], object], what: str, deadline_s: float) -> None:
    """Wait until a condition holds; raises TimeoutError, naming `what`, if it does not."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {deadline_s:.0f} s")
        time.sleep(_POLL_S)


class Program:
    """A program; not running until `start()` or `with`, and then until it is ended.

    command: its words. log: the file to which its output is added. environment: all of
    it; this program's own if it is None. group: run it in a process group of its own,
    which signals then go to.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        directory: Path = ROOT,
        group: bool = False,
    ) -> None:
        self._command, self._environment = command, environment
        self._log_path, self._directory, self._group = log, directory, group
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; that of the last run if it is over."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """True if it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written since its last start."""
        return self._log_path.read_bytes()[self._log_start :].decode(errors="replace")

    @property
    def whole_log(self) -> str:
        """What all its runs have written."""
        return self._log_path.read_text(errors="replace")

    def start(self) -> Self:
        """Start it; the last run must be over."""
        assert not self.running
        with self._log_path.open("ab") as log, _signals_held():
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  # our own program
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._group,
            )
        return self

    def send(self, signum: signal.Signals) -> None:
        """Send a signal, if it is running."""
        if self.running:
            (os.killpg if self._group else os.kill)(self.pid, signum)

    def kill(self) -> None:
        """Kill it at once; nothing happens if it has ended."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self, signum: signal.Signals = signal.SIGTERM, deadline_s: float = 20) -> int:
        """Ask it to end; return its exit code. Raises ProcessError, and kills it, if it stays."""
        self.send(signum)
        try:
            return self.wait(deadline_s)
        except BaseException:
            self.kill()
            raise

    def wait(self, deadline_s: float) -> int:
        """Wait for its end; return its exit code. Raises ProcessError if it does not end."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"it does not end within {deadline_s:.0f} s") from None

    def until(self, condition: Callable[[], object], what: str, deadline_s: float) -> None:
        """Wait until a condition holds; raises ProcessError if it ends before, or in time."""
        try:
            until(lambda: condition() or not self.running, what, deadline_s)
        except TimeoutError as error:
            raise self.error(str(error)) from None
        if not condition():
            raise self.error(f"it ended with {self.wait(0)} before: {what}")

    def error(self, why: str) -> ProcessError:
        """Return an error that says why and has the end of the log."""
        lines = self.log.splitlines()[-_LOG_LINES:]
        return ProcessError("\n".join([f"{why}; the end of its log:", *lines]))

    def __enter__(self) -> Self:
        try:
            return self if self.running else self.start()
        except BaseException:  # a signal's, most likely
            self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait: what a handler raises must not come before a new program is known."""
    came: list[int] = []
    before: dict[int, Callable[..., object]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for held in came:
            signal.raise_signal(held)
