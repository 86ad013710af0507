"""Each notebook runs from top to bottom on data that the real flow wrote.

The kernel is the running interpreter, whatever kernels the machine has installed. What
is stored in the repository is looked at too: outputs that show on its page, with no
trace of the machine that made them.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient

from tests.notebooks.flow_data import ACCOUNTS, Written

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = ["01_positions", "02_trades", "03_time_travel", "04_tax_years"]

PLACES = r"(?<![\w.:/])/(home|Users|root|tmp|work|opt|usr|var|private|mnt)\b|[A-Z]:\\|file://"
"""What a path on somebody's machine begins with."""

MOST_LINES, MOST_TEXT, MOST_PICTURE = 1000, 20_000, 300_000
"""Of a stored notebook, and the characters of one output: what it costs to keep it in git."""

Cell = dict[str, Any]
Run = Callable[[str, Path], list[Cell]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Execute a notebook on a data directory, once; return its code cells with outputs."""
    home = tmp_path_factory.mktemp("jupyter")
    spec = home / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": command, "display_name": "", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home))
        for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(home / variable))

        @cache
        def execute(name: str, data_dir: Path) -> list[Cell]:
            patch.setenv("DATA_DIR", str(data_dir))
            notebook = read(name)
            folder = {"metadata": {"path": str(NOTEBOOKS)}}
            NotebookClient(notebook, timeout=120, resources=folder).execute()
            return code_of(notebook)

        yield execute


def read(name: str) -> Any:
    path = NOTEBOOKS / f"{name}.ipynb"
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def code_of(notebook: Any) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(cells: list[Cell], kind: str) -> list[str]:
    """Return what the cells show in a form, such as text/plain."""
    shown = [output["data"] for cell in cells for output in cell["outputs"] if "data" in output]
    return ["".join(data[kind]) for data in shown if kind in data]


def assert_no_complaints(cells: list[Cell]) -> None:
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_a_years_data(run: Run, written: dict[str, Written], name: str) -> None:
    cells = run(name, written["a year"].data_dir)
    assert_no_complaints(cells)
    assert len(outputs(cells, "image/png")) >= 1
    text = "\n".join(outputs(cells, "text/plain"))
    assert "Nothing" not in text
    assert all(account in text for account in ACCOUNTS)
    assert all(currency in text for currency in ("EUR", "USD"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["empty", "one row"])
def test_a_notebook_shows_next_to_nothing(
    run: Run, written: dict[str, Written], name: str, data: str
) -> None:
    cells = run(name, written[data].data_dir)
    assert_no_complaints(cells)
    text = "\n".join(outputs(cells, "text/plain"))
    assert ("python -m flows.demo --keep data" in text) == (data == "empty")


def test_the_table_of_today_is_the_hash(run: Run, written: dict[str, Written]) -> None:
    cells = run("01_positions", written["a year"].data_dir)
    today = next(text for text in outputs(cells, "text/plain") if "avg price" in text)
    for position in written["a year"].positions.values():
        (line,) = [
            line
            for line in today.splitlines()
            if f"{position['account'] or '–'} " in line and f" {position['symbol']} " in line
        ]
        for figure in ("realized_pnl", "net_realized_pnl", "commission", "cost_basis"):
            assert f" {position[figure]:z,.2f} " in line


def test_the_tax_report_is_exported_in_full(run: Run, written: dict[str, Written]) -> None:
    a_year = written["a year"]
    run("02_trades", a_year.data_dir)
    report = pl.read_csv(a_year.data_dir / "tax_lots.csv", infer_schema=False)
    for currency in ("EUR", "USD"):
        gains = report.filter(pl.col("currency") == currency)["gain"]
        net = sum(
            (position["net_realized_pnl"] for position in a_year.positions.values()
             if position["currency"] == currency),
            Decimal(0),
        )  # fmt: skip
        assert abs(sum(map(Decimal, gains), Decimal(0)) - net) < Decimal("1e-7")


# --- what is stored ---------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def stored(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


def test_every_notebook_is_run_here() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


def test_a_stored_notebook_was_run_from_top_to_bottom(stored: Any) -> None:
    cells = code_of(stored)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert_no_complaints(cells)
    assert "python -m flows.demo" not in "\n".join(outputs(cells, "text/plain"))


def test_a_stored_chart_is_a_picture_without_its_data(stored: Any) -> None:
    outputs = [output for cell in code_of(stored) for output in cell["outputs"]]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    for data in shown:
        assert set(data) <= {"image/png", "text/html", "text/markdown", "text/plain"}
        text = "".join("".join(value) for kind, value in data.items() if kind != "image/png")
        assert len(text) < MOST_TEXT
        assert len(data.get("image/png", "")) < MOST_PICTURE


def test_a_stored_notebook_has_few_lines(stored: Any) -> None:
    assert len(json.dumps(stored, indent=1).splitlines()) < MOST_LINES


def test_a_stored_notebook_names_no_place_on_a_machine(stored: Any) -> None:
    """Pictures aside, whose code may look like anything."""
    for cell in code_of(stored):
        for output in cell["outputs"]:
            output.get("data", {}).pop("image/png", None)
    text = json.dumps(stored)
    assert not re.search(PLACES, text)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert stored["metadata"]["kernelspec"] == {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }  # fmt: skip


def test_the_search_for_places_finds_them() -> None:
    for text in ('File "/home/me/x.py"', r"C:\\Users\\me", "file:///srv", "'/tmp/data'"):
        assert re.search(PLACES, text)
    assert not re.search(PLACES, "https://vega.github.io/schema/work and/or 1/2")
