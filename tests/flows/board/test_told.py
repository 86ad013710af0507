"""What the page asks for once in a while: as much as it can show, and in words what is wrong."""

from pathlib import Path

import polars as pl
import pytest

from flows.board import told
from tests.support.rows import write_rows


def test_the_oldest_lots_are_told_with_how_many_there_are_and_the_last_executions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "MOST_LOTS", 2)
    monkeypatch.setattr(told, "MOST_EXECUTIONS", 1)
    write_rows(tmp_path, "U1", "A", ["OPENING 1 @ 5", "BUY 2 @ 6", "BUY 3 @ 7"])
    found = told._position(tmp_path, "U1:A")
    assert [(lot["qty"], lot["dated"]) for lot in found["lots"]] == [("1", False), ("2", True)]
    assert found["lots_in_all"] == 3
    assert [each["fill_qty"] for each in found["executions"]] == ["3"]


def test_of_many_strategies_those_of_the_most_positions_are_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "MOST_STRATEGIES", 2)
    for symbol, *strategies in (("A", "b", "z"), ("B", "z", "a"), ("C", "z", "b")):
        write_rows(tmp_path, "U1", symbol, ["BUY 1 @ 5"] * len(strategies), *strategies)
    assert told._strategies(tmp_path, None) == {"strategies": ["b", "z"], "strategies_in_all": 3}


@pytest.mark.parametrize("error", [OSError("gone"), pl.exceptions.ComputeError("gone")])
def test_files_that_were_merged_meanwhile_are_looked_for_again(error: Exception) -> None:
    """A file that is gone may have been put into another one."""
    answers: list[Exception | dict[str, int]] = [error, {"a": 1}, error, error]

    def read() -> told.Told:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert told._read(read) == {"problem": "", "a": 1}
    assert told._read(read) == {"problem": "The Parquet files cannot be read: gone"}
