"""An audit as a person calls it, in this process: what it shows, and its exit code."""

import json
from pathlib import Path

import pytest
import redis as redis_py
from typer.testing import CliRunner, Result

from flows.flex import audit as auditing
from flows.flex.__main__ import app
from tests.support.flex_files import ACCOUNT, flex, trade
from tests.support.flow_process import add
from tests.support.notation import exec_id
from tests.support.rows import write_rows


class Desk:
    """A user's place: the flow's rows, settings, and a file."""

    def __init__(self, directory: Path) -> None:
        self._file, self.data = directory / "a.xml", directory / "data"

    def call(self, rows: list[str], *words: str) -> Result:
        self._file.write_text(flex(rows))
        return CliRunner().invoke(app, ["audit", *words, str(self._file)])


@pytest.fixture
def desk(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    settings = {"REDIS_URL": redis_url, "DATA_DIR": f"{tmp_path}/data", "IBKR_TIMEZONE": "UTC"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    desk = Desk(tmp_path)
    write_rows(desk.data, ACCOUNT, "A", [
        "BUY 4 @ 1", "SELL 1 @ 2", "SELL 1 @ 3", "SELL 1 @ 4",
    ])  # fmt: skip
    return desk


def rows(*pnls: str) -> list[str]:
    """Return the trades that were booked; pnls: what the broker says of each close."""
    made = [trade("A", 4, 1, "19700101;000001", ibExecID=exec_id(1))]
    for number, pnl in enumerate(pnls, start=2):
        made.append(
            trade("A", -1, number, f"19700101;00000{number}", ibExecID=exec_id(number),
                  fifoPnlRealized=pnl)
        )  # fmt: skip
    return made


def cells(line: str) -> list[str]:
    """Return what stands in a row of a table."""
    return [cell.strip() for cell in line.strip("│").split("│")]


HEAD = ["", "account", "contract", "time (UTC)", "id", "ours", "broker's", "difference", ""]
OFF = ["close", ACCOUNT, "A", "1970-01-01 00:00:03", exec_id(3), "2", "2.5", "-0.5", "differs"]
PAIR = trade("EUR.USD", 10, 1, "20240102;100000", assetCategory="CASH", fifoPnlRealized="0")


def test_what_is_equal_is_counted_and_the_end_is_good(desk: Desk) -> None:
    done = desk.call(rows("1", "2", "3"))
    assert (done.exit_code, done.stdout.splitlines()) == (
        0, ["3 of 3 closes equal", "0 differences, 0 explained or without a figure"]
    )  # fmt: skip
    assert desk.call([]).stdout.splitlines()[0] == "nothing to compare"


def test_what_differs_and_what_was_left_out_is_shown_with_both_sides(desk: Desk) -> None:
    done = desk.call(rows("1", "2.5", "x"))
    lines = done.stdout.splitlines()
    assert cells(lines[2].replace("┃", "│")) == HEAD
    assert [cells(line) for line in lines if line.startswith("│")] == [OFF]
    assert "left out: fifoPnlRealized: expected a number, found 'x'" in lines
    assert lines[-2:] == [
        "1 of 2 closes equal", "1 difference, 0 explained or without a figure"
    ]  # fmt: skip
    assert (done.exit_code, "more" in done.stdout) == (1, False)
    assert "0 of 1 closes equal" in desk.call(rows("1.5")).stdout


def test_of_many_differences_some_are_shown_apart_from_what_is_explained(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "MOST_SHOWN", 1)
    shown = desk.call([*rows("1", "2.5", "2"), PAIR]).stdout
    differences, explained = shown.split("Not compared, or explained")
    assert [cells(line) for line in differences.splitlines() if line.startswith("│")] == [OFF]
    assert "… and 1 more (--json prints all)\n" in differences
    [pair] = [cells(line) for line in explained.splitlines() if line.startswith("│")]
    assert pair[5:] == ["", "0", "", "FX rows have no P&L in Flex"]
    assert "more" not in explained
    assert desk.call([*rows("1", "2", "3"), PAIR]).exit_code == 0


def test_json_tells_all_of_it_with_exact_figures(desk: Desk) -> None:
    done = desk.call([*rows("1", "2.5", "x"), PAIR], "--json")
    told = json.loads(done.stdout)
    [pair], [left_out] = told.pop("explained"), told.pop("left_out")
    assert (pair["symbol"], pair["ours"], pair["broker"], pair["difference"]) == (
        "EUR.USD", None, "0", None
    )  # fmt: skip
    assert left_out["reason"].startswith("fifoPnlRealized: ")
    assert left_out["row"]["ibExecID"] == exec_id(4)
    names = ("what", "account", "symbol", "timestamp", "id", "ours", "broker", "difference", "why")
    assert told == {
        "equal": {"closes": 1, "closed lots": 0, "open lots": 0},
        "differences": [dict(zip(names, OFF, strict=True)) | {"timestamp": 3000}],
        "not_booked_yet": 0,
    }
    assert done.exit_code == 1


def test_what_is_not_booked_yet_is_said_and_not_taken_for_booked(
    desk: Desk, redis: redis_py.Redis
) -> None:
    sold = {"symbol": "A", "account": ACCOUNT, "side": "SELL", "fill_qty": "1", "order_id": "1",
            "fill_price": "5", "exec_id": exec_id(5), "timestamp": "5000"}  # fmt: skip
    add(redis, sold)
    shown = desk.call(rows("1", "2", "3", "4")).stdout
    assert "note: the flow has 1 entry to book yet; what is there is not compared" in shown
    assert "not in the book: import the file" in shown
