"""The documentation names only what exists, and the reference names all that does.

What a page says of behaviour no test can hold; that a file, a test, a setting or a column
is there, and under this name, one can.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from prometheus_client import REGISTRY

import connectors.metrics  # noqa: F401 - registers them
from connectors import codec
from connectors.parquet.minutes import VALUATIONS_SCHEMA
from connectors.parquet.tables import DATA_SETS
from connectors.redis.base_totals import BaseTotals, CurrencyTotal
from flows.common.settings import Settings
from state.snapshot import PositionSnapshot
from state.valuation import Valuation

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / part / "README.md" for part in ("state", "connectors", "flows")),
    ]
)
REFERENCE = ROOT / "docs" / "reference.md"
FOLDERS = r"(?:state|connectors|flows|tests|docs|deploy|notebooks|\.ci)/"

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(rf"`({FOLDERS}[^`\s]*)`")


# --- what is named exists -------------------------------------------------------------------


def problems(page: Path, text: str) -> Iterator[str]:
    """Yield what a page, as it stands in the repository, names and does not exist."""
    for target in _LINK.findall(text):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists():
                yield f"no file {target}"
            elif anchor and anchor not in anchors(path.read_text()):
                yield f"no heading {target}"
    for code in _CODE.findall(text):
        name, _, test = code.partition("::")
        path = ROOT / name
        if not path.exists():
            yield f"no file {code}"
        elif test and not re.search(rf"(?m)^def {re.escape(test)}\(", path.read_text()):
            yield f"no test {code}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_heading_and_test_that_a_page_names_exists(page: Path) -> None:
    assert list(problems(page, page.read_text())) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see [this](state/none.py)", "no file state/none.py"),
        ("see [this](docs/reference.md#none)", "no heading docs/reference.md#none"),
        ("see `state/none.py`", "no file state/none.py"),
        (
            "see `tests/test_docs.py::test_none`",
            "no test tests/test_docs.py::test_none",
        ),
    ],
)
def test_the_check_finds_what_does_not_exist(text: str, problem: str) -> None:
    assert list(problems(ROOT / "README.md", text)) == [problem]


def test_no_recovery_directory_that_is_to_be_deleted_holds_one_that_is_made() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    for command in re.findall(r"flows\.rescale --(?:.*\\\n)*.*", page):
        old, new = (re.findall(rf"--{name} '?([^ =`'\n]+)", command) for name in ("from", "into"))
        assert old
        assert new
        assert not any(Path(made).is_relative_to(each) for made in new for each in old)


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.is_dir():
            page /= "README.md"
        if page.suffix == ".md" and page.exists() and page not in reached:
            reached.add(page)
            targets = (target.partition("#")[0] for target in _LINK.findall(page.read_text()))
            waiting += [(page.parent / target).resolve() for target in targets if target]
    assert set(PAGES) <= reached


# --- the reference has all there is -----------------------------------------------------------


def section(heading: str) -> str:
    """Return what stands under a heading of the reference, its subsections included."""
    _, marks, rest = re.split(rf"(?m)^(#+) {re.escape(heading)}$", REFERENCE.read_text())
    return re.split(rf"(?m)^#{{1,{len(marks)}}} ", rest)[0]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of a section's tables, a list a row, without the backticks."""
    lines = re.findall(r"(?m)^\|( `.*)\|$", section(heading))
    return [[cell.strip("` ") for cell in line.split("|")] for line in lines]


def test_every_setting_stands_there_with_its_default() -> None:
    told = {name: default for name, default, _ in rows("Settings")}
    assert told == {
        name.upper(): _default_text(name, field.get_default())
        for name, field in Settings.model_fields.items()
    }


def _default_text(name: str, default: object) -> str:
    unset = {"own_partitions": "all", "stream_retention_hours": "keep all"}
    if not default:
        return unset.get(name, "none")
    return default.get_secret_value() if name == "redis_url" else str(default)  # type: ignore[attr-defined]


TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "quantity": pa.decimal128(38, 10),
    "money": pa.decimal128(38, 20),
    "time": pa.timestamp("ms", "UTC"),
}


SCHEMAS = {**DATA_SETS, "valuations": VALUATIONS_SCHEMA}


@pytest.mark.parametrize("data_set", SCHEMAS)
def test_every_column_stands_there_with_its_type(data_set: str) -> None:
    told = {name: TYPES[kind] for name, kind, *_ in rows(data_set)}
    assert told == {field.name: field.type for field in SCHEMAS[data_set]}


def test_every_member_of_a_valuation_stands_there_in_order() -> None:
    _, members = section("Valuation").split("| valuation's member ")
    members, totals = members.split("| member of the totals ")
    assert _first_cells(members) == [*Valuation._fields]
    assert _first_cells(totals) == [*BaseTotals._fields]
    [of_each] = re.findall(r"(?m)^\| `currencies` (.*)$", totals)
    told = {*re.findall(r"`(\w+)`", of_each)} - {"live", "stale"}
    assert told == {*CurrencyTotal._fields} - _THE_SIX


_THE_SIX = {"unrealized_pnl", "day_pnl", "total_pnl", "unvalued", "day_unknown", "stale"}


def _first_cells(table: str) -> list[str]:
    return re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\|( `[^|]*)\|", table)))


def test_every_member_of_the_hash_stands_there_in_order() -> None:
    told = [name for name, *_ in rows("The hash `positions`")]
    assert told == [*PositionSnapshot._fields, "stream_id"]


def test_every_field_and_type_of_a_message_stands_there() -> None:
    told = set(re.findall(r"`(\w+)`", section("Input")))
    assert {name.decode() for name in codec._KNOWN} <= told
    assert set(codec._READERS) - {"execution"} <= told


def test_every_metric_stands_there_among_those_of_its_kind() -> None:
    exposed = {f.name: f.type for f in REGISTRY.collect() if f.name.startswith("lotstream_")}
    _, *parts = re.split(r"(?m)^(Counter|Histogram|Gauge)s\b", section("Metrics"))
    told = {
        name: kind.lower()
        for kind, table in zip(parts[::2], parts[1::2], strict=True)
        for name in re.findall(r"(?m)^\| `(\w+)`", table)
    }
    assert told == exposed
