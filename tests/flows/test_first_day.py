"""docs/first-day.md to the letter: each of its commands, on a real server and a TWS double."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import redis as redis_py

from flows.common.process import Program
from tests.support.flow_process import DEADLINE_S, ROOT, read_hash, until
from tests.support.servers import tied
from tests.support.tws_double import Fill, Holding, Instrument, TwsDouble

PAGE = (ROOT / "docs" / "first-day.md").read_text()
AAPL, SAP = Instrument(265598, "AAPL"), Instrument(14204, "SAP", currency="EUR")

FILL = Fill("0000e0d5.6596b0d2.01.01", SAP, "BOT", 7.0, 90.0, commission_currency="EUR")

STAY = {
    "run": "started: stream executions",
    "router": "started: from TWS to executions",
    "valuation": "started: positions valued by the stream marks",
}
"""Commands that go on until they are ended, and what they say once they are there."""


def commands() -> list[list[str]]:
    """Return the words of all commands of the page's console blocks, in order."""
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```", PAGE)
    return [shlex.split(line[2:]) for block in blocks for line in block.splitlines()]


class Day:
    """A shell on the first day."""

    def __init__(self, redis: redis_py.Redis, tws: TwsDouble, environment: dict[str, str]) -> None:
        self._redis, self._tws, self._environment = redis, tws, environment
        self._directory = Path(environment["DATA_DIR"]).parent
        self.said: dict[str, list[str]] = {}

    def do(self, words: list[str], running: ExitStack) -> None:
        match words:
            case ["export", assignment]:
                assert assignment == "REDIS_URL=redis://localhost:6379/0"
            case ["redis-cli", *command]:
                assert self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
            case [".venv/bin/python", "-m", "flows", name, *_]:
                self._run(name, [sys.executable, *words[1:]], running)
            case _:
                raise AssertionError(f"a command that this test does not know: {words}")

    def _run(self, name: str, command: list[str], running: ExitStack) -> None:
        if name in STAY:
            program = Program(tied(command), self._directory / name, self._environment)
            running.enter_context(program)
            program.until(lambda: STAY[name] in program.log, name, DEADLINE_S)
        else:
            done = subprocess.run(
                command, cwd=ROOT, env=self._environment, text=True, capture_output=True,
                check=False, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            self.said.setdefault(name, []).append(done.stdout)
        if name == "reconcile":
            until(lambda: "U1:AAPL" in read_hash(self._redis), "what was adopted")
        if name == "router":
            self._tws.holdings = [*self._tws.holdings, Holding("U1", SAP, 7.0, 90.0)]
            self._tws.fill(FILL)
            until(lambda: "U1:SAP" in read_hash(self._redis), "what the router published")


def test_the_first_day_goes_as_the_page_says(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with TwsDouble(accounts=("U1",)) as tws, ExitStack() as running:
        tws.holdings = [Holding("U1", AAPL, 100.0, 10.5)]
        environment = {
            "PATH": os.environ["PATH"], "REDIS_URL": redis_url, "IBKR_PORT": str(tws.port),
            "DATA_DIR": str(tmp_path / "data"), "IBKR_TIMEZONE": "UTC", "COLUMNS": "100",
        }  # fmt: skip
        day = Day(redis, tws, environment)
        for words in commands():
            day.do(words, running)
    assert "adopted" in day.said["reconcile"][0]
    assert "BREAK" not in day.said["reconcile"][-1]
    assert "U1:SAP" in day.said["watch"][-1]
    assert day.said["replay"] == ["0 dead letters in executions:dead\n"]
    assert len(day.said["compact"]) == 1
