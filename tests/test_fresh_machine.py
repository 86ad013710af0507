"""A machine with Python only: what needs more is skipped there, and says what would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import starts_programs
from tests.support import needs
from tests.support.flow_process import ROOT, FlowProcess

NEEDY = {
    "tests/flows/board/test_board.py": "screen_reader or stand_out",
    "tests/deploy/test_deploy.py": "systemd_takes or compose or kubernetes or ordinal",
    "tests/flows/test_hosts.py": "cable",
    "tests/flows/test_disk.py": "without_any_room",
}
"""Files with tests that need what pip cannot bring, and which of theirs do."""


def run_without_tools(tmp_path: Path, *options: str, **environment: str) -> str:
    """Run the needy tests with nothing on the PATH; return what pytest says."""
    chosen = " or ".join(f"({names})" for names in NEEDY.values())
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen, *NEEDY]
    return subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env={"PATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    ).stdout


def counts(said: str) -> dict[str, int]:
    """Return what pytest's last line counts, such as 3 skipped."""
    last = said.strip().splitlines()[-1]
    return {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", last.split(" in ")[0])}


def test_what_needs_a_tool_is_skipped_and_one_line_says_what_would_run_it(tmp_path: Path) -> None:
    said = run_without_tools(tmp_path)
    found = counts(said)
    assert found.keys() == {"skipped", "deselected"}
    [line] = [line for line in said.splitlines() if "for lack of" in line]
    assert line == (
        f"{found['skipped']} skipped for lack of what pip cannot bring; to run them: apt-get "
        f"install chromium docker-compose iproute2 kubernetes-client mount systemd"
    )


def test_ci_fails_what_it_lacks_and_skips_nothing(tmp_path: Path) -> None:
    said = run_without_tools(tmp_path, CI="true")
    assert "lacks ip (Debian: iproute2); CI must have it" in said
    found = counts(said)
    assert found.keys() <= {"failed", "errors", "error", "deselected"}
    assert found.get("failed", 0) + found.get("errors", 0) >= len(NEEDY)


def test_all_tests_are_collected_without_a_tool(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-qq"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


_PYTHON = """#!/bin/sh
# Stands for a Python: it fits, makes a .venv of itself, and its pip waits until it sees a dot.
case "$*" in
    "--version") echo Python 3.12.0 ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip"*)
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30
        do grep -q '^[.]' said && exit "$PIP_ENDS_WITH"; sleep 1; done
        exit 99 ;;
esac
"""


@pytest.mark.parametrize("code", [0, 7])
def test_a_setup_shows_that_it_works_and_ends_as_pip_does(tmp_path: Path, code: int) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    with (tmp_path / "said").open("w") as said:
        done = subprocess.run(
            ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, stdout=said, text=True,
            env={"PATH": os.environ["PATH"], "PIP_ENDS_WITH": str(code)},
            stderr=subprocess.PIPE, timeout=120, check=False,
        )  # fmt: skip
    lines = (tmp_path / "said").read_text().splitlines()
    assert lines[0] == "Making .venv with Python 3.12.0 (about a minute)"
    assert re.fullmatch(r"\.+", lines[2])
    assert (done.returncode == 0, (tmp_path / ".venv/.ready").exists()) == (code == 0, code == 0)
    assert done.stderr.count("\n") == (code != 0)  # make's own word


def test_no_program_is_looked_for_that_no_package_is_named_for() -> None:
    with pytest.raises(KeyError, match="no-such-program"):
        needs.need("no-such-program")


def test_nothing_is_said_where_nothing_is_lacking() -> None:
    assert needs.summary(["Skipped: only Linux has renameat2"]) == ""


def test_who_may_not_do_something_is_told_to_be_root() -> None:
    line = needs.summary(["Skipped: lacks the right to mount a file system; run as root: no"])
    assert line == "1 skipped for lack of what pip cannot bring; to run them: be root"


@pytest.mark.parametrize("names", [{"subprocess": subprocess}, {"Job": FlowProcess}])
def test_a_file_that_starts_programs_is_known(names: dict[str, object]) -> None:
    assert starts_programs({"sys": sys, **names})
    assert not starts_programs({"sys": sys})
