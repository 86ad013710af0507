"""The sink of rows: hands what was valued to the files of minutes, and ends minutes in time."""

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.clock import now_ms
from connectors.parquet.minutes import MinuteFiles
from connectors.redis.link import RedisLink
from connectors.redis.valuations import Valued


class MinutesSink(FixedPartitionedSink[Valued, None]):
    """Write a row a minute for each key that was valued in it."""

    def __init__(self, files: MinuteFiles, link: RedisLink) -> None:
        self._files, self._link = files, link

    def list_parts(self) -> list[str]:
        """Name the one part."""
        return ["valuations"]

    def part_fn(self, item_key: str) -> int:
        """Return 0: there is one part."""
        del item_key
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_MinutesPartition":
        """Begin with no rows."""
        del step_id, for_part, resume_state
        # The engine gives a sink that has nothing to write no turn of its own.
        self._link.while_alive.append(lambda: self._files.end_minute(now_ms()))
        return _MinutesPartition(self._files)


class _MinutesPartition(StatefulSinkPartition[Valued, None]):
    def __init__(self, files: MinuteFiles) -> None:
        self._files = files

    def write_batch(self, values: list[Valued]) -> None:
        for valued in values:
            self._files.add(valued.key, valued.valuation, valued.at)

    def snapshot(self) -> None:
        """Nothing to keep: a minute is written once, when it is over."""
