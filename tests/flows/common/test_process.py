"""A program beside this one: how its end, its silence and its output are told."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flows.common.process import ENDING, ProcessError, Program, until

WAITS = "import time; print('here', flush=True); time.sleep(60)"
STAYS = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS


def program(tmp_path: Path, code: str, *, group: bool = False) -> Program:
    return Program([sys.executable, "-c", code], tmp_path / "log", group=group)


@pytest.mark.parametrize("group", [True, False])
def test_it_runs_until_it_is_told_to_end_and_may_be_started_anew(
    tmp_path: Path, group: bool
) -> None:
    started = program(tmp_path, WAITS, group=group)
    assert not started.running
    for _ in range(2):
        with started:
            started.until(lambda: "here" in started.log, "its word", 20)
            assert started.stop() == -signal.SIGTERM
            assert not started.running
        assert started.log == "here\n"
    assert started.whole_log == "here\nhere\n"


def test_leaving_its_block_kills_it(tmp_path: Path) -> None:
    with program(tmp_path, WAITS) as started:
        assert started.running
    assert started.wait(0) == -signal.SIGKILL


class EndedError(Exception):
    """What a handler of signals may raise."""


def end(_number: int, _frame: object) -> NoReturn:
    raise EndedError


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_comes_while_it_is_started_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def interrupted(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*args, **kwargs))
        signal.raise_signal(number)
        return begun[0]

    before = signal.signal(number, end)
    try:
        monkeypatch.setattr(subprocess, "Popen", interrupted)
        with pytest.raises(EndedError), program(tmp_path, WAITS):
            raise AssertionError("the signal was lost")
        assert signal.getsignal(number) is end
        assert begun[0].returncode == -signal.SIGKILL
    finally:
        signal.signal(number, before)
        begun[0].kill()


def test_one_that_ends_too_early_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    lines = "print(*range(100), sep='\\n'); raise SystemExit(3)"
    with (
        program(tmp_path, lines) as started,
        pytest.raises(ProcessError, match="it ended with 3 before: never") as error,
    ):
        started.until(lambda: False, "never", 20)
    assert str(error.value).splitlines()[1:] == [str(number) for number in range(80, 100)]


def test_one_that_does_nothing_is_told_and_so_is_one_that_stays(tmp_path: Path) -> None:
    with program(tmp_path, STAYS) as started:
        started.until(lambda: "here" in started.log, "its word", 20)
        with pytest.raises(ProcessError, match="never: not within 0 s; the end of its log:\nhere"):
            started.until(lambda: False, "never", 0.01)
        with pytest.raises(ProcessError, match="it does not end within 0 s"):
            started.stop(deadline_s=0.01)
        assert not started.running


def test_what_never_comes_is_named() -> None:
    with pytest.raises(TimeoutError, match="the moon: not within 0 s"):
        until(lambda: False, "the moon", 0.01)
