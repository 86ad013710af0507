"""The rare paths that a long chaos run must have taken, or it has proven nothing about them.

A flow under `traced` notes when it comes to one of their lines; the product counts nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.support.flow_process import ROOT

_PATHS = {
    "files that no manifest names are deleted":
        ("connectors/parquet/files.py", "leftover.unlink()"),
    "a commit that was cut off behind its manifest is finished":
        ("connectors/parquet/files.py", "match = _CHECKSUM.fullmatch("),
    "of a run that comes again some rows are written already":
        ("state/records.py", "start = bisect_right(unpack_texts(self.updates.ids)"),
    "of single messages that come again some rows are written already":
        ("state/records.py", "later = [update for update in"),
    "snapshots of an epoch that was cut off are dropped":
        ("flows/job/recovery.py", 'log.info("dropped %d snapshots'),
    "what a book took in without its epoch is dropped":
        ("connectors/book_store.py", "DELETE FROM books WHERE key = ? AND ms = ?"),
    "what precedes a whole book is forgotten":
        ("connectors/book_store.py", "DELETE FROM books WHERE key = ? AND (ms, seq) <"),
    "a book takes in a run again":
        ("connectors/book_store.py", "if start == 0 and book.apply_run(messages)"),
    "a commit waits for the checkpoint":
        ("connectors/book_store.py", "self._checkpoint.result()"),
    "a position is shown once more after a restart":
        ("flows/job/position_step.py", "self._show_again = False"),
    "a run is not plain, so its messages are taken one by one":
        ("flows/job/position_step.py", "messages = messages._replace("),
    "the book refuses a message":
        ("flows/job/position_step.py", "results.append(Rejected("),
    "an execution is corrected":
        ("state/book.py", "elif new.qty and (new.timestamp, place) < self._horizon"),
    "an execution is late beyond a split":
        ("state/order.py", "new.append(_begin(action, place, new[-1]"),
    "a backlog is read in bulk":
        ("connectors/redis/source.py", "self._ask_bulk(last_id)"),
    "the last letters are offered again after a restart":
        ("connectors/redis/dead_letter_sink.py", "    self._write([])"),
}  # fmt: skip
"""Each path, and the one line that only it comes to."""


def lines() -> dict[tuple[str, int], str]:
    """Return each path's file and line number; each line must be there, and once."""
    found = {}
    for path, (name, text) in _PATHS.items():
        numbered = enumerate((ROOT / name).read_text().splitlines(), 1)
        [number] = [number for number, line in numbered if text in line]
        found[str(ROOT / name), number] = path
    return found


def traced(reached: Path) -> Mapping[str, str]:
    """Return the settings of a flow that notes in a file what it comes to."""
    return {
        "PYTHONPATH": str(ROOT / "tests/support/reached"),
        "LOTSTREAM_RARE_LINES": json.dumps(list(lines())),
        "LOTSTREAM_REACHED": str(reached),
    }


def not_taken(reached: Path) -> set[str]:
    """Return the paths that no flow has come to."""
    seen = {tuple(json.loads(line)) for line in reached.read_text().splitlines()}
    return {path for at, path in lines().items() if at not in seen}
