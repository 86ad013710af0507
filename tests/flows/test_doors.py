"""Every door: the list of commands, their help, and what is said where one does not open."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis as redis_py
from typer.testing import CliRunner

from flows.__main__ import app, commands
from flows.board.frames import Board
from flows.board.server import serve
from flows.common.hints import extra, tell_how_to_run
from flows.common.overview import overview_reader
from flows.common.process import Program
from flows.common.settings import Settings
from tests.support.commands import run
from tests.support.flow_process import DEADLINE_S, ROOT
from tests.support.servers import tied
from tests.support.tws_double import Holding, Instrument, TwsDouble

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
    doors += [["flows", *words] for words in (("replay", "put-back"), ("flex", "import"))]
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
        ways = ("Usage: python -m flows ", "python -m flows run")
        assert any(way in output for way in ways), (door, output)


@pytest.fixture(scope="module")
def on_the_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH with the file of deploy/ on it, by a link, as it says."""
    if not (ROOT / ".venv").exists():
        pytest.skip("this checkout has no .venv of its own")
    directory = tmp_path_factory.mktemp("bin")
    (directory / "lotstream").symlink_to(ROOT / "deploy" / "lotstream")
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("re", ["reconcile", "replay", "rescale"]),
        ("watch --fi", ["--filter"]),
        ("watch --sort c", ["change"]),
        ("run --s", ["--snapshot-interval"]),
        ("replay put-", ["put-back"]),
        ("replay put-back --un", ["--unset"]),
    ],
)
def test_bash_completes_commands_their_options_and_values(
    on_the_path: str, tmp_path: Path, typed: str, completed: list[str]
) -> None:
    script = (
        'eval "$(lotstream --show-completion bash)"; COMP_WORDS=(lotstream $0); '
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); $(complete -p lotstream | sed "s/.*-F //"); '
        'echo "${COMPREPLY[@]}"'
    )
    answer = subprocess.run(
        ["bash", "-c", script, typed], capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": on_the_path, "HOME": str(tmp_path), "SHELL": "/bin/bash"},
    )  # fmt: skip
    assert (answer.stdout.split(), answer.stderr) == (completed, "")


def test_zsh_is_told_of_options_with_what_they_are(on_the_path: str) -> None:
    answer = subprocess.run(
        ["lotstream"], capture_output=True, text=True, check=False, timeout=120,
        env={
            "PATH": on_the_path, "_LOTSTREAM_COMPLETE": "complete_zsh",
            "_TYPER_COMPLETE_ARGS": "lotstream watch --on",
        },
    )  # fmt: skip
    assert '"--once":"Print one page and end."' in answer.stdout


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


WRONG_WORDS = [
    ("watch --nope", "No such option: --nope"),
    ("watch extra", "Got unexpected extra argument(s) (extra)"),
    ("watch --sort size", "--sort: expected one of 'key', 'pnl', 'change', found 'size'"),
    ("watch", "watch: expected a terminal, or else --once or --json, found none"),
    ("board --port web", "--port: expected a whole number, found 'web'"),
    ("board --port 70000", "--port: expected 65535 or less, found '70000'"),
    ("run -s", "Option '-s' requires an argument"),
    ("run -s soon", "--snapshot-interval: expected a whole number, found 'soon'"),
    ("run -w 0", "--workers-per-process: expected 1 or more, found '0'"),
    ("run -i 0", "--addresses: expected an address for process 0 too, 1 or more, found 0"),
    ("run -a h:7400", "--process-id: expected a number from 0 with --addresses, found none"),
    ("run -i 0 -a h", "--addresses: expected HOST:PORT;HOST:PORT, one for each process, found 'h'"),
    ("run -i 0 -a h:0", "one for each process, found 'h:0'"),
    ("run -r /etc/passwd", "--recovery-directory: dir '/etc/passwd' is a file"),
    ("run flows.positions", "Got unexpected extra argument(s) (flows.positions)"),
    ("valuation -r here", "No such option: -r"),
    ("reconcile --price 5", "--price: expected --adopt with it, as it is an opening's, found none"),
    ("reconcile --adopt --price cheap", "--price: expected [KEY=]PRICE, found 'cheap'"),
    ("replay lst", "No such command 'lst'. Did you mean 'list'?"),
    ("lots --at 2026-07-06", "--at: expected a time with its zone, such as 2026-07-06T14:30Z, fou"),
    ("compact --date 6.7.2026", "--date: expected a day such as 2024-01-31, found '6.7.2026'"),
    ("rescale --into new", "Missing option '--to'"),
    ("rescale --to 0 --into new", "--to: expected 1 or more, found '0'"),
    ("flex import", "Missing argument 'files'"),
    ("flex import /nope.xml", "files: file '/nope.xml' does not exist"),
    ("flex import /etc", "files: file '/etc' is a directory"),
    ("flex import --since 2026-07-06 --until 2026-07-05 /etc/passwd", "--until: expected 2026-07-"),
    ("flex import --since then /etc/passwd", "--since: expected a day such as 2024-01-31, found"),
]


@pytest.mark.parametrize(("command", "said"), WRONG_WORDS)
def test_wrong_words_are_one_line_and_exit_code_2(command: str, said: str) -> None:
    code, errors = run(command)
    assert code == 2
    assert errors.startswith("lotstream: ")
    assert said in errors
    name = " ".join(command.split()[: 2 if command.startswith("flex ") else 1])
    assert errors.endswith(f" (see python -m flows {name} --help)\n")
    assert errors.count("\n") == 1


FLEX = str(ROOT / "flows" / "demo" / "flex.xml")
NO_FLEX = {
    "no.xml": ("hello", "expected a whole XML file, found syntax error in line 1"),
    "html.xml": ("<html/>", "expected <FlexQueryResponse>, found <html>"),
    "empty.xml": ("", "expected a <FlexStatement>, found an empty file"),
    "none.xml": (
        "<FlexQueryResponse/>",
        "expected a <FlexStatement>, found <FlexQueryResponse> without one",
    ),
}


@pytest.mark.parametrize(("name", "said"), [(name, said) for name, (_, said) in NO_FLEX.items()])
def test_a_file_that_is_no_flex_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(NO_FLEX[name][0])
    for command in ("import", "audit"):
        (tmp_path / ".lotstream").mkdir(exist_ok=True)
        code, errors = run(f"flex {command} {path}", DATA_DIR=str(tmp_path))
        assert (code, errors) == (2, f"lotstream: {path}: {said}; nothing was published\n")


CANNOT = [
    ("verify", {}, 1, "DATA_DIR: expected the flow's directory, found none at ABSENT"),
    ("lots", {}, 1, "DATA_DIR: expected the flow's directory, found none at ABSENT"),
    ("compact", {}, 1, "DATA_DIR: expected the flow's directory, found none at ABSENT"),
    ("compact", {"DATA_DIR": "OTHER"}, 1, "expected the flow's directory, found no flow's at OTH"),
    ("lots", {"DATA_DIR": "/etc/passwd"}, 1, "DATA_DIR: expected a directory, which is made if"),
    ("run", {"DATA_DIR": "/etc/passwd"}, 1, "DATA_DIR: expected a directory, which is made if"),
    ("lots NOPE", {"DATA_DIR": "DATA"}, 1, "KEY: expected SYMBOL or ACCOUNT:SYMBOL of a position"),
    ("compact --date 2020-01-01", {"DATA_DIR": "DATA"}, 1, "--date: expected a day that has rows"),
    ("verify -r /nope", {"DATA_DIR": "DATA"}, 1, "-r: expected a recovery directory, found none"),
    ("lots", {"DATA_DIR": "DAMAGED"}, 1, "found one that cannot be read: "),
    *((name, {"DATA_DIR": "UNREADABLE"}, 1, "Too many levels of symbolic links")
      for name in ("lots", "verify", "compact")),
    ("rescale --to 2 --into new", {}, 1, "Redis is away: Error 111 connecting to 127.0.0.1:1"),
    ("replay", {}, 1, "Redis is away: Error 111 connecting to 127.0.0.1:1"),
    (f"flex import {FLEX}", {}, 2, "Redis is away: Error 111 connecting to 127.0.0.1:1"),
    (f"flex import --ratio NOPE=1/2 {FLEX}", {}, 2, "--ratio: expected the transaction id, con_i"),
    (f"flex audit {FLEX}", {}, 2, "DATA_DIR: expected the flow's directory, found none at ABSENT"),
    ("flex fetch", {}, 2, "FLEX_TOKEN: expected it to be set, found nothing"),
    ("flex fetch /nope/it.xml", {"FLEX_TOKEN": "t", "FLEX_QUERY_ID": "7"}, 2,
     "expected a file in a directory that is there, found /nope/it.xml"),
    ("reconcile", {"IBKR_PORT": "1"}, 2, "Redis is away: "),
    ("reconcile", {"LOG_LEVEL": "loud"}, 2, "LOG_LEVEL: expected DEBUG, INFO, "),
    ("router", {"IBKR_PORT": "tws"}, 1, "IBKR_PORT: expected a whole number, found 'tws'"),
    ("run", {"STREAM_PARTITONS": "2", "LOG_LEVEL": "loud"}, 1,
     "STREAM_PARTITONS is no setting; STREAM_PARTITIONS is one, was it meant?\nlotstream: LOG_L"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "settings", "code", "said"), CANNOT, ids=[f"{c[0]} {c[1]}" for c in CANNOT]
)
def test_what_cannot_be_done_is_one_line_and_no_success(
    tmp_path: Path, command: str, settings: dict[str, str], code: int, said: str
) -> None:
    (tmp_path / "OTHER").mkdir()
    (tmp_path / "DATA" / "positions").mkdir(parents=True)
    (tmp_path / "DAMAGED" / "positions" / "date=2026-07-06").mkdir(parents=True)
    (tmp_path / "DAMAGED" / "positions" / "date=2026-07-06" / "part.parquet").write_text("damage")
    (tmp_path / "UNREADABLE" / ".lotstream").mkdir(parents=True)
    # By everyone: what a mode forbids, root may read.
    (tmp_path / "UNREADABLE" / "positions").symlink_to("positions")
    names = ("ABSENT", "OTHER", "DATA", "DAMAGED", "UNREADABLE")
    places = {name: str(tmp_path / name) for name in names}
    given = {"DATA_DIR": "ABSENT"} | settings
    ended, errors = run(
        command, **{name: places.get(value, value) for name, value in given.items()}
    )
    for name, path in places.items():
        errors = errors.replace(path, name)
    assert said in errors
    assert ended == code
    assert errors.startswith("lotstream: ")
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1 + said.count("\n")


@pytest.mark.parametrize(
    ("command", "code"), [("replay", 1), ("reconcile", 2), (f"flex import --dry-run {FLEX}", 2)]
)
def test_another_number_of_partitions_is_said_at_every_door(
    redis: redis_py.Redis, redis_url: str, command: str, code: int
) -> None:
    redis.set("executions:partitions", 1)
    ended, errors = run(command, REDIS_URL=redis_url, STREAM_PARTITIONS="3")
    assert ended == code
    assert "STREAM_PARTITIONS: expected 1, as stream 'executions' has had so far, found 3" in errors


NOT_OURS = [
    ("executions:partitions", "x", "executions:partitions: expected a number of partitions, found"),
    ("positions", {"A": "x"}, "expected JSON objects with the members of a position, found b'x'"),
    (
        "positions",
        {"A": '{"symbol": "A"}'},
        "position 'A': expected a JSON object with account, sy",
    ),
    ("instruments", {"7": "x"}, "instrument 7: expected a JSON object such as"),
    ("instruments", {"x": "{}"}, "instrument b'x': expected a con_id, which is a number"),
    ("positions", "x", "Redis refuses a command: WRONGTYPE"),
]


@pytest.mark.parametrize(("key", "value", "said"), NOT_OURS)
def test_what_others_wrote_where_ours_stands_is_one_line(
    redis: redis_py.Redis, redis_url: str, key: str, value: str | dict[str, str], said: str
) -> None:
    redis.set(key, value) if isinstance(value, str) else redis.hset(key, mapping=value)  # type: ignore[arg-type]
    with TwsDouble(accounts=("U1",)) as tws:
        tws.holdings = [Holding("U1", Instrument(265598, "AAPL"), 1.0, 10.5)]
        settings = {"REDIS_URL": redis_url, "IBKR_PORT": str(tws.port), "IBKR_TIMEZONE": "UTC"}
        ended, errors = run("reconcile", **settings)
    assert said in errors
    assert (ended, errors.count("\n")) == (2, 1)


def test_the_valuation_says_that_it_runs_with_one_worker(tmp_path: Path, redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "valuation", "-w", "2"], cwd=ROOT, text=True,
        capture_output=True, check=False, timeout=120,
        env={"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("lotstream: expected one worker in one process for flows.valuati")


def test_the_valuation_starts_at_its_door_and_keeps_off_the_flows_recovery(
    tmp_path: Path, redis_url: str
) -> None:
    environment = {
        "PATH": os.environ["PATH"], "REDIS_URL": redis_url, "DATA_DIR": str(tmp_path / "data"),
        "BYTEWAX_RECOVERY_DIRECTORY": str(tmp_path / "recovery"),
    }  # fmt: skip
    command = tied([sys.executable, "-m", "flows", "valuation"])
    with Program(command, tmp_path / "log", environment) as valuation:
        started = "started: positions valued by the stream marks; DATA_DIR"
        valuation.until(lambda: started in valuation.log, started, DEADLINE_S)
        assert valuation.stop(deadline_s=DEADLINE_S) == 0
        assert "stopped, as told to" in valuation.log
    assert not (tmp_path / "recovery").exists()
