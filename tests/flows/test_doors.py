"""Every door: the list of commands, their help, and what is said where one does not open."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app, commands
from flows.board.frames import Board
from flows.board.server import serve
from flows.common.doors import extra, tell_how_to_run
from flows.common.overview import overview_reader
from flows.common.settings import Settings
from tests.support.flow_process import ROOT

NAMES = [name for name, _ in commands()]
NO_COMMANDS = ["flows.job.exporter"]


def test_the_door_lists_every_command_with_what_it_is() -> None:
    shown = CliRunner().invoke(app)
    assert shown.exit_code == 0
    files = {path.stem for path in ROOT.glob("flows/*.py")} - {"__main__"}
    packages = {path.parent.name for path in ROOT.glob("flows/*/__main__.py")}
    assert set(NAMES) == files | packages  # what does nothing when it is run is no file here
    for name, line in commands():
        assert name in shown.output
        assert 10 < len(line) < 75
        assert "`" not in line


def test_it_says_its_version_and_what_is_no_command() -> None:
    version = CliRunner().invoke(app, ["--version"])
    assert version.output.startswith("lotstream 0.")
    unknown = CliRunner().invoke(app, ["wach"])
    assert (unknown.exit_code, "No such command 'wach'" in unknown.output) == (2, True)


def test_help_of_every_command_comes_back_and_starts_nothing() -> None:
    # A Redis that is away: a command that asked it would fail.
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1/0"}
    doors = [["flows", name] for name in NAMES] + [[module] for module in NO_COMMANDS]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *door, "--help"], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for door in doors
    ]  # fmt: skip
    for door, process in zip(doors, running, strict=True):
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, (door, output)
        ways = ("Usage: python -m flows.", "python -m flows run", "python -m bytewax.run flows.")
        assert any(way in output for way in ways), (door, output)


def test_a_shell_completes_the_commands() -> None:
    answer = subprocess.run(
        [ROOT / "lotstream"], capture_output=True, text=True, check=False, timeout=120,
        env={
            "PATH": os.environ["PATH"], "_LOTSTREAM_COMPLETE": "complete_bash",
            "COMP_WORDS": "lotstream re", "COMP_CWORD": "1",
        },
    )  # fmt: skip
    if "expected" in answer.stderr and not (ROOT / ".venv").exists():
        pytest.skip("this checkout has no .venv of its own")
    assert answer.stdout.split() == ["reconcile", "replay", "rescale"]


def test_a_file_that_is_no_command_says_how_it_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in ((["x"], 2), (["x", "--help"], 0)):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            tell_how_to_run("so")
        assert ended.value.code == code
    assert tuple(capsys.readouterr()) == ("so\n", "so\n")


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flows.board.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit, match=r"package uvicorn, .* extra 'board'; .*make setup"):
        runpy.run_module("flows.board", run_name="__main__", alter_sys=True)


def test_a_fault_of_ones_own_is_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), extra("board"):
        import flows.no_such_file  # type: ignore[import-not-found]  # noqa: F401, PLC0415


def test_a_port_in_use_ends_the_board_with_one_line(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"--port: expected a free port .*, found {port}"):
            serve(Board(overview_reader(settings), tmp_path), port)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["flows.verify"], "DATA_DIR: expected the flow's directory, found none at"),
        (["flows.rescale", "--to", "4", "--into", "new"], "Redis is away: Error 111"),
    ],
)
def test_what_is_not_there_is_no_success(tmp_path: Path, command: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, text=True, capture_output=True, check=False,
        env={
            "PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1/0",
            "DATA_DIR": str(tmp_path / "absent"),
        },
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
