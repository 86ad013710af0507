"""A Flex statement in the demo: imported and audited by the commands that a user runs.

`flex.xml` is invented. It has what TWS never tells, an assignment, an expiration and a
split, and one row that cannot be said in messages.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.demo.stage import Stage

FILE = Path(__file__).with_name("flex.xml")
ZONE = "America/New_York"


def take(stage: Stage) -> Any:
    """Import the file; return what the command says, among it the one row left out."""
    return _run(stage, "import", expected=1)


def audit(stage: Stage) -> Any:
    """Return what the audit says once the flow has booked the file."""
    return _run(stage, "audit", expected=0)


def _run(stage: Stage, command: str, *, expected: int) -> Any:
    words = [sys.executable, "-m", "flows.flex", command, str(FILE), "--json", "--timezone", ZONE]
    done = subprocess.run(  # noqa: S603  # our own program
        words, cwd=Path(__file__).parents[2], env=stage.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not done.stdout:
        raise SystemExit(f"lotstream: flows.flex {command} failed: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    return {**told, "as_expected": done.returncode == expected}
