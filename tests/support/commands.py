"""A command, run to its end: in the test's own process, which is quick, or in one of its own."""

import io
import logging
import os
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.support.flow_process import ROOT

_DEADLINE_S = 120
AWAY = "redis://127.0.0.1:1/0"


def run(command: str, **settings: str) -> tuple[int | str | None, str]:
    """Run a command, such as `flex import FILE`; return its exit code and its errors.

    settings: environment variables; without REDIS_URL there is no Redis.
    """
    words = shlex.split(command)
    errors = io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors):
        for variable, value in {"REDIS_URL": AWAY, **settings}.items():
            patch.setenv(variable, value)
        patch.setattr(sys, "argv", words)
        for name in (f"flows.{words[0]}", f"flows.{words[0]}.__main__"):
            patch.delitem(sys.modules, name, raising=False)  # another test's
        with redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
            runpy.run_module(f"flows.{words[0]}", run_name="__main__", alter_sys=True)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    return ended.value.code, errors.getvalue()


def run_apart(
    command: str, *words: str | Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, such as `flex`, as a process of its own.

    settings: environment variables; none is inherited but PATH.
    """
    return subprocess.run(
        [sys.executable, "-m", f"flows.{command}", *map(str, words)], cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings}, capture_output=True, text=True,
        timeout=_DEADLINE_S, check=False,
    )  # fmt: skip
