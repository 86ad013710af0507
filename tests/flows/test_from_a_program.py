"""What docs/reference.md tells programs: its examples run, its schema is that of the hash."""

import contextlib
import io
import json
import re
from pathlib import Path

import jsonschema
import pytest
import redis as redis_py

from state.snapshot import PositionSnapshot
from tests.support.flow_process import ROOT, FlowProcess, add

SCHEMA = json.loads((ROOT / "docs" / "positions.schema.json").read_text())


def examples() -> list[str]:
    """Return the Python of the section `From a program`, in order."""
    text = (ROOT / "docs" / "reference.md").read_text()
    [section] = re.findall(r"(?ms)^## From a program$(.*?)^## ", text)
    return re.findall(r"(?ms)^```python\n(.*?)^```", section)


def run(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})  # noqa: S102  # our own page
    return said.getvalue()


def test_the_examples_do_what_they_say_and_every_value_is_of_the_schema(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    read, publish = examples()
    assert max(len(re.findall(r"(?m)^\S", code)) for code in (read, publish)) <= 10
    common = {"order_id": "1", "fill_price": "10.5", "timestamp": "1784000000000"}
    flat = {**common, "symbol": "F", "account": "U1", "fill_qty": "2", "con_id": "7"}
    with FlowProcess(tmp_path, redis_url) as flow:
        run(publish)
        run(publish.replace("AAPL", "ES"))
        add(redis, {**flat, "side": "BUY", "exec_id": "f1", "sec_type": "FUT", "multiplier": "50"})
        add(redis, {**flat, "side": "SELL", "exec_id": "f2", "commission": "1.25",
                    "commission_currency": "EUR"})  # fmt: skip
        add(redis, {"type": "opening", "symbol": "O", "qty": "-3", "avg_price": "0.1",
                    "timestamp": "1784000000000"})  # fmt: skip
        flow.until_committed(redis)
        assert run(read) == "10 0 USD\n"
        assert flow.stop() == 0
    values = [json.loads(value) for value in redis.hvals("positions")]
    assert len(values) == 4
    for value in values:
        jsonschema.validate(value, SCHEMA)


def test_the_schema_has_each_member_and_no_other_and_can_fail() -> None:
    members = [*PositionSnapshot._fields, "stream_id"]
    assert SCHEMA["required"] == list(SCHEMA["properties"]) == members
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, SCHEMA)
