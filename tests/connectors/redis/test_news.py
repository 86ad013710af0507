"""What is a mark and what is none, what becomes news because time passes, what is read."""

from collections.abc import Callable
from threading import Event
from typing import Any, TypeVar

import pytest
import redis as redis_py

from connectors.clock import ClockError, now_ms
from connectors.metrics import MARKS_READ, MARKS_REFUSED
from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.news import News, NewsSource, Passing, read_mark
from connectors.redis.valuations import read_holding, read_valuation
from state.exact import ONE
from state.valuation import Calendar, Mark
from tests.conftest import OwnServer
from tests.support.flow_process import until
from tests.support.hash_values import NOT_KNOWN, position, put, valuation

T = TypeVar("T")

ARRIVED = 1_764_000_000_000
GOOD = {b"symbol": b"AAPL", b"price": b"191.20", b"timestamp": b"1764000000000"}


def read(**changed: bytes | None) -> tuple[str, Mark]:
    said = GOOD | {name.encode(): text for name, text in changed.items()}
    fields = [word for pair in said.items() if pair[1] is not None for word in pair]
    return read_mark(b"%d-0" % ARRIVED, fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("price", [b"191.2", b"-3", b"0", b"1e-10"])
def test_a_price_may_be_any_decimal(price: bytes) -> None:
    symbol, mark = read(price=price, source=b"ibkr last")
    assert symbol == "AAPL"
    assert mark.price == round(float(price) * ONE)


def test_a_mark_may_be_a_minute_ahead_or_long_ago() -> None:
    assert read(timestamp=b"%d" % (ARRIVED + 60_000))[1].timestamp == ARRIVED + 60_000
    assert read(timestamp=b"31536000000")[1].timestamp == 31_536_000_000


def test_a_symbol_may_have_64_characters() -> None:
    assert read(symbol=b"x" * 64)[0] == "x" * 64


def test_the_id_of_an_entry_that_tells_no_time_is_no_measure() -> None:
    fields = [word for pair in GOOD.items() for word in pair]
    assert read_mark(b"5-0", fields)[1].timestamp == ARRIVED
    with pytest.raises(ValueError, match=r"^timestamp: expected"):
        read_mark(b"31536000000-0", fields)
    with pytest.raises(ValueError, match=r"^timestamp: expected"):
        read_mark(b"5-0", [*fields[:-1], b"1" * 16])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("symbol", None), ("symbol", b""), ("symbol", b"x" * 65), ("symbol", b"\xff"),
        ("price", None), ("price", b"NaN"), ("price", b"inf"), ("price", b"1e9"),
        ("price", b"1_0"), ("price", b"0.00000000001"), ("price", b"\xff"),
        ("timestamp", None), ("timestamp", b"soon"), ("timestamp", b"-5"),
        ("timestamp", b"1764000000"), ("timestamp", b"31535999999"), ("timestamp", b"9" * 30),
        ("timestamp", b"%d" % (ARRIVED + 60_001)),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_refused(name: str, text: bytes | None) -> None:
    with pytest.raises(ValueError, match="decode" if text == b"\xff" else f"^{name}: expected"):
        read(**{name: text})


def marked(at: int) -> News:
    return News(Mark(ONE, at), {}, {}, begins=False)


def test_a_mark_that_becomes_stale_is_news_once() -> None:
    passing = Passing(Calendar("UTC"), 60_000)
    assert passing.due(ARRIVED) == []
    passing.take({"A": marked(ARRIVED), "B": marked(ARRIVED + 5000)}, ARRIVED)
    passing.take({"A": marked(ARRIVED - 9000), "B": News(None, {}, {}, begins=False)}, ARRIVED)
    assert passing.due(ARRIVED + 60_000) == []
    assert passing.due(ARRIVED + 61_000) == ["A"]
    assert passing.due(ARRIVED + 62_000) == []
    passing.take({"A": marked(ARRIVED + 62_000)}, ARRIVED + 62_000)
    assert passing.due(ARRIVED + 70_000) == ["B"]
    assert passing.due(ARRIVED + 130_000) == ["A"]


def test_a_mark_that_was_stale_when_it_came_is_no_news_again() -> None:
    passing = Passing(Calendar("UTC"), 60_000)
    passing.take({"A": marked(ARRIVED - 60_001), "B": marked(ARRIVED - 60_000)}, ARRIVED)
    assert passing.due(ARRIVED + 1) == ["B"]


def test_a_new_day_is_news_of_what_is_held_also_where_no_mark_is() -> None:
    passing = Passing(Calendar("UTC"), 60_000)
    midnight = (ARRIVED // 86_400_000 + 1) * 86_400_000
    held = read_holding(position("A").encode())
    news = {"A": News(None, {"A": held}, {}, begins=True), "B": marked(midnight - 2000)}
    passing.take(news, midnight - 2000)
    assert passing.due(midnight - 1000) == [], "the day of the start is none that begins"
    assert passing.due(midnight) == ["A"]
    assert passing.due(midnight + 1000) == []


def test_the_mark_of_a_valuation_that_a_start_finds_becomes_stale_too() -> None:
    passing = Passing(Calendar("UTC"), 60_000)
    kept = read_valuation(valuation("A", mark_timestamp=ARRIVED).encode())
    without = read_valuation(valuation("A", **NOT_KNOWN, state="no mark").encode())
    passing.take({"A": News(None, {}, {"A": kept, "U1:A": without}, begins=True)}, ARRIVED)
    assert passing.due(ARRIVED + 60_000) == []
    assert passing.due(ARRIVED + 61_000) == ["A"]


# --- what is read of a real server ---------------------------------------------------------


class Link(RedisLink):
    """A link that does something before one of its calls, counted from 1."""

    acts: dict[int, Callable[[], object]]
    calls = 0

    def call(self, command: Callable[[redis_py.Redis], T]) -> T:
        self.calls += 1
        self.acts.pop(self.calls, lambda: None)()
        return super().call(command)


class Follower:
    """The source as the engine has it."""

    def __init__(self, url: str, stale_ms: int = 60_000, **acts: Callable[[], object]) -> None:
        self.stop = Event()
        self.link = Link(url, self.stop)
        self.link.acts = {int(name.removeprefix("before_")): act for name, act in acts.items()}
        self.source = NewsSource(
            self.link, self.stop, positions="positions", valuations="valuations",
            changes=["positions:changes"], marks="marks",
            passing=Passing(Calendar("UTC"), stale_ms),
        )  # fmt: skip
        self.part = self.source.build_part("news", "marks", None)

    def read(self) -> dict[str, News]:
        return dict(self.part.next_batch())


def mark(client: redis_py.Redis, symbol: str, price: int, at: int | None = None) -> None:
    fields: dict[Any, Any] = {"symbol": symbol, "price": price, "timestamp": at or now_ms()}
    client.xadd("marks", fields)


def change(client: redis_py.Redis, entry: str, key: str, **members: Any) -> None:
    """Write a change as the first flow does: the hash, then the stream."""
    text = position(key, stream_id=entry, **members)
    client.hset("positions", key, text)
    client.xadd("positions:changes", {"key": key, "position": text}, id=entry)


def test_a_start_finds_positions_their_valuations_and_all_marks_that_are_kept(
    redis: redis_py.Redis, redis_url: str
) -> None:
    put(redis, position("A"), position("A", account="U1"), position("C"))
    put(redis, valuation("A"), name="valuations")
    redis.hset("valuations", mapping={"B": "none", "C": "[]", "D": '{"symbol": "D"}'})
    redis.hset(
        "valuations", mapping={"E": valuation("E").replace('"E"', '["E"]'), b"\xff": valuation("F")}
    )
    at = now_ms()
    mark(redis, "two pages", 1, at)
    with redis.pipeline(transaction=False) as pipe:
        for number in range(5001):  # one more than a page has
            pipe.xadd("marks", {"symbol": f"M{number}", "price": 1, "timestamp": now_ms()})
        pipe.execute()
    mark(redis, "two pages", 2, at - 1)
    follower = Follower(redis_url)
    found = follower.read()
    assert set(found["A"].holdings) == {"A", "U1:A"}
    assert found["A"].kept["A"].mark_price == 151 * ONE
    assert found["C"].kept == {}
    assert not {"B", "D", "E", "F"} & set(found)
    assert found["two pages"].mark == Mark(ONE, at)
    assert found["M0"].mark is not None
    assert found["M5000"].mark is not None
    assert all(news.begins for news in found.values())
    assert follower.read() == {}


def test_what_comes_is_handed_on_once_and_of_a_symbol_its_last(
    redis: redis_py.Redis, redis_url: str
) -> None:
    change(redis, "5-0", "A")
    follower = Follower(redis_url)
    assert follower.read()["A"].holdings["A"].stream_id == "5-0"
    at = now_ms()
    for price, when in ((1, at), (2, at), (3, at - 1)):
        mark(redis, "A", price, when)
    change(redis, "6-0", "A")
    change(redis, "7-0", "A", qty=3)
    found = follower.read()
    assert list(found) == ["A"]
    assert found["A"].mark == Mark(2 * ONE, at)
    assert found["A"].holdings["A"].qty == 3 * ONE
    assert not found["A"].begins
    assert follower.read() == {}


def test_a_change_that_comes_during_a_start_is_not_missed(
    redis: redis_py.Redis, redis_url: str
) -> None:
    change(redis, "5-0", "A")
    follower = Follower(redis_url, before_2=lambda: change(redis, "6-0", "B"))
    found = follower.read() | follower.read()
    assert set(found) == {"A", "B"}


def test_whoever_fell_behind_what_is_kept_begins_again_with_the_hash(
    redis: redis_py.Redis, redis_url: str
) -> None:
    change(redis, "5-0", "A")
    follower = Follower(redis_url)
    follower.read()
    for number, key in enumerate("BCD", 6):
        change(redis, f"{number}-0", key)
    redis.xtrim("positions:changes", maxlen=1, approximate=False)
    found = follower.read() | follower.read()
    assert set(found) == set("ABCD")
    assert not found["B"].begins, "its day began with nothing"
    change(redis, "9-0", "E")
    assert set(follower.read()) == {"E"}


def test_a_position_that_cannot_be_read_is_said_and_the_others_are_valued(
    redis: redis_py.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    change(redis, "5-0", "A")
    redis.hset("positions", mapping={"B": "x", "C": "[]", "D": '{"symbol": "D"}'})
    redis.hset("positions", "E", position("E", qty="1.00000000001"))
    redis.hset("positions", "F", position("F").replace('"F"', '["F"]'))
    redis.hset("positions", b"\xff", position("G"))
    follower = Follower(redis_url)
    assert set(follower.read()) == {"A"}
    said = [line for line in caplog.messages if "cannot be read, so it is not valued" in line]
    assert len(said) == 6
    assert any("expected qty with at most 10 places, found 1.00000000001" in each for each in said)


def test_what_is_no_mark_is_counted_said_and_left_behind(
    redis: redis_py.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    read, refused = (each._value.get() for each in (MARKS_READ, MARKS_REFUSED))
    for price in ("x" * 1000, "NaN"):
        redis.xadd("marks", {"symbol": "A", "price": price, "timestamp": now_ms()})
    mark(redis, "B", 7)
    follower = Follower(redis_url)
    assert list(follower.read()) == ["B"]
    redis.xadd("marks", {"symbol": "A", "price": "y" * 1000, "timestamp": now_ms()})
    assert follower.read() == {}
    assert follower.read() == {}
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("2 entries of marks are no marks, the last ")
    assert len(caplog.messages[1]) < 400
    assert (MARKS_READ._value.get() - read, MARKS_REFUSED._value.get() - refused) == (4, 3)


def test_rates_are_the_last_marks_of_what_looks_like_a_pair(
    redis: redis_py.Redis, redis_url: str
) -> None:
    at = now_ms()
    for symbol in ("EUR.USD", "EURO.US", "BRK.B", "EUR.USDT"):
        mark(redis, symbol, 1, at)
    follower = Follower(redis_url)
    follower.read()
    mark(redis, "EUR.USD", 2, at)
    mark(redis, "EUR.USD", 3, at - 1)
    follower.read()
    mark(redis, "EUR.USD", 4, at - 2)
    follower.read()
    assert follower.source.rates == {"EUR.USD": Mark(2 * ONE, at)}


def test_time_that_passes_is_news_beside_what_is_read(
    redis: redis_py.Redis, redis_url: str
) -> None:
    follower = Follower(redis_url, stale_ms=1)
    mark(redis, "A", 1, now_ms() + 500)
    follower.read()
    until(lambda: follower.read() == {"A": News(None, {}, {}, begins=False)}, "the stale mark")


def test_it_does_what_is_due_while_the_flow_lives_and_ends_when_told_to(
    redis: redis_py.Redis, redis_url: str
) -> None:
    follower = Follower(redis_url)
    done: list[int] = []
    follower.link.while_alive.append(lambda: done.append(1))
    follower.read()
    follower.read()
    assert done == [1, 1]
    follower.stop.set()
    with pytest.raises(StopIteration):
        follower.read()


@pytest.mark.parametrize(
    ("key", "reads"), [("positions:changes", 1), ("marks", 1), ("marks", 0), ("valuations", 0)]
)
def test_what_redis_never_will_stops_it_and_is_said(
    redis: redis_py.Redis, redis_url: str, caplog: pytest.LogCaptureFixture, key: str, reads: int
) -> None:
    follower = Follower(redis_url)
    for _ in range(reads):
        follower.read()
    redis.set(key, "something else")
    with pytest.raises(RedisRefusedError):
        follower.read()
    assert caplog.messages[-1].startswith("stopped: Redis refuses a command: WRONGTYPE")


def test_a_clock_that_was_set_back_stops_it_and_is_said(
    redis: redis_py.Redis,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    follower = Follower(redis_url)
    follower.read()
    monkeypatch.setattr("connectors.clock._ahead", lambda: 0.0)
    with pytest.raises(ClockError):
        follower.read()
    assert caplog.messages[-1].startswith("stopped: the system's clock was set back by ")


def test_told_to_end_while_redis_is_away_it_ends(own_server: OwnServer) -> None:
    server = own_server()
    follower = Follower(server.url)
    follower.read()
    server.kill()
    follower.link.acts[follower.link.calls + 1] = follower.stop.set
    with pytest.raises(StopIteration):
        follower.read()
