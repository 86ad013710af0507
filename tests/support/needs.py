"""What some tests need and pip cannot bring: said once, with the Debian package of each.

Where it is missing a test is skipped, so that a fresh machine passes. Where `CI` is
`true` it fails: CI has it all and skips none.
"""

import os
import re
import shutil
from collections.abc import Iterable

import pytest

PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "docker-compose": "docker-compose",
    "gcc": "gcc",
    "git": "git",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "mount": "mount",
    "systemd-analyze": "systemd",
}
"""Each program, and the Debian package that has it."""

_LACKS = re.compile(
    r"lacks (?:\S+ \(Debian: (?P<package>[\w-]+)\)|the right to [^;]+; run as root)"
)


def need(*programs: str) -> None:
    """Skip the test unless the programs are there; with CI=true, fail it."""
    for program in programs:
        if shutil.which(program) is None:
            lack(f"lacks {program} (Debian: {PACKAGES[program]})")


def need_right(to: str, why: object) -> None:
    """Skip the test, as it may not do something; with CI=true, fail it.

    to: what it may not do, such as "mount a file system". why: what the system said.
    """
    lack(f"lacks the right to {to}; run as root: {why}")


def lack(reason: str) -> None:
    """Skip the test for a reason that `summary` counts; with CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI must have it", pytrace=False)
    pytest.skip(reason)


def summary(reasons: Iterable[str]) -> str:
    """Say in one line how many tests were skipped for lack of something, and what brings it.

    reasons: those of all skipped tests. Returns nothing if none was skipped for that.
    """
    lacks = [match for reason in reasons if (match := _LACKS.search(reason))]
    if not lacks:
        return ""
    packages = sorted({match["package"] for match in lacks} - {None})
    ways = [f"apt-get install {' '.join(packages)}"] if packages else []
    if any(match["package"] is None for match in lacks):
        ways.append("be root")
    return f"{len(lacks)} skipped for lack of what pip cannot bring; to run them: {', '.join(ways)}"


if __name__ == "__main__":  # for .ci/run, which installs them
    print(*map(" ".join, PACKAGES.items()), sep="\n")  # noqa: T201
