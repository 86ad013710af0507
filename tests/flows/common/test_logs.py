"""What is logged, in both forms, and what the flow tells of its work."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.testing import TestingSource, run_main

from connectors.redis.link import RedisRefusedError
from flows.common.logs import Progress, log_exceptions, log_exceptions_of_parts, set_up_logging
from flows.common.settings import Settings
from state.exact import ONE

log = logging.getLogger("lotstream.test")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers = handlers


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> "Lines":
    return Lines(capsys)


class Lines:
    """What was logged since the last look."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self()]


def set_up(form: str = "text", level: str = "INFO") -> None:
    set_up_logging(Settings(log_format=form, log_level=level))


def test_a_line_for_people_is_key_and_value(lines: Lines) -> None:
    set_up()
    log.warning("Redis is away: %s", 'a "b"', extra={"stream": "executions", "tries": 3})
    [line] = lines()
    time, rest = line.split(" ", 1)
    assert datetime.fromisoformat(time.removeprefix("time=")).tzinfo is not None
    assert rest == (
        r'level=warning logger=lotstream.test message="Redis is away: a \"b\"" '
        "stream=executions tries=3"
    )


def test_a_line_break_cannot_forge_a_line(lines: Lines) -> None:
    set_up()
    log.info("symbol %s", "A\nlevel=critical\x1b[31m é")
    [line] = lines()
    assert line.endswith(r'message="symbol A\nlevel=critical\u001b[31m \u00e9"')


def test_text_that_needs_no_escape_is_left_readable(lines: Lines) -> None:
    set_up()
    log.info("Zürich = %s", 1, extra={"empty": "", "a": "b=c", "d": 'e"f', "g": "é", "h": "i\nj"})
    assert lines()[0].endswith(
        r'message="Zürich = 1" empty="" a="b=c" d="e\"f" g=é h="i\nj"'
    )  # fmt: skip


def test_a_json_line_holds_the_same(lines: Lines) -> None:
    set_up("json")
    log.error("gone: %s", "x", extra={"tries": 3, "path": Path("here")})
    [line] = lines()
    members = json.loads(line)
    assert datetime.fromisoformat(members.pop("time")).tzinfo is not None
    assert members == {
        "level": "error", "logger": "lotstream.test", "message": "gone: x", "tries": 3,
        "path": "here",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_comes_with_its_traceback(lines: Lines, form: str) -> None:
    set_up(form)
    try:
        int("why")
    except ValueError:
        log.exception("stopped")
    shown = "\n".join(lines())
    assert "Traceback (most recent call last)" in shown
    assert "ValueError: invalid literal" in shown


def test_the_level_is_the_settings(lines: Lines) -> None:
    set_up(level="WARNING")
    log.info("not this")
    log.warning("this")
    assert ["message=this" in line for line in lines()] == [True]


def test_an_exception_on_its_way_to_the_engine_is_logged_once(lines: Lines) -> None:
    @log_exceptions
    def inner(number: int) -> int:
        return 1 // number

    @log_exceptions
    def outer(number: int) -> int:
        return inner(number)

    set_up("json")
    assert outer(1) == 1
    with pytest.raises(ZeroDivisionError):
        outer(0)
    [line] = lines()
    assert json.loads(line)["level"] == "critical"
    assert "in inner" in json.loads(line)["exception"]


def test_the_end_of_input_is_no_exception_to_log(lines: Lines) -> None:
    @log_exceptions
    def next_batch() -> None:
        raise StopIteration

    set_up("json")
    with pytest.raises(StopIteration):
        next_batch()
    assert lines() == []


class _FailingSink(FixedPartitionedSink[int, None]):
    def list_parts(self) -> list[str]:
        return ["one"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_FailingPart":
        del step_id, for_part, resume_state
        return _FailingPart()


class _FailingPart(StatefulSinkPartition[int, None]):
    def write_batch(self, values: list[int]) -> None:
        raise OSError(28, f"No space left for {values}")

    def snapshot(self) -> None:
        pass


def test_what_fails_inside_the_engine_is_logged_with_its_own_traceback(lines: Lines) -> None:
    set_up("json")
    flow = Dataflow("failing")
    numbers = op.input("in", flow, TestingSource([1]))
    keyed = op.key_on("key", numbers, str)
    op.output("out", keyed, log_exceptions_of_parts(_FailingSink()))
    with pytest.raises(OSError, match="No space left"):
        run_main(flow)  # type: ignore[no-untyped-call]
    logged = [json.loads(line) for line in lines() if line.startswith("{")]
    assert [line["message"] for line in logged] == ["stopped: [Errno 28] No space left for [1]"]
    assert "in write_batch" in logged[0]["exception"]


def test_what_a_part_has_told_itself_is_not_logged_again(lines: Lines) -> None:
    set_up("json")
    part = log_exceptions_of_parts(_FailingSink(), OSError).build_part("out", "one", None)
    with pytest.raises(OSError, match="No space left"):
        part.write_batch([1])
    assert lines() == []


class _Endpoint:
    """A source or sink whose every call fails, or the making of its part."""

    def __init__(self, *, builds: bool) -> None:
        self._builds = builds

    def build_part(self, *_: object) -> "_Endpoint":
        if not self._builds:
            raise KeyError("none")
        return self

    def next_batch(self) -> None:
        raise KeyError("none")

    write_batch = snapshot = next_batch


@pytest.mark.parametrize("call", ["build_part", "next_batch", "write_batch", "snapshot"])
def test_whatever_fails_of_a_source_or_sink_is_logged(lines: Lines, call: str) -> None:
    set_up("json")
    for told in ((), (KeyError,)):
        endpoint = log_exceptions_of_parts(_Endpoint(builds=call != "build_part"), *told)
        part = endpoint if call == "build_part" else endpoint.build_part()
        with pytest.raises(KeyError):
            getattr(part, call)()
        assert lines.messages() == ([] if told else ["stopped: 'none'"])


def test_what_explains_itself_comes_without_a_traceback(lines: Lines) -> None:
    def refused() -> None:
        raise RedisRefusedError("Redis refuses a command: why")

    set_up("json")
    with pytest.raises(RedisRefusedError):
        log_exceptions(refused)()
    [line] = map(json.loads, lines())
    assert line["message"] == "stopped: Redis refuses a command: why"
    assert "exception" not in line


LAST_WORD = """
import logging, os, sys
from flows.common.logs import set_up_logging
from flows.common.settings import Settings
set_up_logging(Settings(log_level=sys.argv[1]), last_word=sys.argv[2] == "last word")
log = logging.getLogger()
log.error("first")
try:
    raise KeyError
except KeyError:
    log.critical("why", exc_info=sys.argv[3] == "traceback")
log.error("second")
os.write(2, b"the engine's own\\n")
log.critical("third")
"""


@pytest.mark.parametrize(
    ("level", "last", "why", "others_are_silent"),
    [("INFO", "last word", "", True), ("INFO", "last word", "traceback", False),
     ("DEBUG", "last word", "", False), ("INFO", "not", "", False)],
)  # fmt: skip
def test_a_line_that_says_why_it_ends_is_the_last_that_a_person_sees(
    level: str, last: str, why: str, *, others_are_silent: bool
) -> None:
    code = [sys.executable, "-c", LAST_WORD, level, last, why]
    told = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    words = ("first", "why", "second", "the engine's own", "third")
    seen = [word for word in words if word in told]
    assert seen == (["first", "why", "third"] if others_are_silent else [*words])


def test_each_change_of_a_position_is_one_line(lines: Lines) -> None:
    set_up("json")
    progress = Progress()
    progress.position_changed("AAPL", 10 * ONE, 150 * ONE + ONE // 4, 10 * ONE)
    progress.position_changed("U1:ES", -ONE // 2, ONE, -3 * ONE)
    progress.position_changed("AAPL", 0, None, -10 * ONE)
    progress.position_changed("x" * 201, 0, None, ONE)
    assert lines.messages() == [
        "Position updated: AAPL = 10 @ 150.25 (change: +10)",
        "Position updated: U1:ES = -0.5 @ 1 (change: -3)",
        "Position updated: AAPL = 0 (change: -10)",
        f"Position updated: {'x' * 200} = 0 (change: +1)",
    ]


def test_a_flow_that_is_live_sums_nothing_up(lines: Lines) -> None:
    set_up("json")
    progress = Progress()
    for _ in range(3):
        progress.read(10, live=True)
    assert lines.messages() == []


def test_catching_up_ends_with_a_summary(lines: Lines) -> None:
    now = 100.0
    set_up("json")
    progress = Progress(to_go=lambda: 0, clock=lambda: now)
    progress.read(2000, 1, live=False)
    now = 100.5
    progress.read(500, 2, live=True)
    assert lines.messages() == ["Processed 2,500 executions (errors: 3), 5,000/s, 0 to go"]
    progress.read(10, live=True)
    assert lines.messages() == []


def test_the_changes_of_a_read_with_many_entries_are_summed_up(lines: Lines) -> None:
    now = 100.0
    set_up("json")
    progress = Progress(to_go=lambda: 0, clock=lambda: now)

    def booked(entries: int, *, live: bool = True) -> list[str]:
        progress.read(entries, live=live)
        progress.read(0, 1, live=live)  # one of them the book refused
        progress.position_changed("A", ONE, ONE, ONE)
        return lines.messages()

    changed = "Position updated: A = 1 @ 1 (change: +1)"
    assert booked(3) == [changed]
    assert booked(2000) == ["Processed 2,000 executions (errors: 0), 0 to go"]
    now = 101.0
    assert booked(2000) == []  # not again so soon
    assert booked(3) == [changed]
    now = 106.0
    assert booked(2000)[0].startswith("Processed 4,003 executions (errors: 3), ")
    booked(2000, live=False)
    [summed_up] = booked(3)  # one line, as it still was behind
    assert summed_up.startswith("Processed 2,003 executions (errors: 2), ")
    assert booked(3) == [changed]


def test_a_long_way_to_catch_up_is_summed_up_now_and_then(lines: Lines) -> None:
    now, to_go = 100.0, 1_234_567
    set_up("json")
    progress = Progress(to_go=lambda: to_go, clock=lambda: now)
    for now in (101.0, 102.0, 103.0, 104.0, 105.0, 106.0):  # noqa: B007
        progress.read(50_000, live=False)
    assert lines.messages() == [
        "Processed 300,000 executions (errors: 0), 60,000/s, 1.2 million to go, about 21 s left"
    ]
    to_go = 999_999
    for now in (107.0, 108.0, 109.0, 110.0, 111.0):  # noqa: B007
        progress.read(50_000, live=False)
    assert lines.messages() == [
        "Processed 250,000 executions (errors: 0), 50,000/s, 999,999 to go, about 20 s left"
    ]


def test_a_pause_does_not_slow_the_speed_that_is_told(lines: Lines) -> None:
    now = 100.0
    set_up("json")
    progress = Progress(clock=lambda: now)
    progress.read(2000, live=False)
    now = 101.0
    progress.read(2000, live=False)
    now = 900.0
    progress.read(1, live=True)
    assert lines.messages() == ["Processed 4,001 executions (errors: 0), 2,000/s"]


def test_errors_alone_are_told_with_the_next_read(lines: Lines) -> None:
    """As when the book refuses messages of a read that takes long."""
    now = 100.0
    set_up("json")
    progress = Progress(to_go=lambda: 1000, clock=lambda: now)
    progress.read(100, live=False)
    for now in (105.0, 111.0):  # noqa: B007
        progress.read(0, 1, live=False)
    assert lines.messages() == []
    now = 120.0
    progress.read(100, live=False)
    assert lines.messages() == [
        "Processed 200 executions (errors: 2), 10/s, 1,000 to go, about 2 min left"
    ]


def test_what_is_to_go_is_left_out_if_nobody_knows(lines: Lines) -> None:
    set_up("json")
    progress = Progress()
    progress.read(1, live=False)
    progress.read(1, live=True)
    [message] = lines.messages()
    assert message.startswith("Processed 2 executions (errors: 0), ")
    assert message.endswith("/s")
