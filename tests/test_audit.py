"""What CI makes of advisories about the lock's packages, and of a network that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"


def audit(*words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, AUDIT, *words], capture_output=True, text=True, timeout=200,
        env={"PATH": os.environ["PATH"], **environment}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("package", "code", "said"),
    [
        ({"vulns": []}, 0, "1 of 1 packages were looked up"),
        ({"skip_reason": "not found"}, 0, "0 of 1 packages were looked up"),
        ({"vulns": [{"id": "CVE-1", "fix_versions": []}]}, 0, "a 1: CVE-1, no fix"),
        ({"vulns": [{"id": "CVE-1", "fix_versions": ["2", "3"]}]}, 1, "CVE-1, fixed in 2, 3"),
    ],
)
def test_only_what_has_a_fix_fails(
    tmp_path: Path, package: dict[str, Any], code: int, said: str
) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"dependencies": [{"name": "a", "version": "1", **package}]}))
    done = audit(report)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_a_network_that_is_missing_is_said_and_no_failure() -> None:
    done = audit(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert (done.returncode, done.stderr) == (0, "")
    assert "audit: not done, as the advisories cannot be asked for here" in done.stdout
