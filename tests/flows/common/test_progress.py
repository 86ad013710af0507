"""Long work says how far it is: a bar on a terminal, lines elsewhere, nothing for a quick run."""

import io
import re
from pathlib import Path

import pytest
import redis as redis_py
from rich.console import Console

from flows.common import progress
from flows.common.progress import Work, how_far
from tests.support.commands import run
from tests.support.flow_process import ROOT, FlowProcess, add


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_quick_run_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Work("reading", "files", 3, clock=clock) as work:
        for _ in range(3):
            clock.now += 1.5
            work.advance()
    assert tuple(capsys.readouterr()) == ("", "")


def test_how_far_is_said_also_before_the_first_and_after_the_last() -> None:
    assert how_far(0, 10, "files", 0.0) == "0 of 10 files, 0/s"
    assert how_far(12, 10, "files", 1.0) == "12 of 10 files, 12/s, about 0 s left"


def test_without_a_terminal_a_line_comes_every_few_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Work("copying", "entries", 3_400_000, clock=clock) as work:
        for _ in range(12):
            clock.now += 1
            work.advance(200_000)
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.splitlines() == [
        "copying: 1,000,000 of 3,400,000 entries, 200,000/s, about 12 s left",
        "copying: 2,000,000 of 3,400,000 entries, 200,000/s, about 7 s left",
    ]


def test_what_is_not_known_yet_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Work("publishing", "messages", clock=clock) as work:
        clock.now += 60
        work.advance()
        assert capsys.readouterr().err == ""
        work.expect(10)
        clock.now += 5
        work.advance()
    told = "publishing: 1 of 10 messages, 0/s, about 45 s left\n"
    assert capsys.readouterr().err == told


def test_a_terminal_has_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has none
    clock, shown = Clock(), io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80)
    with Work("merging", "bytes", 10, console=terminal, clock=clock) as work:
        work.advance()
        assert shown.getvalue() == ""
        clock.now += 1
        work.advance(4)
        assert "merging" in shown.getvalue()
        assert "50%" in shown.getvalue() or "━" in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[2K")  # the line is cleared


# --- the commands that take long ------------------------------------------------------------


def test_each_command_that_may_take_long_says_how_far_it_is(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with FlowProcess(tmp_path, redis_url) as flow:
        for number in range(2):  # a part each
            add(redis, {
                "symbol": "AAPL", "side": "BUY", "fill_qty": "1", "fill_price": "2",
                "order_id": "1", "exec_id": f"e{number}", "timestamp": "1750000000000",
            })  # fmt: skip
            flow.until_committed(redis)
        assert flow.stop() == 0
    given = {"REDIS_URL": redis_url, "DATA_DIR": str(flow.data_dir)}
    flex = ROOT / "flows" / "demo" / "flex.xml"
    for command, told in (
        (f"verify -r {flow.recovery_dir}", ["reading: N of N bytes", "booking again: 1 of 1 posi"]),
        ("compact", ["merging: N of N bytes"]),
        (f"flex import {flex}", ["reading: N of N bytes", "publishing: N of N messages"]),
        (f"rescale --to 2 --from {flow.recovery_dir} --into {tmp_path / 'new'}",
         ["copying: N of N entries"]),
    ):  # fmt: skip
        _, said = run(command, **given)
        for each in told:
            assert re.search(f"(?m)^{each.replace('N', '[0-9,]+')}", said), (command, said)
