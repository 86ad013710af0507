"""Replies taken as bytes: they say what the client library reads in them, or nothing."""

import pickle
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise

import hiredis
import numpy as np
import pytest
import redis as redis_py
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.columns.replies import (
    BulkConnection,
    Replies,
    Reply,
    SomeEntries,
    Texts,
    first_id,
    ids_of,
    last_id_in,
    packed_ids,
    parse,
)
from connectors.redis.link import send
from state.records import RawEntry, pack_ids
from tests.support.resp import encode, replies_of, reply
from tests.support.strategies import SETTINGS

ANCHOR = [[b"1-0", [b"a", b"b"]]]
"""What the reply to XRANGE has in `reply`."""

IMITATIONS = [
    b"\r\n", b"\n", b"\r", b"a\n", b"\na", b"\r\n\r\n", b"\r\n*2\r\n$3\r\n1-1\r\n",
    b"$5\r\nabcde\r\n", b"1\r\n$1\r\n2", b"\r\n$0\r\n", b"*2\r\n", b"$1", b"\n$1\r\n1",
    b"\r\n*1\r\n*2\r\n", b"\r\n*1\r\n*2\r\n$3\r\n9-9\r\n*2\r\n", b"$2\r\n\r\n",
    b"a\r\n$1\r\nb\r\n*2\r\n$3\r\n5-5\r\n*2\r\n$1\r\na\r\n$1\r\nb", b"\x00\xff",
]  # fmt: skip
LENGTHS = [0, 1, 8, 9, 10, 11, 98, 99, 100, 101, 1000]

texts = (
    st.sampled_from(IMITATIONS)
    | st.binary(max_size=12)
    | st.sampled_from(LENGTHS).map(lambda length: b"x" * length)
    | st.text("$*0123\r\n", max_size=8).map(str.encode)
)
plain_texts = st.binary(max_size=99).filter(lambda text: b"\n" not in text) | st.sampled_from(
    [b"x" * length for length in LENGTHS if length < 100]
)


def entry_id(number: int) -> bytes:
    return b"%d-%d" % (10 ** (number % 14), number)


@st.composite
def alike_entries(
    draw: st.DrawFn, values: st.SearchStrategy[bytes] = texts, *, least: int = 1
) -> list[RawEntry]:
    """Draw entries with the same fields in the same order."""
    names = draw(st.lists((plain_texts | values), min_size=1, max_size=4))
    count = draw(st.integers(least, 6))
    return [
        [entry_id(number), [part for name in names for part in (name, draw(values))]]
        for number in range(count)
    ]


@st.composite
def any_entries(draw: st.DrawFn) -> list[RawEntry]:
    """Draw entries with fields of their own."""
    fields = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
    found = draw(st.lists(fields, min_size=1, max_size=5))
    return [
        [entry_id(number), [part for pair in pairs for part in pair]]
        for number, pairs in enumerate(found)
    ]


@st.composite
def mixed_entries(draw: st.DrawFn, values: st.SearchStrategy[bytes] = texts) -> list[RawEntry]:
    """Draw entries of a few shapes, one among the other."""
    listed = st.lists(plain_texts, min_size=1, max_size=4, unique=True)
    shapes = draw(st.lists(listed, min_size=1, max_size=4))
    found = draw(st.lists(st.sampled_from(shapes), min_size=1, max_size=9))
    return [
        [entry_id(number), [part for name in names for part in (name, draw(values))]]
        for number, names in enumerate(found)
    ]


def plain(count: int, start: int = 0, names: Sequence[bytes] = (b"a", b"b")) -> list[RawEntry]:
    return [
        [b"%d-0" % number, [part for name in names for part in (name, name * number)]]
        for number in range(start + 1, start + count + 1)
    ]


def strings(texts: Texts) -> list[bytes]:
    return [texts.text(at) for at in range(len(texts.lengths))]


def pairs_of(raw: RawEntry) -> list[tuple[bytes, bytes]]:
    return list(zip(raw[1][::2], raw[1][1::2], strict=True))


def check_same(entries: list[RawEntry], found: bytearray) -> Reply:
    """Hold a reply against the entries in it."""
    read = Reply.of(found)
    assert read is not None
    assert list(read) == entries
    assert [read[at] for at in range(-len(entries), len(entries))] == entries * 2
    assert read[1:] == entries[1:]
    assert len(read) == len(entries)
    assert read.last_id == entries[-1][0].decode()
    assert parse(read.rest) == [ANCHOR]
    check_shapes(Replies([read]), entries)
    check_shapes(Replies([read, read]), entries * 2)
    return read


def check_shapes(replies: Replies, entries: list[RawEntry]) -> None:
    assert list(replies) == [replies[at] for at in range(len(replies))] == entries
    assert len(replies) == len(entries)
    shapes = replies.shapes()
    places = [place for shape in shapes for place in shape.at.tolist()]
    assert sorted([*places, *replies.odd()]) == list(range(len(entries)))
    assert len({shape.names for shape in shapes}) == len(shapes)
    for shape in shapes:
        assert len(set(shape.names)) == len(shape.names)
        of_shape = [entries[place] for place in shape.at.tolist()]
        assert strings(shape.ids) == [raw[0] for raw in of_shape]
        columns = [strings(shape.values[name]) for name in shape.names]
        rows = [list(zip(shape.names, row, strict=True)) for row in zip(*columns, strict=True)]
        assert rows == [pairs_of(raw) for raw in of_shape]


# --- what a reply holds ---------------------------------------------------------------------


@pytest.mark.long
@settings(SETTINGS, max_examples=300)
@given(alike_entries() | any_entries() | mixed_entries(), st.booleans())
def test_a_reply_says_what_the_client_library_reads(entries: list[RawEntry], resp3: bool) -> None:
    found = reply(entries, resp3=resp3)
    whole, _ = parse(found)
    [[_, listed]] = whole.items() if isinstance(whole, dict) else whole
    assert listed == entries
    if Reply.of(found) is None:
        assert any(b"\n" in text for _, texts in entries for text in texts)
    else:
        check_same(entries, found)


@SETTINGS
@given(alike_entries(plain_texts), st.booleans())
def test_like_entries_with_short_texts_are_all_in_one_shape(
    entries: list[RawEntry], resp3: bool
) -> None:
    read = check_same(entries, reply(entries, resp3=resp3))
    names = tuple(entries[0][1][::2])
    is_one = len(set(names)) == len(names)  # a name that comes twice has no value of its own
    assert [shape.names for shape in read.shapes] == ([names] if is_one else [])


@SETTINGS
@given(mixed_entries(plain_texts), st.booleans())
def test_entries_of_several_shapes_are_found_in_one_reply(
    entries: list[RawEntry], resp3: bool
) -> None:
    read = check_same(entries, reply(entries, resp3=resp3))
    fields = [tuple(raw[1][::2]) for raw in entries]
    assert {shape.names for shape in read.shapes} == set(fields)
    assert not read.odd.tolist()


def test_entries_of_a_great_many_shapes_are_all_read() -> None:
    shapes = [[b"a", *(b"%d" % at for at in range(number))] for number in range(40)]
    entries = [raw for at, names in enumerate(shapes) for raw in plain(2, 2 * at, names)]
    random.Random(3).shuffle(entries)
    read = check_same(entries, reply(entries))
    assert len(read.shapes) > 2
    assert len(read.odd)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_shape_holds_texts_of_up_to_99_bytes(length: int) -> None:
    entries: list[RawEntry] = [
        [b"1-1", [b"a", b"x" * length, b"b", b""]],
        [b"1-2", [b"a", b"", b"b", b"y" * (length % 100)]],
    ]
    read = check_same(entries, reply(entries))
    assert read.odd.tolist() == ([] if length < 100 else [0])


@pytest.mark.parametrize("name", [b"", b"1234567", b"12345678", b"x" * 300, b"\xff\x00"])
def test_names_may_be_of_any_length(name: bytes) -> None:
    entries: list[RawEntry] = [[b"1-1", [name, b"1"]], [b"1-2", [name, b"2"]]]
    assert not check_same(entries, reply(entries)).odd.tolist()


@pytest.mark.parametrize("text", [text for text in IMITATIONS if b"\n" in text])
@pytest.mark.parametrize("resp3", [False, True])
def test_an_entry_with_a_line_end_in_a_text_is_odd_and_its_neighbours_are_not(
    text: bytes, resp3: bool
) -> None:
    for fields in ([b"a", text, b"b", b"1"], [b"a", b"1", b"b", text], [text, b"1", b"b", b"2"]):
        for at in range(4):
            entries: list[RawEntry] = [*plain(3), *plain(3, 10)]
            entries.insert(at, [b"9-9", fields])
            read = Reply.of(reply(entries, resp3=resp3))
            if read is not None:  # else the parser reads all
                check_same(entries, reply(entries, resp3=resp3))
                assert at in read.odd.tolist()


def test_a_text_with_a_line_end_leaves_the_reply_to_the_parser() -> None:
    for text in (b"\n", b"a\nb", b"\r\n", b"strategy\n7"):
        entries: list[RawEntry] = [*plain(3), [b"9-9", [b"a", text, b"b", b"1"]], *plain(3, 10)]
        assert Reply.of(reply(entries)) is None


@pytest.mark.parametrize(
    "fields",
    [
        [b"a", b"1"], [b"a", b"1", b"c", b"2"], [b"b", b"2", b"a", b"1"], [b"aa", b"1", b"b", b"2"],
        [b"a", b"1", b"b", b"2", b"c", b"3"], [b"", b"1", b"b", b"2"],
    ],
)  # fmt: skip
def test_an_entry_with_other_fields_has_a_shape_of_its_own(fields: list[bytes]) -> None:
    for at in range(4):
        entries = plain(3)
        entries.insert(at, [b"9-9", fields])
        read = check_same(entries, reply(entries))
        assert sorted(shape.at.tolist() for shape in read.shapes) == sorted(
            [[at], [place for place in range(4) if place != at]]
        )


def test_a_name_that_comes_twice_makes_its_entry_odd() -> None:
    entries: list[RawEntry] = [*plain(2), [b"9-9", [b"a", b"1", b"a", b"2"]], *plain(2, 10)]
    assert check_same(entries, reply(entries)).odd.tolist() == [2]


def test_what_imitates_entries_is_not_taken_for_them() -> None:
    inner = reply(plain(2))
    start = inner.index(b"*2\r\n$3\r\n1-0")
    hidden = bytes(inner[start : inner.index(b"*1\r\n*2", start)])
    for text in (hidden, b"x\r\n" + hidden, hidden + b"\r\n" + hidden, b"\r\n" + hidden[:-2]):
        for count in (1, 2, 5):
            entries: list[RawEntry] = [
                *plain(count), [b"9-9", [b"a", text, b"b", b"1"]], *plain(count, 10)
            ]  # fmt: skip
            read = Reply.of(reply(entries))
            if read is not None:
                check_same(entries, reply(entries))


# --- replies that are not whole -------------------------------------------------------------


@pytest.mark.parametrize("resp3", [False, True])
def test_a_reply_cut_short_has_all_its_entries_or_none(resp3: bool) -> None:
    for some in ([*plain(2), [b"9-1", [b"a", b"\n", b"b", b"2"]]], plain(2)):
        whole = reply(some, resp3=resp3)
        entries_end = len(whole) - len(encode(ANCHOR))
        for length in range(len(whole)):
            read = Reply.of(whole[:length])
            assert (read is None) == (length < entries_end)
            if read is not None:
                assert list(read) == some
                assert read.rest == whole[entries_end:length]
                assert parse(read.rest) == []


@SETTINGS
@given(alike_entries() | any_entries() | mixed_entries(), st.booleans(), st.data())
def test_what_is_cut_short_makes_no_other_reply(
    entries: list[RawEntry], resp3: bool, data: st.DataObject
) -> None:
    whole = reply(entries, resp3=resp3)
    read = Reply.of(whole[: data.draw(st.integers(0, len(whole)))])
    assert read is None or list(read) == entries


@pytest.mark.parametrize(
    "first",
    [
        b"", b"*-1\r\n", b"_\r\n", b"-ERR no\r\n", b"-WRONGTYPE Operation against a key\r\n",
        b"*0\r\n", b"%0\r\n", b"$-1\r\n", b"+OK\r\n", b":1\r\n", encode([[b"executions", []]]),
        encode([[b"a", [[b"1-1", [b"a", b"b"]]]], [b"b", [[b"1-1", [b"a", b"b"]]]]]),
    ],
)  # fmt: skip
def test_a_reply_without_entries_is_left_to_the_parser(first: bytes) -> None:
    assert Reply.of(bytearray(first)) is None
    assert Reply.of(bytearray(first + encode(ANCHOR))) is None
    last_id_in(bytearray(first))
    last_id_in(bytearray(first + encode(ANCHOR)))


@pytest.mark.parametrize("count", [0, 1, 2, 4, 10**30])
def test_a_wrong_count_makes_no_reply_of_more_than_there_is(count: int) -> None:
    entries = plain(3)
    found = reply(entries).replace(b"*3\r\n", b"*%d\r\n" % count, 1)
    read = Reply.of(found)
    assert (read is None) == (count not in {1, 2})
    assert read is None or list(read) == entries[:count]


@pytest.mark.parametrize(
    "fields", [b"*-1\r\n", b"*0\r\n", b"*1\r\n$1\r\na\r\n", b"_\r\n", b"$1\r\na\r\n", b":4\r\n"]
)
def test_entries_without_pairs_of_fields_are_read_as_by_the_parser_or_left_to_it(
    fields: bytes,
) -> None:
    head, one = b"*1\r\n*2\r\n$1\r\ns\r\n*3\r\n", encode([b"1-0", [b"a", b"b"]])
    bare = b"*2\r\n$3\r\n2-0\r\n" + fields
    for listed in (one + bare + one, bare + one + one, one + one + bare, 3 * bare):
        whole = bytearray(head + listed + encode(ANCHOR))
        read = Reply.of(whole)
        if read is not None:
            [[[_, entries]], _] = parse(whole)
            assert list(read) == entries
            assert parse(read.rest) == [ANCHOR]


# --- several replies ------------------------------------------------------------------------


@SETTINGS
@given(st.lists(mixed_entries(plain_texts), min_size=1, max_size=4))
def test_the_shapes_of_several_replies_are_put_together(drawn: list[list[RawEntry]]) -> None:
    found = [Reply.of(reply(entries)) for entries in drawn]
    replies = Replies([read for read in found if read is not None])
    entries = [raw for listed in drawn for raw in listed]
    check_shapes(replies, entries)
    assert {shape.names for shape in replies.shapes()} == {tuple(raw[1][::2]) for raw in entries}


def test_odd_entries_are_numbered_across_replies() -> None:
    odd: RawEntry = [b"9-9", [b"a", b"x" * 200, b"b", b""]]
    entries = [*plain(3), odd, *plain(2, 10), odd, odd]
    for size in range(1, 9):
        replies = replies_of(entries, size)
        check_shapes(replies, entries)
        assert replies.odd() == [3, 6, 7]


@SETTINGS
@given(st.lists(st.binary(max_size=5), min_size=1, max_size=8), st.data())
def test_texts_are_put_in_lines_group_by_group(values: list[bytes], data: st.DataObject) -> None:
    texts = texts_of(values)
    order = data.draw(st.permutations(range(len(values))))
    cuts = data.draw(st.sets(st.integers(0, len(values))))
    bounds = [0, *sorted(cuts), len(values)]
    groups = [order[start:stop] for start, stop in pairwise(bounds)]
    assert texts.lines(np.array(order), np.array(bounds)) == [
        b"".join(values[at] + b"\n" for at in group) for group in groups
    ]
    assert strings(texts.take(np.array(order[: bounds[1]], np.int64))) == [
        values[at] for at in order[: bounds[1]]
    ]
    assert texts.to_arrow().to_pylist() == strings(texts) == values


def texts_of(values: Sequence[bytes]) -> Texts:
    lengths = np.array([len(value) for value in values], np.int64)
    return Texts(np.frombuffer(b"".join(values), np.uint8), lengths)


def test_some_of_the_texts_are_taken_in_their_order() -> None:
    texts = texts_of([b"", b"a", b"", b"bcd", b"ef"])
    for places in ([], [0], [1, 3], [0, 2], [0, 1, 2, 3, 4], [3, 4]):
        taken = texts.take(np.array(places, np.int64))
        assert strings(taken) == [[b"", b"a", b"", b"bcd", b"ef"][at] for at in places]


def test_absent_texts_are_empty() -> None:
    together = Texts.joined([Texts.absent(2), texts_of([b"a"]), Texts.absent(0)])
    assert strings(together) == [b"", b"", b"a"]
    assert together.to_arrow().to_pylist() == [b"", b"", b"a"]


# --- some entries of replies ----------------------------------------------------------------


@pytest.fixture
def some() -> tuple[SomeEntries, list[RawEntry]]:
    """Give entries of replies, and as a list."""
    entries, order = plain(7), np.array([0, 3, 2, 5])
    expected = [entries[at] for at in order]
    ids = pack_ids(raw[0] for raw in expected)
    return SomeEntries(replies_of(entries, 3), order, ids), expected


def test_some_entries_are_read_like_a_list(some: tuple[SomeEntries, list[RawEntry]]) -> None:
    entries, expected = some
    assert list(entries) == expected
    assert len(entries) == 4
    assert [entries[at] for at in range(-4, 4)] == expected + expected
    for at in (4, -5):
        with pytest.raises(IndexError):
            entries[at]


def test_some_entries_know_their_ids(some: tuple[SomeEntries, list[RawEntry]]) -> None:
    entries, expected = some
    assert packed_ids(entries) == entries.ids == packed_ids(expected)
    assert ids_of(entries) == ids_of(expected) == [raw[0] for raw in expected]
    assert first_id(entries) == first_id(expected) == expected[0][0].decode()


def test_some_entries_are_sent_as_a_list(some: tuple[SomeEntries, list[RawEntry]]) -> None:
    entries, expected = some
    sent = pickle.loads(pickle.dumps(entries))  # noqa: S301  # our own
    assert type(sent) is list
    assert sent == expected


# --- the guess of the last id ---------------------------------------------------------------


@SETTINGS
@given(
    alike_entries(st.binary(max_size=9).filter(lambda text: b"\n" not in text), least=1),
    st.booleans(),
)
def test_the_last_id_of_plain_entries_is_guessed(entries: list[RawEntry], resp3: bool) -> None:
    # Of a lone field, the list looks as an entry does.
    for raw in entries:
        raw[1] += [b"one", b"more"]
    assert last_id_in(reply(entries, resp3=resp3)) == entries[-1][0].decode()


@settings(SETTINGS, max_examples=200)
@given(any_entries() | alike_entries(), st.data())
@example([[b"1-1", [b"a", b"\r\n*2\r\n$3\r\n1-1\r\n\r\n*1\r\n*2\r\n"]]], None)
def test_hostile_texts_make_the_guess_wrong_at_most(
    entries: list[RawEntry], data: st.DataObject | None
) -> None:
    whole = reply(entries)
    cut = len(whole) if data is None else data.draw(st.integers(0, len(whole)))
    for found in (whole, whole[:cut]):
        guess = last_id_in(found)
        assert guess is None or re.fullmatch(r"[0-9]+-[0-9]+", guess)


def test_an_imitated_entry_is_taken_for_the_last_one() -> None:
    hostile = b"\r\n*2\r\n$3\r\n7-7\r\n"
    assert last_id_in(reply([[b"1-1", [b"a", b"1", b"b", hostile]]])) == "7-7"


# --- the connection -------------------------------------------------------------------------


@pytest.fixture
def bulk(redis: redis_py.Redis) -> Iterator[BulkConnection]:
    with closing(BulkConnection(redis)) as bulk:
        yield bulk


def kill(client: redis_py.Redis, bulk: BulkConnection) -> None:
    host, port = bulk._connection._sock.getsockname()
    assert send(client, "CLIENT", "KILL", "ADDR", f"{host}:{port}") in {1, b"OK"}


def test_replies_come_in_the_order_of_the_commands(
    redis: redis_py.Redis, bulk: BulkConnection
) -> None:
    redis.set("a", b"\r\n$1\r\n")
    for _ in range(3):
        bulk.ask(("GET", "a"), ("GET", b"none"), ("STRLEN", "a"), ("NO", 1), ("ECHO", "x"))
        value, nothing, length, error, echo = parse(bulk.answer())
        assert (value, nothing, length, echo) == (b"\r\n$1\r\n", None, 6, b"x")
        assert isinstance(error, hiredis.ReplyError)


def test_a_reply_may_be_larger_than_any_before(redis: redis_py.Redis, bulk: BulkConnection) -> None:
    for size in (10, 3 << 20, 7, (9 << 20) + 1, 1 << 20, 0):
        redis.set("a", b"x" * size)
        bulk.ask(("GET", "a"), ("GET", "a"))
        assert bulk.answer() == encode(b"x" * size) * 2


def test_entries_are_read_from_the_server(redis: redis_py.Redis, bulk: BulkConnection) -> None:
    for number in range(1, 301):
        send(redis, "XADD", "s", f"{number}-1", "a", number, "b", "x" * (number % 100))
    bulk.ask(("XREAD", "COUNT", 200, "STREAMS", "s", "50-1"), ("XRANGE", "s", "50-1", "50-1"))
    found = bulk.answer()
    assert last_id_in(found) == "250-1"
    read = Reply.of(found)
    assert read is not None
    assert list(read) == send_raw(redis, 51, 250)
    [[anchor]] = parse(read.rest)
    assert anchor[0] == b"50-1"


def send_raw(client: redis_py.Redis, first: int, last: int) -> list[RawEntry]:
    """Return entries as the client library has them by itself."""
    with closing(BulkConnection(client)) as connection:
        connection._connection.send_command("XRANGE", "s", f"{first}-1", f"{last}-1")
        found: list[RawEntry] = connection._connection.read_response()
        return found


def test_a_connection_that_is_killed_raises_in_the_answer(
    redis: redis_py.Redis, bulk: BulkConnection
) -> None:
    # The server answers once the wait is over, so it is killed while it waits.
    bulk.ask(("BLPOP", "none", 60))
    kill(redis, bulk)
    with pytest.raises(redis_py.RedisError):
        bulk.answer()


def test_a_connection_that_was_killed_raises_by_the_answer(
    redis: redis_py.Redis, bulk: BulkConnection
) -> None:
    kill(redis, bulk)

    def ask_and_answer() -> None:
        bulk.ask(("PING",))
        bulk.answer()

    with pytest.raises(redis_py.RedisError):
        ask_and_answer()


def test_a_server_that_takes_too_long_raises(redis_url: str) -> None:
    with redis_py.Redis.from_url(redis_url, socket_timeout=0.05) as client:
        bulk = BulkConnection(client)
        bulk.ask(("BLPOP", "none", 1))
        with pytest.raises(redis_py.RedisError):
            bulk.answer()
        bulk.close()
        assert client.ping()


def test_what_is_closed_with_an_answer_under_way_disturbs_nobody(redis: redis_py.Redis) -> None:
    redis.set("a", "b")
    bulk = BulkConnection(redis)
    bulk.ask(("GET", "a"))
    bulk.close()
    assert redis.ping()
    with closing(BulkConnection(redis)) as again:
        again.ask(("PING",))
        assert parse(again.answer()) == [b"PONG"]


@pytest.fixture
def without_echo(redis: redis_py.Redis, redis_url: str) -> Iterator[redis_py.Redis]:
    """A client whose user may do all but ECHO."""
    send(redis, "ACL", "SETUSER", "mute", "on", ">word", "~*", "&*", "+@all", "-echo")
    with redis_py.Redis.from_url(redis_url.replace("redis://", "redis://mute:word@")) as client:
        yield client
    send(redis, "ACL", "DELUSER", "mute")


def test_a_user_without_the_permission_is_told_at_once(without_echo: redis_py.Redis) -> None:
    with pytest.raises(redis_py.ResponseError):
        BulkConnection(without_echo)
    assert without_echo.ping()


def test_a_user_without_the_permission_leaves_no_connection_open(
    redis: redis_py.Redis, without_echo: redis_py.Redis
) -> None:
    without_echo.ping()
    for _ in range(3):
        with pytest.raises(redis_py.ResponseError):
            BulkConnection(without_echo)
    assert send(redis, "CLIENT", "LIST").count(b"user=mute") <= 1
