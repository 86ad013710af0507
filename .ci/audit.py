"""Hold requirements.lock against the published advisories, where they can be asked for.

Fails if an advisory names a version with a fix: then somebody can do something (`make
lock`). One without a fix is shown, and does not keep every other change from passing. A
network that is missing is said and is no failure; what pip installs is pinned by hash
either way. pip-audit lives in an environment of its own, made for the moment.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements.lock"
TIMEOUT_S = 300


def main() -> int:
    """Audit, or judge the report of pip-audit that is named; return the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(sys.argv[1]) if sys.argv[1:] else made_report(Path(directory))
        return 0 if report is None else judge(json.loads(report.read_text())["dependencies"])


def made_report(directory: Path) -> Path | None:
    """Return pip-audit's report of the lock; None, having said why, if there is none."""
    venv.create(directory / "venv", with_pip=True)
    python, report = directory / "venv" / "bin" / "python", directory / "report.json"
    commands = (
        ("pip", "install", "--quiet", "--retries", "1", "--timeout", "10", "pip-audit"),
        ("pip_audit", "--disable-pip", "--require-hashes", "--requirement", LOCK, "--timeout", "5",
         "--progress-spinner", "off", "--format", "json", "--output", report),
    )  # fmt: skip
    said = ""
    for command in commands:
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                [python, "-m", *command], env=os.environ, timeout=TIMEOUT_S,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = str(error)
            break
        said = done.stderr.strip().rpartition("\n")[2]
        if done.returncode:  # of pip-audit also 1 if it found something
            break
    if report.exists():
        return report
    say(f"not done, as the advisories cannot be asked for here: {said}")
    return None


def judge(packages: list[dict[str, Any]]) -> int:
    """Say what was found; return 1 if something has a fix."""
    asked = [package for package in packages if "vulns" in package]
    say(f"{len(asked)} of {len(packages)} packages were looked up")
    found = [(package, vuln) for package in asked for vuln in package["vulns"]]
    for package, vuln in found:
        cure = f"fixed in {', '.join(vuln['fix_versions'])}" if vuln["fix_versions"] else "no fix"
        say(f"{package['name']} {package['version']}: {vuln['id']}, {cure}")
    return int(any(vuln["fix_versions"] for _, vuln in found))


def say(text: str) -> None:
    """Print a line."""
    print(f"audit: {text}", flush=True)  # noqa: T201 - a command prints


if __name__ == "__main__":
    sys.exit(main())
