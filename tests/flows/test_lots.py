"""`python -m flows.lots` on files as the flow writes them."""

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.lots import app
from tests.support.commands import run_apart
from tests.support.rows import write_rows


def run(data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_apart("lots", *options, DATA_DIR=str(data_dir))


def lots(data_dir: Path, *options: str) -> list[tuple[Any, ...]]:
    done = run(data_dir, "--json", *options)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout, parse_float=Decimal, parse_int=Decimal)
    return [(each["symbol"], each["qty"], each["price"], each["age_s"]) for each in found]


def test_open_lots_as_of_now_and_of_moments(tmp_path: Path) -> None:
    lines = ["BUY 10 @ 100.25", "BUY 5 @ 110", "SPLIT 2:1", "#1.2 BUY 8 @ 100.25 at 1",
             "SELL 4 @ 60", "IN 3 @ 7 of 2"]  # fmt: skip
    write_rows(tmp_path, "U1", "AAPL", lines)
    write_rows(tmp_path, None, "T", ["OPENING -50 @ 20.5"])
    now = "--known-at", "1970-01-01T01:00Z"
    assert lots(tmp_path, "U1:AAPL", *now) == [
        ("AAPL", 12, Decimal("50.125"), 3599), ("AAPL", 10, 55, 3598), ("AAPL", 3, 7, 3598),
    ]  # fmt: skip
    assert lots(tmp_path, "T") == [("T", -50, Decimal("20.5"), None)]
    assert [symbol for symbol, *_ in lots(tmp_path)] == ["T", "AAPL", "AAPL", "AAPL"]
    # By what is known, and by what was known then.
    assert lots(tmp_path, "U1:AAPL", "--at", "1970-01-01T00:00:02Z") == [
        ("AAPL", 8, Decimal("100.25"), 1), ("AAPL", 5, 110, 0),
    ]  # fmt: skip
    assert lots(tmp_path, "U1:AAPL", "--known-at", "1970-01-01T00:00:02Z") == [
        ("AAPL", 10, Decimal("100.25"), 1), ("AAPL", 5, 110, 0),
    ]  # fmt: skip
    shown = run(tmp_path)
    assert shown.returncode == 0
    assert "U1" in shown.stdout
    assert "50.125" in shown.stdout
    assert "601.50 USD" in shown.stdout


def test_what_cannot_be_told_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, None, "GOOD", ["BUY 1 @ 1"])
    write_rows(tmp_path, None, "AAPL", ["BUY 10 @ 100", "BUY 5 @ 110"])
    [part] = (tmp_path / "positions").glob("*/AAPL*")
    pq.write_table(pq.read_table(part)[1:], part)
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("AAPL: expected lots of 15 in all that cost 1550, found 5")
    assert "GOOD" in done.stdout
    assert "AAPL" not in done.stdout
    assert run(tmp_path, "GOOD").returncode == 0
    nothing = run(tmp_path, "NONE")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("lotstream: KEY: expected SYMBOL or ACCOUNT:SYMBOL of a posit")
    before = run(tmp_path, "GOOD", "--at", "1969-01-01T00:00Z")
    assert (before.returncode, before.stdout) == (0, "")
    assert before.stderr.startswith("no open lots of GOOD in ")
    for wrong in ("yesterday", "2026-07-06"):
        assert "expected a time with its zone" in run(tmp_path, "--at", wrong).stderr


@pytest.mark.parametrize(
    ("at", "ages"),
    [("1970-01-01T05:07:59Z", ["?", "5:07"]), ("1970-01-03T00:00:01Z", ["?", "2 d"])],
)
def test_each_lot_is_a_line_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, ages: list[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    write_rows(tmp_path, "U1", "AAPL", ["SELL 1234.5 @ 100.25"])
    write_rows(tmp_path, None, "T", ["OPENING 2 @ 7 at 9"])
    # Ages are those of the time that is asked for, whatever is known when.
    done = CliRunner().invoke(app, ["--at", at, "--known-at", "2026-01-01T00:00Z"])
    assert done.exit_code == 0
    assert [line.split() for line in done.output.splitlines()[1:]] == [
        ["–", "T", "1970-01-01", "00:00:09", "opening", "2", "7", "14.00", "USD",
         *ages[0].split()],
        ["U1", "AAPL", "1970-01-01", "00:00:01", "00000001.00000001.01.01", "-1,234.5", "100.25",
         "-123,758.62", "USD", *ages[1].split()],
    ]  # fmt: skip


def test_no_lots_are_said_but_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    write_rows(tmp_path, None, "A", ["BUY 1 @ 2", "SELL 1 @ 3"])
    plain, json_ = CliRunner().invoke(app, []), CliRunner().invoke(app, ["--json"])
    assert (plain.exit_code, plain.stdout, plain.stderr) == (0, "", f"no open lots in {tmp_path}\n")
    assert (json_.exit_code, json_.stdout, json_.stderr) == (0, "[]\n", "")
