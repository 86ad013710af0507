"""A program that follows the positions, by the very lines that docs/reference.md shows."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import redis

from tests.support.flow_process import Row, order, parse, read_stream

_PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def follow(client: redis.Redis, stream: str) -> Iterator[tuple[str, Row]]:
    """Yield keys and positions; client: one that decodes responses."""
    [lines] = re.findall(r"(?ms)^```python\n(def follow.*?)^```", _PAGE.read_text())
    names: dict[str, Any] = {"json": json, "Decimal": Decimal}
    exec(lines, names)  # noqa: S102  # what the page shows must run as it stands
    yield from names["follow"](client, stream)


def changes(client: redis.Redis, stream: str = "positions:changes") -> list[tuple[str, str, Row]]:
    """Return a stream's entries as (id, key, position); see that the id is the position's."""
    found = []
    for entry_id, fields in read_stream(client, stream):
        assert fields[::2] == [b"key", b"position"]
        position = parse(fields[3])
        assert position["stream_id"] == entry_id
        found.append((entry_id, fields[1].decode(), position))
    return found


def newest(client: redis.Redis, *streams: str) -> dict[str, Row]:
    """Return the last position of each key in the streams, in which it is in order of ids."""
    found: dict[str, Row] = {}
    for stream in streams:
        entries = changes(client, stream)
        ids = [order(entry_id) for entry_id, _, _ in entries]
        assert ids == sorted(set(ids))
        of_stream = {key: position for _, key, position in entries}
        assert not found.keys() & of_stream.keys()
        found |= of_stream
    return found
