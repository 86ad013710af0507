"""The names that recovery directories hang on are those of every release so far."""

from pathlib import Path
from threading import Event

from bytewax.testing import TestingSource

from connectors.parquet.sink import ParquetSink
from connectors.redis.dead_letter_sink import DeadLetterSink
from connectors.redis.hash_sink import PositionHashSink
from connectors.redis.link import RedisLink
from flows.job import names
from flows.positions import build_flow


def test_steps_that_keep_state_are_called_as_they_always_were() -> None:
    assert (names.SOURCE_ID, names.POSITION_ID, names.PARQUET_ID, names.LETTERS_ID) == (
        "positions.executions",
        "positions.position",
        "positions.parquet",
        "positions.dead_letters",
    )


def test_the_flow_has_each_of_them(tmp_path: Path) -> None:
    link = RedisLink("redis://127.0.0.1:1/0", Event())  # nothing is sent
    flow = build_flow(
        TestingSource([]),
        dead_letters=DeadLetterSink(link, {"executions": "executions:dead"}),
        position_hash=PositionHashSink(link, ["executions"], "positions"),
        parquet=ParquetSink(tmp_path, ["executions"]),
    )
    steps = {step.step_id for step in flow.substeps}
    assert {names.SOURCE_ID, names.POSITION_ID, names.PARQUET_ID, names.LETTERS_ID} <= steps
