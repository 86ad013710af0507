"""The sink of rows: what was valued goes to the minute's file, which ends in time by itself."""

from pathlib import Path
from threading import Event

import pyarrow.parquet as pq
import pytest

from connectors.parquet.minutes import MinuteFiles
from connectors.redis.link import RedisLink
from connectors.redis.valuations import Valued
from flows.valuing import minutes_sink
from flows.valuing.minutes_sink import MinutesSink
from state.exact import MONEY, ONE
from state.valuation import Day, Holding, value

MINUTE = 1_764_000_000_000 // 60_000 * 60_000


def test_what_was_valued_is_written_when_its_minute_is_over_though_nothing_more_comes(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, link = MinuteFiles(tmp_path), RedisLink(redis_url, Event())
    files.lock()
    sink = MinutesSink(files, link)
    part = sink.build_part("minutes", "valuations", None)
    held = Holding(None, "A", "USD", ONE, ONE, MONEY, 0, 0, "5-1")
    found = value(held, None, Day("2025-11-24", None), MINUTE, 1000)
    part.write_batch([Valued("A", found, MINUTE)])
    part.write_batch([Valued("A", found, MINUTE + 1)])
    monkeypatch.setattr(minutes_sink, "now_ms", lambda: MINUTE + 59_999)
    [let_live] = link.while_alive
    let_live()
    assert not (tmp_path / "valuations").exists()
    monkeypatch.setattr(minutes_sink, "now_ms", lambda: MINUTE + 60_000)
    let_live()
    [path] = (tmp_path / "valuations").glob("date=*/*.parquet")
    assert pq.ParquetFile(path).metadata.num_rows == 1
    files.close()
    link.client.close()
