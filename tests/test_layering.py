"""Who may import whom, so that no reviewer has to watch it.

`state` is plain logic: the standard library without clock, environment, logging or
chance. `connectors` know one system each. `flows` put all together. A test that
feeds the checks a bad snippet proves that each can fail.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("state", "connectors", "flows", "notebooks")

# What would make a result depend on more than the arguments.
IMPURE = {
    "asyncio", "getpass", "logging", "multiprocessing", "os", "pathlib",
    "platform", "random", "secrets", "shutil", "signal", "socket", "subprocess", "sys",
    "tempfile", "threading", "time", "uuid",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}
BUILTINS = {"input", "open", "print"}


def test_the_tree_keeps_the_layers() -> None:
    problems = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path, tree in _sources()
        for problem in _problems(path.relative_to(ROOT), tree)
    ]
    assert not problems, "\n".join(problems)


def test_every_part_is_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path, _ in _sources()} >= {"state", "connectors"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("state/book.py", "import redis"),
        ("state/book.py", "import state.lots, connectors.codec"),
        ("state/book.py", "from flows.common.settings import Settings"),
        ("state/book.py", "from connectors import codec"),
        ("state/book.py", "import os.path"),
        ("state/book.py", "def now():\n    from time import time"),
        ("state/book.py", "from datetime import datetime\ndatetime.now()"),
        ("state/book.py", "import datetime\ndatetime.date.today()"),
        ("state/book.py", "print('hello')"),
        ("state/book.py", "from .lots import Lot"),
        ("connectors/codec.py", "from flows import settings"),
        ("connectors/codec.py", "from connectors.parquet.sink import SCHEMA"),
        ("connectors/codec.py", "from connectors import parquet"),
        ("connectors/codec.py", "import notebooks.charts"),
        ("flows/router.py", "import tests.support.servers"),
        ("notebooks/charts.py", "from flows.common.settings import load_settings"),
        ("notebooks/charts.py", "import bytewax.operators as op"),
        ("notebooks/tour.ipynb", "import flows.demo"),
    ],
)
def test_the_check_finds_an_import_that_breaks_a_layer(path: str, code: str) -> None:
    assert len(list(_problems(Path(path), ast.parse(code)))) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("state/book.py", "import re\nfrom decimal import Decimal\nfrom state.lots import Lot"),
        ("state/book.py", "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)"),
        ("connectors/redis_hash.py", "import time, redis\nfrom connectors.redis.link import T"),
        ("connectors/parquet.py", "from bytewax.outputs import FixedPartitionedSink"),
        ("flows/positions.py", "import bytewax.operators as op\nfrom connectors import codec"),
        ("notebooks/charts.py", "import altair, polars\nfrom state.book import Book"),
    ],
)
def test_the_check_accepts_what_the_layers_allow(path: str, code: str) -> None:
    assert list(_problems(Path(path), ast.parse(code))) == []


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path, ast.parse(path.read_text())
        for path in sorted((ROOT / part).rglob("*.ipynb")):
            cells = json.loads(path.read_text())["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            yield path, ast.parse("\n".join(code))


def _problems(path: Path, tree: ast.Module) -> Iterator[str]:
    part = path.parts[0]
    for module in _imported(tree):
        if not _may_import(part, module):
            yield f"{part} must not import {module}"
    if part == "state":
        yield from (f"state must not use {name}" for name in _impure_names(tree))


SHARED_BY_CONNECTORS = (
    "connectors.redis.link",
    "connectors.file_lock",
    "connectors.redis.partitions",
    "connectors.metrics",
    "connectors.codec",
    "connectors.parquet.tables",
    "connectors.columns.replies",
    "connectors.parquet.wide",
)


def _may_import(part: str, module: str) -> bool:
    top = module.partition(".")[0]
    if part == "state":
        return top == "state" or (top in sys.stdlib_module_names and top not in IMPURE)
    if part == "connectors":
        return top not in {"flows", "notebooks", "tests", "connectors"} or module.startswith(
            SHARED_BY_CONNECTORS
        )
    if part == "notebooks":
        return top not in {"flows", "bytewax", "tests"}
    return top not in {"notebooks", "tests"}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import has no module that could be judged: "." is allowed to none.
            module = "." * node.level + (node.module or "")
            yield from {f"{module}.{alias.name}" for alias in node.names}


def _impure_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            yield node.attr
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
