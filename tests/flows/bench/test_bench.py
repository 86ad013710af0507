"""The benchmarks as a user runs them, so small that their figures mean nothing.

What is tested: that every figure is there, on its own scale, and that nothing is left
behind. No test asserts a time.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.bench.live import Shown, latencies_ms, pauses_ms, shown_id
from flows.bench.peers import SimpleBook, has_nautilus
from flows.bench.report import Figure, Report
from flows.bench.sizes import TINY
from state.book import Book
from state.exact import ONE, from_text
from state.messages import Execution

ROOT = Path(__file__).parents[3]

FIGURES = {
    "catchup.flow", "catchup.router", "catchup.mixed", "catchup.over_one_shape",
    "catchup.handler", "catchup.over_handler", "catchup.cpu", "catchup.router_cpu",
    "catchup.memory",
    "live.idle", "live.recovery",
    *(f"live.{what}_{rate}" for rate in (200, 2000)
      for what in ("median", "p99", "worst", "typical_worst", "pause", "longest_pause")),
    "marks.median", "marks.p99", "marks.flood_cpu", "marks.flood_lag", "marks.flood_took",
    "marks.executions_median", "marks.executions_p99",
    "flat.symbols_10", "flat.symbols_100", "flat.symbols_10000",
    "flat.lots_10", "flat.lots_1000", "flat.lots_60000",
    *(f"flat.{what}_{upto}" for what in ("history", "memory") for upto in TINY.history),
    *(f"parts.{part}" for part in
      ("read", "parse", "book", "recovery", "hash", "rows", "files", "all")),
    "book.runs", "book.one_by_one", "book.simple",
}  # fmt: skip
if has_nautilus():
    FIGURES.add("book.nautilus")

ALONE = {
    "catchup.memory", "live.idle", "marks.flood_cpu", "marks.flood_lag",
    "flat.symbols_100",
    "flat.lots_10", "parts.all", "book.runs",
    f"flat.history_{TINY.history[1]}", f"flat.memory_{TINY.history[1]}",
}  # fmt: skip
"""They have nothing beside them; most are what others stand beside."""


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "flows.bench", "--tiny", *options]


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory), "COLUMNS": "100"}


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options), cwd=ROOT, env=environment(directory), capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip


def processes_in(directory: Path) -> list[str]:
    """Return the command lines of the processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(directory) in words:
            found.append(words)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_run_gives_every_figure_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert len(figures) == len(report["figures"])
    assert figures.keys() == FIGURES
    for figure in figures.values():
        assert_sensible(figure)
    assert {name for name, figure in figures.items() if figure["ratio"] is None} == ALONE
    assert {"cores", "cpu", "python"} <= report["machine"].keys()
    assert report["date"][:2] == "20"
    assert not processes_in(tmp_path)
    assert not list(tmp_path.iterdir())


def assert_sensible(figure: dict[str, Any]) -> None:
    assert math.isfinite(figure["value"]), figure
    assert figure["value"] > 0, figure
    assert figure["what"], figure
    assert figure["unit"], figure
    if figure["ratio"] is not None:
        assert figure["beside"] > 0, figure
        assert figure["of"], figure
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["beside"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    bench = subprocess.Popen(
        command("--only", "live"), cwd=ROOT, env=environment(tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_flow(tmp_path)
        bench.send_signal(number)
        assert bench.wait(30) == 128 + number
        assert not processes_in(tmp_path)
        assert not list(tmp_path.iterdir())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(bench.pid, signal.SIGKILL)
        bench.wait()


def wait_for_flow(directory: Path) -> None:
    deadline = time.monotonic() + 40
    while not any("flows.positions" in words for words in processes_in(directory)):
        assert time.monotonic() < deadline, "no flow was started"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_section_can_be_had_alone_and_as_markdown(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "book", "--markdown")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0] == "| measured | figure | beside | ratio |"
    assert {line.count("|") for line in rows} == {5}
    assert any(line.startswith("| ours, one by one | ") for line in rows)
    assert not any("XREAD" in line for line in rows)


def test_a_section_that_does_not_exist_is_refused_with_the_names_that_do(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "live,speed")
    assert done.returncode == 2
    assert "'speed'" in done.stderr
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "catchup, live, marks, flat, parts, book" in said


# --- what the figures are made of -----------------------------------------------------------


def test_ranks_are_taken_of_all_and_the_typical_worst_of_each_second() -> None:
    shown = [
        Shown(0.1, 0.101), Shown(0.9, 0.909), Shown(1.5, 1.503), Shown(2.2, 2.3), Shown(2.5, 2.501)
    ]  # fmt: skip
    found = latencies_ms(shown)
    assert found["median"] == pytest.approx(3)
    assert found["worst"] == pytest.approx(100)
    assert found["typical_worst"] == pytest.approx(9)
    assert found["median"] < found["p99"] <= found["worst"]


def test_a_pause_is_between_updates_seen_whenever_they_were_sent() -> None:
    shown = [Shown(0.4, 0.5), Shown(0.1, 0.2), Shown(0.5, 1.5), Shown(0.6, 1.6)]
    assert pauses_ms(shown) == pytest.approx([300, 1000])


def test_of_a_value_of_the_hash_its_entry_is_read() -> None:
    assert shown_id(b'{"symbol": "A", "stream_id": "17-4"}') == (17, 4)
    assert shown_id(None) < (0, 1)


def test_the_simple_handler_books_as_the_real_book_does() -> None:
    simple, book = SimpleBook(), Book("SYM")
    for number, (qty, price) in enumerate([(100, "10.5"), (50, "11"), (-120, "12"), (-80, "9.25")]):
        execution = Execution(str(number), str(number), 1, number, qty * ONE, from_text(price))
        book.apply(execution)
        simple.apply(Decimal(qty), Decimal(price))
    found = json.loads(simple.to_json())
    position = book.snapshot()
    assert from_text(found["qty"]) == position.qty == -50 * ONE
    assert from_text(found["cost_basis"]) * ONE == position.cost_basis
    assert from_text(found["realized_pnl"]) * ONE == position.realized_pnl


def test_a_figure_without_a_scale_stands_alone_in_a_table() -> None:
    figures = [Figure("a.x", "alone", 1234.5, "MB"), Figure("a.y", "beside", 1, "ms", 4, "bare")]
    report = Report({"cores": "2 cores", "cpu": "some CPU"}, "2026-01-31", figures, ["A note."])
    assert report.to_markdown({"a": "Title"}).splitlines() == [
        "Measured on 2026-01-31: 2 cores, some CPU.",
        "",
        "| measured | figure | beside | ratio |",
        "| --- | ---: | :--- | ---: |",
        "| **Title** | | | |",
        "| alone | 1,234 MB |  |  |",
        "| beside | 1 ms | 4 ms bare | 0.25 |",
        "",
        "A note.",
    ]
