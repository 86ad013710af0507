"""The README's first commands do what it shows."""

import json
import re
import shlex
from pathlib import Path

import redis as redis_py

from tests.flows import test_first_day as first_day
from tests.support.flow_process import ROOT, FlowProcess


def test_the_readmes_first_commands_do_what_it_shows(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    [day] = re.findall(r"(?ms)^## Your first day$(.*?)^## ", (ROOT / "README.md").read_text())
    # These run in tests/flows/test_first_day.py, and the page's own in test_board.py.
    ran = {words[3] for words in first_day.commands() if "-m" in words} | {"board"}
    told = re.findall(r"(?m)^\$ .venv/bin/python -m flows (\w+)", day)
    assert told[0] == "run"
    assert set(told) <= ran
    commands = re.findall(r"(?m)^\$ redis-cli (XADD .*)$", day.replace("\\\n", ""))
    [(key, shown)] = re.findall(r"(?m)^\$ redis-cli HGET positions (\w+)\n(\{[^}]*\})$", day)
    with FlowProcess(tmp_path, redis_url) as flow:
        for command in commands:
            redis.execute_command(*shlex.split(command))  # type: ignore[no-untyped-call]
        flow.until_committed(redis)
        assert flow.stop() == 0
    found = json.loads(redis.hget("positions", key) or "")
    assert found == json.loads(shown) | {"stream_id": found["stream_id"]}
