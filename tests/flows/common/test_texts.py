"""Names that look like markup, or draw on a terminal, in every table."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.flex import audit
from flows.flex.comparing import Finding
from flows.lots import app
from flows.reconcile import Comparison, show_table
from tests.support.rows import write_rows

ODD, SHOWN = "A[b]C\x1b[31m", "A[b]C\\x1b[31m"


def test_a_lot_of_a_name_like_markup_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    write_rows(tmp_path, ODD, ODD, ["BUY 1 @ 2"])
    done = CliRunner().invoke(app, [])
    assert (done.exit_code, done.output.count(SHOWN)) == (0, 2)


def test_both_sides_of_a_name_like_markup_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([Comparison(ODD, ODD, None, [])], set())
    assert capsys.readouterr().out.count(SHOWN) == 2


def test_a_difference_of_a_name_like_markup_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    audit._table("Differences", [Finding("close", ODD, ODD, ODD, 0, None, None, ODD)])
    assert capsys.readouterr().out.count(SHOWN) == 4
