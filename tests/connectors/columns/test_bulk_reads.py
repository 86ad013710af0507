"""The source while it catches up, against a real server: all is handed on, in order, once."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event

import pytest
import redis as redis_py

from connectors.columns.replies import Replies
from connectors.kept import unseal_values
from connectors.redis import source as redis_stream
from connectors.redis.link import RedisLink, RedisRefusedError, send
from connectors.redis.source import GapError, ResumeState
from tests.connectors.redis.test_source import STREAM, Reader
from tests.support.flow_process import read_stream

LENGTH = 80


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_stream, "_MOST", 20)
    monkeypatch.setattr(redis_stream, "_MOST_OF_MANY", 40)
    monkeypatch.setattr(redis_stream, "_MANY", 5)
    for limit in ("_COLLECT_S", "_WORK_S", "_SHORT_S"):  # a busy machine takes its time
        monkeypatch.setattr(redis_stream, limit, 1e9)


@pytest.fixture
def stop() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


@pytest.fixture(params=[2, 3])
def url(request: pytest.FixtureRequest, redis_url: str) -> str:
    """The address, with each version of the protocol."""
    return f"{redis_url}?protocol={request.param}"


@pytest.fixture
def link(url: str, stop: Event, redis: redis_py.Redis) -> Iterator[RedisLink]:
    link = RedisLink(url, stop)
    redis.config_set("hz", 200)  # an idle server ends a wait at its next tick
    with closing(link.client):
        yield link
    redis.config_set("hz", 10)


def imitation(entry: str) -> str:
    """Return a value that looks like an entry, and so like the last one of a reply."""
    return f"\r\n*2\r\n${len(entry)}\r\n{entry}\r\n"


def odd_entries(number: int) -> list[dict[str, str]]:
    """Return fields that an entry of this number may have, unlike those of the others."""
    return [
        {"other": "1", "b": "2"},
        {"a": "1"},
        {"a": "1", "b": "2", "c": "3"},
        {"a": "line\nend", "b": "\r\n"},
        {"a": "x" * 200, "b": ""},
        {"a": "1", "b": imitation("0-1")},
        {"a": "1", "b": imitation(f"{number - 1}-1")},
        {"a": "1", "b": imitation(f"{number + 7}-1")},
        {"a": imitation("99999999999999999999999-1"), "b": ""},
        {"a": "1", "b": imitation(f"{number}-1") + "\r\n*1\r\n*2\r\n"},
    ]


def fill(client: redis_py.Redis, odd: dict[int, dict[str, str]], length: int = LENGTH) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1, length + 1):
            plain = {"a": str(number), "b": "x" * (number % 12)}
            fields = odd.get(number, plain)
            pairs = [part for pair in fields.items() for part in pair]
            pipeline.execute_command("XADD", STREAM, f"{number}-1", *pairs)  # type: ignore[no-untyped-call]
        pipeline.execute()


def strewn(seed: int, share: float) -> dict[int, dict[str, str]]:
    rng = random.Random(seed)
    numbers = range(1, LENGTH + 1)
    return {number: rng.choice(odd_entries(number)) for number in numbers if rng.random() < share}


def reader_of(link: RedisLink, state: ResumeState | None = None) -> Reader:
    return Reader(link, state, count=5, bulk_count=10)


class Taken:
    """What a reader has handed on, held against its resume state after every read."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.entries: list[tuple[str, list[bytes]]] = []

    def read(self) -> bool:
        """Read once; tell whether there was anything."""
        more = [
            (entry.decode(), list(fields))
            for read in self.reader.reads()
            for entry, fields in read.entries
        ]
        self.entries += more
        last = self.entries[-1][0] if self.entries else "0-0"
        kept = unseal_values("executions", self.reader.part.snapshot())
        assert kept == (last, len(self.entries))
        return bool(more)

    def read_all(self, between: Callable[[], object] = lambda: None) -> None:
        while self.read():
            between()


def kill_bulk(client: redis_py.Redis, reader: Reader) -> bool:
    """Kill a reader's connection for bulk reads, if it has one."""
    bulk = reader.part._reader._bulk
    if bulk is None:
        return False
    host, port = bulk._connection._sock.getsockname()
    send(client, "CLIENT", "KILL", "ADDR", f"{host}:{port}")
    return True


@pytest.mark.parametrize("share", [0.0, 0.03, 0.1, 0.5, 1.0])
def test_all_is_handed_on_in_order_and_once(
    link: RedisLink, redis: redis_py.Redis, share: float
) -> None:
    for seed in range(5):
        redis.delete(STREAM)
        fill(redis, strewn(seed, share))
        taken = Taken(reader_of(link))
        taken.read_all()
        assert taken.entries == read_stream(redis, STREAM)


@pytest.mark.parametrize("kind", range(len(odd_entries(0))))
def test_one_odd_entry_takes_nothing_and_adds_nothing(
    link: RedisLink, redis: redis_py.Redis, kind: int
) -> None:
    for at in (5, 15, 16, 25, LENGTH):
        redis.delete(STREAM)
        fill(redis, {at: odd_entries(at)[kind]})
        taken = Taken(reader_of(link))
        taken.read_all()
        assert taken.entries == read_stream(redis, STREAM)


def test_an_imitated_id_may_have_any_number_of_digits(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    fill(redis, {15: {"a": "1", "b": imitation("9" * 5000 + "-1")}})
    taken = Taken(reader_of(link))
    taken.read_all()
    assert taken.entries == read_stream(redis, STREAM)


def test_like_entries_are_read_in_bulk(link: RedisLink, redis: redis_py.Redis) -> None:
    fill(redis, {})
    reader = reader_of(link)
    sizes = [[len(read.entries) for read in reader.reads()] for _ in range(5)]
    assert sizes == [[5], [20], [20], [20], [15]]
    assert reader.ids() == []


def of_symbols(symbols: int, *, late: bool = False) -> dict[int, dict[str, str]]:
    """Return fields of all entries, their times rising or falling."""
    return {
        n: {"symbol": f"S{n % symbols}", "timestamp": str(2000 + (-n if late else n))}
        for n in range(1, LENGTH + 1)
    }


FEW, MANY = [[5], [20], [20], [20], [15]], [[5], [40], [35], [], []]


@pytest.mark.parametrize(
    ("symbols", "late", "sizes"), [(4, False, FEW), (10, False, MANY), (10, True, FEW)]
)
def test_of_many_symbols_more_is_handed_on_at_once_unless_they_come_late(
    link: RedisLink, redis: redis_py.Redis, symbols: int, late: bool, sizes: list[list[int]]
) -> None:
    fill(redis, of_symbols(symbols, late=late))
    reader = reader_of(link)
    assert [[len(read.entries) for read in reader.reads()] for _ in sizes] == sizes


@pytest.mark.parametrize(
    ("symbols", "short_s", "sizes"),
    [
        (4, 1e9, [[5], [20], [10], [10], [10], [20], [5]]),
        (10, 0.0, [[5], [40], [10], [10], [10], [5], []]),
        (10, 1e9, [[5], [40], [35], [], [], [], []]),  # what took a moment says nothing
    ],
)
def test_what_takes_long_to_book_is_handed_on_in_small_reads(
    link: RedisLink,
    redis: redis_py.Redis,
    monkeypatch: pytest.MonkeyPatch,
    symbols: int,
    short_s: float,
    sizes: list[list[int]],
) -> None:
    monkeypatch.setattr(redis_stream, "_SHORT_S", short_s)
    fill(redis, of_symbols(symbols))
    reader = reader_of(link)
    found = [[len(read.entries) for read in reader.reads()] for _ in range(2)]
    monkeypatch.setattr(redis_stream, "_WORK_S", 0.0)  # whatever it takes is long
    found += [[len(read.entries) for read in reader.reads()] for _ in range(3)]
    monkeypatch.setattr(redis_stream, "_WORK_S", 1e9)
    found += [[len(read.entries) for read in reader.reads()] for _ in range(2)]
    assert found == sizes


def test_entries_of_several_shapes_are_read_in_bulk_too(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    shapes = odd_entries(0)[:3]
    long = {"a": "x" * 200, "b": ""}
    odd = {number: [*shapes, long][number % 4] for number in range(1, LENGTH) if number % 3}
    fill(redis, odd)
    reader = reader_of(link)
    reads = [reader.reads() for _ in range(5)]
    assert [[len(read.entries) for read in some] for some in reads] == [[5], [20], [20], [20], [15]]
    bulk = [read.entries for [read] in reads[1:]]
    assert all(isinstance(entries, Replies) for entries in bulk)
    # Only what is long is left to a parser.
    ids = [some[at][0] for some in bulk if isinstance(some, Replies) for at in some.odd()]
    assert ids == [b"%d-1" % number for number in odd if odd[number] is long and number > 5]


def test_only_what_was_read_last_is_live(link: RedisLink, redis: redis_py.Redis) -> None:
    fill(redis, {})
    reader = reader_of(link)
    assert [read.live for _ in range(5) for read in reader.reads()] == [False] * 4 + [True]


@pytest.mark.parametrize("seed", range(4))
def test_a_reader_may_be_replaced_after_any_read(
    link: RedisLink, redis: redis_py.Redis, seed: int
) -> None:
    fill(redis, strewn(seed, 0.05))
    state: ResumeState | None = None
    ids: list[str] = []
    while more := (reader := reader_of(link, state)).ids():
        ids += more
        if len(ids) % 2:
            ids += reader.ids()
        state = reader.part.snapshot()
    assert ids == [entry for entry, _ in read_stream(redis, STREAM)]


def test_what_comes_meanwhile_is_read_too(link: RedisLink, redis: redis_py.Redis) -> None:
    fill(redis, {})
    taken = Taken(reader_of(link))

    def add_more() -> None:
        for _ in range(3):
            if len(taken.entries) < 2 * LENGTH:
                send(redis, "XADD", STREAM, f"{LENGTH}-*", "a", "1", "b", "2")

    taken.read_all(add_more)
    assert taken.entries == read_stream(redis, STREAM)
    assert len(taken.entries) > LENGTH


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_bulk_connection_loses_and_doubles_nothing(
    link: RedisLink, redis: redis_py.Redis, seed: int
) -> None:
    fill(redis, strewn(seed, 0.02 * seed))
    reader, killed = reader_of(link), []
    rng = random.Random(seed)
    taken = Taken(reader)
    taken.read_all(lambda: killed.append(rng.random() < 0.7 and kill_bulk(redis, reader)))
    assert taken.entries == read_stream(redis, STREAM)
    assert any(killed)


def test_the_loss_of_all_connections_loses_and_doubles_nothing(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    fill(redis, {})
    taken = Taken(reader_of(link))
    assert taken.read()
    assert taken.read()
    send(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    taken.read_all()
    assert taken.entries == read_stream(redis, STREAM)


def test_a_user_without_echo_reads_all(url: str, stop: Event, redis: redis_py.Redis) -> None:
    fill(redis, strewn(1, 0.1))
    send(redis, "ACL", "SETUSER", "mute", "on", ">word", "~*", "&*", "+@all", "-echo")
    link = RedisLink(url.replace("redis://", "redis://mute:word@"), stop)
    with closing(link.client):
        taken = Taken(reader_of(link))
        taken.read_all()
    send(redis, "ACL", "DELUSER", "mute")
    assert taken.entries == read_stream(redis, STREAM)
    assert taken.reader.part._reader._bulk is None


@pytest.mark.parametrize("command", ["xread", "xrange"])
def test_a_permission_that_is_taken_away_meanwhile_is_named(
    url: str, stop: Event, redis: redis_py.Redis, command: str
) -> None:
    fill(redis, {})
    send(redis, "ACL", "SETUSER", "some", "on", ">word", "~*", "&*", "+@all")
    link = RedisLink(url.replace("redis://", "redis://some:word@"), stop)
    with closing(link.client):
        taken = Taken(reader_of(link))
        assert taken.read()
        send(redis, "ACL", "SETUSER", "some", f"-{command}")
        with pytest.raises(RedisRefusedError, match=rf"lacks a permission: .*{command}"):
            taken.read_all()
    send(redis, "ACL", "DELUSER", "some")
    assert taken.entries == read_stream(redis, STREAM)[: len(taken.entries)]
    assert len(taken.entries) < LENGTH  # what cannot be checked is not taken


# --- gaps -----------------------------------------------------------------------------------


def trimmed(client: redis_py.Redis) -> None:
    client.xtrim(STREAM, minid=f"{LENGTH - 2}-1", approximate=False)


def deleted(client: redis_py.Redis) -> None:
    client.delete(STREAM)


def flushed(client: redis_py.Redis) -> None:
    client.flushall()


def flushed_with_new_ids_above(client: redis_py.Redis) -> None:
    client.flushall()
    for number in range(LENGTH + 1, 2 * LENGTH):
        send(client, "XADD", STREAM, f"{number}-1", "a", "1", "b", "2")


def restored_from_an_old_copy(client: redis_py.Redis) -> None:
    client.flushall()
    fill(client, {}, 3)


def entries_deleted(client: redis_py.Redis) -> None:
    client.xdel(STREAM, *[f"{number}-1" for number in range(2, LENGTH - 2)])


LOSSES = [
    trimmed, deleted, flushed, flushed_with_new_ids_above, restored_from_an_old_copy,
    entries_deleted,
]  # fmt: skip


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("reads", [1, 2, 3])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_gap_behind_what_was_asked_for_is_not_passed(
    link: RedisLink,
    redis: redis_py.Redis,
    lose: Callable[[redis_py.Redis], None],
    reads: int,
    share: float,
) -> None:
    fill(redis, strewn(3, share))
    published = read_stream(redis, STREAM)
    taken = Taken(reader_of(link))
    for _ in range(reads):
        assert taken.read()
    lose(redis)
    with pytest.raises(GapError):
        taken.read_all()
    # What had been asked for before may have come in full.
    assert taken.entries == published[: len(taken.entries)]
    assert len(taken.entries) < LENGTH - 3
    state = taken.reader.part.snapshot()
    with pytest.raises(GapError):
        taken.read()
    assert taken.reader.part.snapshot() == state
    kept = unseal_values("executions", state)
    assert kept == (taken.entries[-1][0], len(taken.entries))
