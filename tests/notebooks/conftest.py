"""Data sets that the real flow wrote, each made once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.flow_data import Written, a_year_of_trading, one_row, written_by_flow
from tests.support.servers import RedisServer


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Written]]:
    """What the flow wrote of no message, of one execution and of a year of trading."""
    inputs = {"empty": [], "one row": one_row(), "a year": a_year_of_trading()}
    directory = tmp_path_factory.mktemp("history data")
    with RedisServer(directory / "redis") as server:
        yield {
            name: written_by_flow(server, directory / name, messages)
            for name, messages in inputs.items()
        }


@pytest.fixture(scope="session")
def data_dir(written: dict[str, Written]) -> Path:
    """Where the year of trading is."""
    return written["a year"].data_dir
