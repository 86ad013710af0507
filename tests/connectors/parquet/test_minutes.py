"""The data set `valuations`: a minute once, whatever crashes."""

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from connectors.file_lock import FileLock, LockedError
from connectors.parquet.files import DataDirError
from connectors.parquet.minutes import VALUATIONS_SCHEMA, MinuteFiles
from flows import verify as verify_module
from flows.common.settings import Settings
from flows.compact import compact
from flows.verify import verify
from state.exact import MONEY, ONE
from state.valuation import Day, Holding, Mark, Valuation, value
from tests.support.happened import Happened

MINUTE = 1_764_000_000_000 // 60_000 * 60_000


def valuation(price: int, symbol: str = "A") -> Valuation:
    held = Holding("U1", symbol, "USD", ONE, ONE, MONEY, 0, 0, "5-1")
    return value(held, Mark(price * ONE, MINUTE), Day("2025-11-24", None), MINUTE, 1000)


def rows(data_dir: Path) -> list[tuple[str, datetime, Decimal]]:
    found = []
    for path in sorted((data_dir / "valuations").glob("date=*/*.parquet")):
        table = pq.ParquetFile(path).read()
        assert table.schema.equals(VALUATIONS_SCHEMA)
        found += [(row["symbol"], row["time"], row["mark_price"]) for row in table.to_pylist()]
    return sorted(found)


def time(minute: int) -> datetime:
    return datetime.fromtimestamp((MINUTE + minute * 60_000) / 1000, UTC)


def started(data_dir: Path) -> MinuteFiles:
    files = MinuteFiles(data_dir)
    files.lock()
    return files


def test_a_minute_has_the_last_valuation_of_each_key_that_changed_in_it(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.add("A", valuation(1), MINUTE)
    files.add("A", valuation(2), MINUTE + 59_999)
    files.add("B", valuation(3, "B"), MINUTE + 5)
    assert rows(tmp_path) == []
    files.end_minute(MINUTE + 60_000)
    assert rows(tmp_path) == [("A", time(0), Decimal(2)), ("B", time(0), Decimal(3))]
    files.end_minute(MINUTE + 120_000)
    files.add("A", valuation(4), MINUTE + 180_000)
    files.add("A", valuation(5), MINUTE + 100)  # the clock was set back
    files.end_minute(MINUTE + 240_000)
    assert rows(tmp_path)[1] == ("A", time(3), Decimal(5))
    assert len(rows(tmp_path)) == 3
    read = pl.read_parquet(tmp_path / "valuations")
    assert read["unrealized_pnl"].to_list()[0] == Decimal(1)


@pytest.mark.long
def test_a_minute_is_written_once_whatever_crashes(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.add("A", valuation(1), MINUTE)
    with pytest.raises(LockedError, match="held by process"):
        started(tmp_path)
    files.close()  # as a crash does
    again = started(tmp_path)
    again.add("A", valuation(2), MINUTE + 30_000)
    again.end_minute(MINUTE + 60_000)
    again.close()
    late = started(tmp_path)
    late.add("A", valuation(3), MINUTE + 40_000)
    late.end_minute(MINUTE + 60_000)
    assert rows(tmp_path) == [("A", time(0), Decimal(2))]
    late.end_minute(MINUTE + 120_000)
    assert rows(tmp_path)[1:] == [("A", time(1), Decimal(3))], "the clock was set back"


def test_a_minute_that_a_disk_has_changed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = started(tmp_path)
    files.add("A", valuation(1), MINUTE)
    files.end_minute(MINUTE + 60_000)
    settings = Settings(data_dir=tmp_path)
    assert verify(settings, None) == []
    [path] = (tmp_path / "valuations").glob("date=*/*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(verify_module, "_BETWEEN_S", 0.0)
    assert [damage.where for damage in verify(settings, None)] == [str(path)]


def test_a_minute_appears_whole_and_then_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = Happened(monkeypatch)
    files = started(tmp_path)
    files.add("A", valuation(1), MINUTE)
    files.end_minute(MINUTE + 60_000)
    [path] = (tmp_path / "valuations").glob("date=*/*.parquet")
    appeared = happened.renamed(path)
    assert happened.synced(path, before=appeared)
    assert happened.synced(path.parent, since=appeared)
    for above in (tmp_path, tmp_path / "valuations"):
        assert happened.synced(above, before=appeared)


def test_the_end_of_a_minute_imports_nothing(tmp_path: Path) -> None:
    """Marks would wait for it: pandas, which Arrow looks for, takes longer than all the rows."""
    code = """
import sys
from pathlib import Path
from connectors.parquet.minutes import MinuteFiles
from state.valuation import Day, Holding, value
files = MinuteFiles(Path(sys.argv[1]))
files.lock()
held = Holding("U1", "A", "USD", 1, 1, 1, 0, 0, "5-1")
files.add("A", value(held, None, Day("2025-11-24", None), 1, 1000), 0)
before = set(sys.modules)
files.end_minute(60_000)
print({name.partition(".")[0] for name in set(sys.modules) - before})
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert list(tmp_path.glob("valuations/*/*.parquet"))
    assert done.stdout == "set()\n"


def test_a_minute_does_not_appear_while_a_days_files_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waited(Exception):  # noqa: N818
        pass

    def wait(_: object) -> None:
        raise Waited

    files = started(tmp_path)
    files.add("A", valuation(1), MINUTE)
    compacting = FileLock(tmp_path / ".lotstream" / "publish.lock")
    compacting.acquire()
    monkeypatch.setattr("connectors.file_lock.time.sleep", wait)
    with pytest.raises(Waited):
        files.end_minute(MINUTE + 60_000)
    assert rows(tmp_path) == []


def test_a_data_dir_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / ".lotstream").write_text("a file")
    with pytest.raises(DataDirError, match="cannot write to DATA_DIR: "):
        started(tmp_path)


@pytest.mark.long
def test_a_day_is_merged_as_the_others_are(tmp_path: Path) -> None:
    files = started(tmp_path)
    for minute in range(3):
        files.add("A", valuation(minute), MINUTE + minute * 60_000)
    files.end_minute(MINUTE + 180_000)
    [done] = compact(tmp_path, date(2025, 11, 24))
    assert (done.data_set, done.parts, done.rows) == ("valuations", 3, 3)
    assert [price for _, _, price in rows(tmp_path)] == [0, 1, 2]
