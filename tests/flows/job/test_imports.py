"""What the main job carries: nothing that draws, serves pages or talks to a broker."""

import subprocess
import sys

from tests.support.flow_process import ROOT

UNWANTED = {
    "altair", "click", "ib_insync", "pandas", "polars", "rich", "starlette",
    "termios", "tty", "typer", "uvicorn",
}  # fmt: skip


def carried_by(module: str) -> set[str]:
    """Return the modules that a fresh interpreter has once it has imported one."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_main_job_imports_no_user_interface() -> None:
    assert carried_by("flows.positions") & UNWANTED == set()


def test_the_terminal_view_would_be_noticed() -> None:
    assert carried_by("flows.watch") >= {"rich", "termios", "tty", "typer"}
