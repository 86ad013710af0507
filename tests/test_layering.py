"""Who may import whom, so that no reviewer has to watch it.

`state` is plain logic: the standard library without clock, environment, logging or
chance. `connectors` know one system each. `flows` put all together, where a command is a
file and knows no other. `MAY_IMPORT` says it for each folder, exactly. A bad snippet for
each row proves that each can fail.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("state", "connectors", "flows", "notebooks")

# By folder, or by file where one has more: the folders (their own files, none below) and
# the files that it may import. What is not ours is not looked at here.
_SYSTEMS = {"connectors", "connectors.columns", "connectors.parquet", "connectors.redis"}
MAY_IMPORT = {
    "state": {"state"},
    "connectors": {"state", "connectors"},
    "connectors.columns": {"state", "connectors.columns", "connectors.codec"},
    "connectors.flex": {"state", "connectors.flex"},
    "connectors.ibkr": {
        "state", "connectors.ibkr", "connectors.backoff", "connectors.clock", "connectors.metrics",
    },
    "connectors.parquet": {
        "state", "connectors.parquet", "connectors.disk", "connectors.file_lock",
        "connectors.kept", "connectors.metrics",
    },
    "connectors.redis": {
        "state", "connectors.redis", "connectors.backoff", "connectors.clock", "connectors.codec",
        "connectors.kept", "connectors.metrics", "connectors.columns.replies",
    },
    "flows.common": {"state", "connectors.redis", "flows.common"},
    "flows.common.rows": {"state", "connectors.parquet"},
    "flows.job": {"state", *_SYSTEMS, "flows.common", "flows.job"},
    "flows.bench": {"state", *_SYSTEMS, "flows.common", "flows.bench", "flows.demo.stage"},
    "flows.board": {"connectors.redis", "flows.common", "flows.board"},
    "flows.demo": {
        "state", "connectors.clock", "connectors.parquet", "connectors.redis", "flows.common",
        "flows.demo",
    },
    "flows.demo.pictures": {"connectors.redis", "flows.common", "flows.demo", "flows.watch"},
    "flows.broker": {
        "state", "connectors.clock", "connectors.ibkr", "connectors.redis", "flows.common",
        "flows.broker",
    },
    "flows.flex": {
        "state", "connectors.flex", "connectors.redis", "flows.common", "flows.flex",
    },
    "flows": {"state", *_SYSTEMS, "connectors.ibkr", "flows.broker", "flows.common"},
    "flows.positions": {"state", *_SYSTEMS, "flows.common", "flows.job"},
    "flows.valuing": {
        "state", "connectors", "connectors.parquet", "connectors.redis", "flows.common",
        "flows.valuing",
    },
    "flows.valuation": {
        "state", "connectors", "connectors.parquet", "connectors.redis", "flows.common",
        "flows.job.launch", "flows.valuing",
    },
    "flows.rescale": {
        "state", *_SYSTEMS, "flows.common", "flows.job.names", "flows.job.recovery",
    },
    "flows.verify": {
        "state", *_SYSTEMS, "flows.common", "flows.job.names", "flows.job.recovery",
    },
    "notebooks": {"state", "notebooks"},
}  # fmt: skip

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


# What each row of the table forbids.
BREACHES = [
    ("state/book.py", "import redis"),
    ("state/book.py", "import state.exact, connectors.codec"),
    ("state/book.py", "from flows.common.settings import Settings"),
    ("state/book.py", "from connectors import codec"),
    ("state/book.py", "import os.path"),
    ("state/book.py", "def now():\n    from time import time"),
    ("state/book.py", "from datetime import datetime\ndatetime.now()"),
    ("state/book.py", "import datetime\ndatetime.date.today()"),
    ("state/book.py", "print('hello')"),
    ("state/book.py", "from .exact import to_text"),
    ("state/book.py", "import state.no_such_file"),
    ("connectors/codec.py", "from flows import settings"),
    ("connectors/codec.py", "from connectors.parquet.sink import SCHEMA"),
    ("connectors/codec.py", "from connectors import parquet"),
    ("connectors/codec.py", "import notebooks.show"),
    ("connectors/columns/replies.py", "from connectors.redis.link import send"),
    ("connectors/columns/replies.py", "from connectors import metrics"),
    ("connectors/flex/plan.py", "from connectors.redis.publisher import Publisher"),
    ("connectors/ibkr/feed.py", "from connectors.redis.publisher import Publisher"),
    ("connectors/parquet/files.py", "from connectors.redis.link import send"),
    ("connectors/parquet/files.py", "from connectors.codec import decode"),
    ("connectors/redis/source.py", "from connectors.parquet.files import StreamFiles"),
    ("connectors/redis/source.py", "from connectors.columns import messages"),
    ("flows/common/logs.py", "from flows.job import recovery"),
    ("flows/common/logs.py", "from flows.watch import page"),
    ("flows/common/rows.py", "from connectors.redis.link import send"),
    ("flows/job/exporter.py", "from flows.watch import page"),
    ("flows/job/exporter.py", "from connectors.ibkr.feed import Feed"),
    ("flows/bench/rig.py", "from flows.positions import build_flow"),
    ("flows/board/server.py", "from flows import watch"),
    ("flows/broker/side.py", "from flows.router import Outbox"),
    ("flows/demo/stage.py", "from flows.bench.rig import Flow"),
    ("flows/demo/pictures.py", "from flows.board.frames import Board"),
    ("flows/flex/audit.py", "from flows.router import Outbox"),
    ("flows/router.py", "import tests.support.servers"),
    ("flows/router.py", "from flows.reconcile import compare"),
    ("flows/router.py", "from flows.job import recovery"),
    ("flows/positions.py", "from flows.watch import page"),
    ("flows/positions.py", "from connectors.ibkr.feed import Feed"),
    ("flows/valuation.py", "from flows.positions import build_flow"),
    ("flows/valuing/value_step.py", "from flows.job.launch import launch"),
    ("flows/rescale.py", "from flows.job.position_step import PositionLogic"),
    ("flows/verify.py", "from flows.job.launch import launch"),
    ("notebooks/show.py", "from flows.common.settings import load_settings"),
    ("notebooks/show.py", "import bytewax.operators as op"),
    ("notebooks/01_positions.ipynb", "import flows.demo"),
]


@pytest.mark.parametrize(("path", "code"), BREACHES)
def test_the_check_finds_an_import_that_breaks_a_layer(path: str, code: str) -> None:
    assert len(list(_problems(Path(path), ast.parse(code)))) == 1


def test_each_row_of_the_table_is_shown_to_forbid_something() -> None:
    assert {_row(Path(path)) for path, _ in BREACHES} == set(MAY_IMPORT)


def test_a_folder_without_a_row_may_import_nothing_of_ours() -> None:
    [problem] = _problems(Path("flows/new/door.py"), ast.parse("import state.exact"))
    assert problem == "flows.new has no row in MAY_IMPORT of tests/test_layering.py"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (
            "state/book.py",
            "import re\nfrom decimal import Decimal\nfrom state.exact import to_text",
        ),
        ("state/book.py", "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)"),
        (
            "connectors/redis/hash_sink.py",
            "import time\nfrom connectors.redis.link import T",
        ),
        ("connectors/parquet/sink.py", "from bytewax.outputs import FixedPartitionedSink"),
        ("flows/positions.py", "import bytewax.operators as op\nfrom connectors import codec"),
        ("notebooks/show.py", "import altair, polars\nfrom state.book import Book"),
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
    row = _row(path)
    for module in sorted(_imported(tree)):
        if module.partition(".")[0] not in OURS:
            if not _may_import_of_others(row, module):
                yield f"{row} must not import {module}"
        elif row not in MAY_IMPORT:
            yield f"{row} has no row in MAY_IMPORT of tests/test_layering.py"
        elif MAY_IMPORT[row].isdisjoint(_names(module)):
            yield f"{row} must not import {module}"
    if row == "state":
        yield from (f"state must not use {name}" for name in _impure_names(tree))


OURS = {*PARTS, "tests"}


def _row(path: Path) -> str:
    """Return the row of the table that a file falls under: its own, else its folder's."""
    parts = path.with_suffix("").parts
    own = ".".join(parts)
    return own if own in MAY_IMPORT else ".".join(parts[:-1])


def _names(module: str) -> set[str]:
    """Return what the table may call what is imported: the file, or its folder."""
    parts = module.split(".")
    while parts:
        path = ROOT.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return {".".join(parts), ".".join(parts[:-1])}
        if path.is_dir():
            # A name in a folder that is no file there: the import fails, or goes elsewhere.
            return {".".join(parts)} if module == ".".join(parts) else set()
        parts.pop()
    return set()


def _may_import_of_others(row: str, module: str) -> bool:
    top = module.partition(".")[0]
    if row == "state":
        return top in sys.stdlib_module_names and top not in IMPURE
    return bool(top) and not (row == "notebooks" and top == "bytewax")


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
