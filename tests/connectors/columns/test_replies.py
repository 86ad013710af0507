"""Replies taken as bytes: they say what the client library reads in them, or nothing."""

import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise

import hiredis
import numpy as np
import pytest
import redis as redis_py
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from connectors.columns.replies import (
    BulkConnection,
    Replies,
    Reply,
    Shape,
    SomeEntries,
    last_id_in,
    lines,
    parse,
    take,
)
from connectors.redis.link import send
from state.records import RawEntry
from tests.support.resp import ANCHOR, encode, reply
from tests.support.strategies import SETTINGS

IMITATIONS = [
    b"\r\n", b"\n", b"\r", b"a\n", b"\na", b"\r\n\r\n", b"\r\n*2\r\n$3\r\n1-1\r\n",
    b"$5\r\nabcde\r\n", b"1\r\n$1\r\n2", b"\r\n$0\r\n", b"*2\r\n", b"*2", b"$1", b"\n$1\r\n1",
    b"\r\n*1\r\n*2\r\n", b"\r\n*1\r\n*2\r\n$3\r\n9-9\r\n*2\r\n", b"$2\r\n\r\n", b"1\r\n$1",
    b"a\r\n$1\r\nb\r\n*2\r\n$3\r\n5-5\r\n*2\r\n$1\r\na\r\n$1\r\nb", b"\x00\xff", b"1\r\n*2",
    b"\r\n*2\r\n$3\r\n5-5\r\n*4\r\n$1\r\na", b"*2\r\n$3\r\n5-5\r\n*2\r\n$1\r\na\r\n$1\r\n",
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
names_of_shape = st.lists(st.binary(max_size=4) | texts, min_size=1, max_size=4, unique=True)


def entry_id(number: int) -> bytes:
    return b"%d-%d" % (10 ** (number % 14), number)


def fields_of(names: Sequence[bytes], values: Sequence[bytes]) -> list[bytes]:
    return [part for pair in zip(names, values, strict=True) for part in pair]


@st.composite
def shaped_entries(
    draw: st.DrawFn, values: st.SearchStrategy[bytes] = texts, *, most: int = 8
) -> list[RawEntry]:
    """Draw entries of a few shapes."""
    shapes = draw(st.lists(names_of_shape, min_size=1, max_size=4))
    found: list[RawEntry] = []
    for number in range(draw(st.integers(1, most))):
        names = draw(st.sampled_from(shapes))
        count = len(names)
        given = draw(st.lists(values, min_size=count, max_size=count))
        found.append([entry_id(number), fields_of(names, given)])
    return found


@st.composite
def any_entries(draw: st.DrawFn) -> list[RawEntry]:
    """Draw entries with fields of their own, some of them given twice."""
    fields = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
    found = draw(st.lists(fields, min_size=1, max_size=5))
    return [
        [entry_id(number), [part for pair in pairs for part in pair]]
        for number, pairs in enumerate(found)
    ]


def plain(count: int, start: int = 0, names: Sequence[bytes] = (b"a", b"b")) -> list[RawEntry]:
    return [
        [b"%d-0" % number, fields_of(names, [name * number for name in names])]
        for number in range(start + 1, start + count + 1)
    ]


def reply_of(entries: Sequence[RawEntry]) -> Reply:
    found = Reply.of(reply(entries))
    assert found is not None
    return found


def check_shapes(shapes: Sequence[Shape], odd: Sequence[int], entries: list[RawEntry]) -> None:
    """Hold shapes, and what is in none of them, against the entries."""
    seen = [*odd]
    for shape in shapes:
        places = shape.at.tolist()
        assert places
        seen += places
        assert shape.ids.to_pylist() == [entries[at][0] for at in places]
        assert [*shape.values] == [*shape.names]
        values = [shape.values[name].to_pylist() for name in shape.names]
        for at, *row in zip(places, *values, strict=True):
            assert entries[at][1] == fields_of(shape.names, row)
    assert sorted(seen) == list(range(len(entries)))
    assert len({shape.names for shape in shapes}) == len(shapes)


def check_same(entries: list[RawEntry], found: bytes) -> Reply | None:
    """Hold a reply against the entries, if it can be read without a parser."""
    read = Reply.of(found)
    if read is None:
        return None
    assert list(read) == entries
    assert [read[at] for at in range(-len(entries), len(entries))] == entries * 2
    assert len(read) == len(entries)
    assert parse(read.rest) == [ANCHOR]
    check_shapes(read.shapes, read.odd.tolist(), entries)
    replies = Replies([read, read])
    assert list(replies) == entries * 2
    assert [replies[at] for at in range(2 * len(entries))] == entries * 2
    assert len(replies) == 2 * len(entries)
    check_shapes(replies.shapes(), replies.odd(), entries * 2)
    return read


def without_line_ends(entries: list[RawEntry]) -> list[RawEntry]:
    return [[raw[0], [part.replace(b"\n", b"") for part in raw[1]]] for raw in entries]


def is_short(raw: RawEntry) -> bool:
    """Tell whether an entry is one that columns can hold."""
    names, values = raw[1][::2], raw[1][1::2]
    return len(set(names)) == len(names) and all(
        len(value) < 100 and b"\n" not in value for value in values
    )


# --- one reply ------------------------------------------------------------------------------


@SETTINGS
@given(shaped_entries(plain_texts), st.booleans())
def test_short_texts_are_all_in_shapes(entries: list[RawEntry], resp3: bool) -> None:
    named_in_lines = any(b"\n" in name for raw in entries for name in raw[1][::2])
    read = check_same(entries, reply(entries, resp3=resp3))
    if not named_in_lines:
        assert read is not None
        assert read.odd.tolist() == []
        assert len(read.shapes) == len({tuple(raw[1][::2]) for raw in entries})


@pytest.mark.long
@settings(SETTINGS, max_examples=500)
@given(shaped_entries() | any_entries(), st.booleans())
@example([[b"1-1", [b"a", b"1\r\n*2"]], [b"1-2", [b"a", b"1"]]], False)
def test_a_reply_says_what_the_client_library_reads(entries: list[RawEntry], resp3: bool) -> None:
    found = reply(entries, resp3=resp3)
    whole, _ = parse(found)
    [[_, parsed]] = whole.items() if isinstance(whole, dict) else whole
    assert parsed == entries
    read = check_same(entries, found)
    if read is None:
        event("left to the parser")
        assert any(b"\n" in text for raw in entries for text in raw[1])
    else:
        event("with odd entries" if len(read.odd) else "in shapes")
        assert all(not is_short(entries[at]) for at in read.odd.tolist())


@SETTINGS
@given(shaped_entries(plain_texts, most=12), st.data())
def test_an_odd_entry_leaves_the_others_in_shapes(
    entries: list[RawEntry], data: st.DataObject
) -> None:
    entries = [raw for raw in without_line_ends(entries) if is_short(raw)] or plain(1)
    at = data.draw(st.integers(0, len(entries)))
    long = b"x" * data.draw(st.integers(100, 300))
    like = data.draw(st.sampled_from(entries))[1]
    fields = data.draw(st.sampled_from([[*like[:-1], long], [*like, like[0], b"1"]]))
    entries.insert(at, [b"99-9", fields])
    read = check_same(entries, reply(entries))
    assert read is not None
    assert read.odd.tolist() == [at]


@pytest.mark.parametrize("length", LENGTHS)
def test_shapes_hold_texts_of_up_to_99_bytes(length: int) -> None:
    entries: list[RawEntry] = [
        [b"1-1", [b"a", b"x" * length, b"b", b""]],
        [b"1-2", [b"a", b"", b"b", b"y" * length]],
        [b"1-3", [b"a", b"", b"b", b"y"]],
    ]
    read = check_same(entries, reply(entries))
    assert read is not None
    assert read.odd.tolist() == ([] if length < 100 else [0, 1])


@pytest.mark.parametrize("name", [b"", b"1234567", b"12345678", b"x" * 300, b"\xff\x00", b"*"])
def test_names_may_be_of_any_length(name: bytes) -> None:
    entries: list[RawEntry] = [[b"1-1", [name, b"1"]], [b"1-2", [name, b"2"]]]
    read = check_same(entries, reply(entries))
    assert read is not None
    assert read.odd.tolist() == []


@pytest.mark.parametrize("text", [text for text in IMITATIONS if b"\n" in text])
def test_a_text_with_a_line_end_makes_no_entry_of_its_own(text: bytes) -> None:
    for fields in ([b"a", text, b"b", b"1"], [b"a", b"1", b"b", text], [text, b"1", b"b", b"2"]):
        for entries in (
            [*plain(3), [b"9-9", fields], *plain(2, 10)], [[b"9-9", fields]],
            [[b"9-8", fields], [b"9-9", fields]],
        ):  # fmt: skip
            read = check_same(entries, reply(entries))
            assert read is None or len(read.odd) > 0


@pytest.mark.parametrize(
    "fields",
    [
        [b"a", b"1"], [b"a", b"1", b"c", b"2"], [b"b", b"2", b"a", b"1"], [b"aa", b"1", b"b", b"2"],
        [b"a", b"1", b"b", b"2", b"c", b"3"], [b"", b"1", b"b", b"2"],
    ],
)  # fmt: skip
def test_entries_with_other_fields_are_another_shape(fields: list[bytes]) -> None:
    for at in range(4):
        entries = plain(3)
        entries.insert(at, [b"9-9", fields])
        read = check_same(entries, reply(entries))
        assert read is not None
        assert sorted(shape.at.tolist() for shape in read.shapes) == sorted(
            [[at], [place for place in range(4) if place != at]]
        )


def test_a_name_that_comes_twice_is_left_to_the_parser() -> None:
    entries = [*plain(2), [b"9-9", [b"a", b"1", b"a", b"2"]], *plain(2, 10)]
    read = check_same(entries, reply(entries))
    assert read is not None
    assert read.odd.tolist() == [2]


def test_there_may_be_more_shapes_than_are_told_apart() -> None:
    entries = [[b"%d-1" % at, [b"x%d" % (at % 40), b"1"]] for at in range(1, 200)]
    read = check_same(entries, reply(entries))
    assert read is not None
    assert 12 <= len(read.shapes) < 40
    assert len(read.odd) > 0


@pytest.mark.parametrize("fields", [1, 9, 49, 50, 51, 4999, 5000])
def test_an_entry_may_have_any_number_of_fields(fields: int) -> None:
    entries = [[b"1-1", [b"%d" % at for at in range(2 * fields)]], *plain(2, 3)]
    read = check_same(entries, reply(entries))
    assert (read is None) == (fields > 4999)


@pytest.mark.parametrize(
    ("times", "rising"),
    [
        (range(100, 120), True),
        ([100] * 20, True),
        ([*range(100, 119), 100], True),  # one of twenty is late
        ([*range(100, 117), 100, 90, 80], False),
        (range(120, 100, -1), False),
    ],
)
def test_a_reply_tells_whether_a_field_rises(times: Sequence[int], rising: bool) -> None:
    entries = plain(3, names=[b"a"])
    at = [b"%d" % time for time in times]
    entries += [
        [entry_id(10 + n), fields_of([b"t", b"b"], [text, b"1"])] for n, text in enumerate(at)
    ]
    found = reply_of(entries)
    assert (found.is_rising(b"t"), found.is_rising(b"other")) == (rising, False)


@pytest.mark.parametrize("resp3", [False, True])
def test_a_reply_cut_short_has_all_its_entries_or_none(resp3: bool) -> None:
    mixed = [*plain(2), *plain(1, 5, [b"c"]), [b"9-1", [b"a", b"x" * 100, b"b", b"2"]]]
    for some in ([*plain(2), [b"9-1", [b"a", b"\n", b"b", b"2"]]], plain(2), mixed):
        whole = reply(some, resp3=resp3)
        for length in range(len(whole)):
            read = Reply.of(whole[:length])
            if read is not None:
                assert list(read) == some
                assert read.rest == whole[len(whole) - len(encode(ANCHOR)) : length]
                assert parse(read.rest) == []


@SETTINGS
@given(shaped_entries(), st.data())
def test_what_is_cut_short_makes_no_other_entries(
    entries: list[RawEntry], data: st.DataObject
) -> None:
    whole = reply(entries)
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
    assert Reply.of(first) is None
    assert Reply.of(first + encode(ANCHOR)) is None
    last_id_in(first)
    last_id_in(first + encode(ANCHOR))


@pytest.mark.parametrize("count", [0, 1, 2, 4, 10**9, 10**30])
def test_a_wrong_count_finds_no_more_entries_than_there_are(count: int) -> None:
    for entries in (plain(3), [*plain(2), *plain(1, 3, [b"c"])]):
        found = reply(entries).replace(b"*3\r\n", b"*%d\r\n" % count, 1)
        read = Reply.of(found)
        assert (read is None) == (count not in {1, 2})
        assert read is None or list(read) == entries[:count]


@pytest.mark.parametrize(
    "fields", [b"*-1\r\n", b"*0\r\n", b"_\r\n", b"$1\r\na\r\n", b"*x\r\n", b":4\r\n"]
)
def test_an_entry_without_a_list_of_fields_is_left_to_the_parser(fields: bytes) -> None:
    one, bare = encode([b"1-0", [b"a", b"b"]]), b"*2\r\n$3\r\n2-0\r\n" + fields
    for listed in ([bare], [one, bare, one], [bare, one, one], [one, one, bare], [bare] * 3):
        head = b"*1\r\n*2\r\n$1\r\ns\r\n*%d\r\n" % len(listed)
        assert Reply.of(head + b"".join(listed) + encode(ANCHOR)) is None


def test_a_stream_whose_name_holds_a_line_end_is_left_to_the_parser() -> None:
    inner = encode(plain(2)[0])
    for name in (b"a\nb", b"a\r\n*1\r\n" + inner, b"\r\n"):
        assert Reply.of(encode([[name, plain(3)]]) + encode(ANCHOR)) is None


@settings(SETTINGS, max_examples=200)
@given(shaped_entries() | any_entries(), st.booleans(), st.data())
def test_with_any_line_another_a_reply_says_what_the_client_library_reads_or_nothing(
    entries: list[RawEntry], resp3: bool, data: st.DataObject
) -> None:
    lines = bytes(reply(entries, resp3=resp3)).split(b"\r\n")
    at = data.draw(st.integers(0, len(lines) - 1))
    other = st.sampled_from([b"*2", b"*4", b"*-1", b"$1", b"$3", b"$-1", b"_", b":1", b"a", b"\n"])
    lines[at : at + data.draw(st.integers(0, 2))] = data.draw(st.lists(other, max_size=2))
    found = b"\r\n".join(lines)
    read = Reply.of(found)
    event("read" if read is not None else "left")
    if read is None:
        return
    # What follows may be broken.
    whole = found[: len(found) - len(read.rest)]
    [first] = parse(whole)
    [[_, listed]] = first.items() if isinstance(first, dict) else first
    assert list(read) == [read[place] for place in range(len(read))] == listed


def test_a_reply_is_read_like_a_list() -> None:
    entries = [*plain(3), *plain(2, 3, [b"c"])]
    read = reply_of(entries)
    assert read.index(entries[3]) == 3
    assert [b"8-8", []] not in read
    for at in (5, -6):
        with pytest.raises(IndexError):
            read[at]


# --- several replies ------------------------------------------------------------------------


@SETTINGS
@given(st.lists(shaped_entries(), min_size=1, max_size=3))
def test_replies_are_put_together_by_shapes(drawn: list[list[RawEntry]]) -> None:
    together = [(one, Reply.of(reply(one))) for one in drawn]
    entries = [raw for one, read in together if read is not None for raw in one]
    replies = Replies([read for _, read in together if read is not None])
    assert list(replies) == entries
    assert [replies[at] for at in range(len(replies))] == entries
    check_shapes(replies.shapes(), replies.odd(), entries)


def test_replies_are_read_like_a_list() -> None:
    entries = plain(5)
    replies = Replies([reply_of(entries[:2]), reply_of(entries[2:])])
    assert [replies[at] for at in range(-5, 5)] == entries * 2
    assert replies.index(entries[3]) == 3
    for at in (5, -6):
        with pytest.raises(IndexError):
            replies[at]


@SETTINGS
@given(
    st.lists(st.binary(max_size=5).filter(lambda text: b"\n" not in text), min_size=1), st.data()
)
def test_texts_are_put_in_lines_group_by_group(values: list[bytes], data: st.DataObject) -> None:
    texts = reply_of([[b"1-%d" % at, [b"a", value]] for at, value in enumerate(values)])
    [shape] = texts.shapes
    order = data.draw(st.permutations(range(len(values))))
    cuts = data.draw(st.sets(st.integers(0, len(values)))) - {0, len(values)}
    bounds = [0, *sorted(cuts), len(values)]
    assert lines(shape.values[b"a"], np.array(order), np.array(bounds)) == [
        b"".join(values[at] + b"\n" for at in order[start:stop]) for start, stop in pairwise(bounds)
    ]
    places = np.array(sorted(data.draw(st.sets(st.integers(0, len(values) - 1)))), np.int64)
    assert take(shape.values[b"a"], places).to_pylist() == [values[at] for at in places]


def test_all_texts_may_be_empty() -> None:
    [shape] = reply_of([[b"1-1", [b"a", b""]], [b"1-2", [b"a", b""]]]).shapes
    assert shape.values[b"a"].to_pylist() == [b"", b""]
    assert lines(shape.values[b"a"], np.array([1, 0]), np.array([0, 2])) == [b"\n\n"]
    assert lines(shape.values[b"a"], np.array([1, 0]), np.array([0, 1, 2])) == [b"\n", b"\n"]


# --- some entries of replies -----------------------------------------------------------------


@pytest.fixture
def some() -> tuple[SomeEntries, list[RawEntry]]:
    """Give entries of replies, and as a list."""
    replies = Replies([reply_of(plain(3)), reply_of(plain(4, 3))])
    entries, order = plain(7), [0, 3, 2, 5]
    return SomeEntries(replies, np.array(order)), [entries[at] for at in order]


def test_some_entries_are_read_like_a_list(some: tuple[SomeEntries, list[RawEntry]]) -> None:
    entries, expected = some
    assert list(entries) == expected
    assert len(entries) == 4
    assert [entries[at] for at in range(-4, 4)] == expected + expected
    for at in (4, -5):
        with pytest.raises(IndexError):
            entries[at]


def test_some_entries_are_sent_as_a_list(some: tuple[SomeEntries, list[RawEntry]]) -> None:
    entries, expected = some
    sent = pickle.loads(pickle.dumps(entries))  # noqa: S301  # our own
    assert type(sent) is list
    assert sent == expected


# --- the guess of the last id ---------------------------------------------------------------


@SETTINGS
@given(
    shaped_entries(st.binary(max_size=9)).map(without_line_ends),
    st.booleans(),
)
def test_the_last_id_of_plain_entries_is_guessed(entries: list[RawEntry], resp3: bool) -> None:
    assume(all(b"*2" not in raw[1] for raw in entries))  # the line with which an entry begins
    # Of a lone field, the list looks as an entry does.
    for raw in entries:
        raw[1] += [b"one", b"more"]
    assert last_id_in(reply(entries, resp3=resp3)) == entries[-1][0].decode()


@settings(SETTINGS, max_examples=200)
@given(any_entries() | shaped_entries(), st.data())
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


def test_nobody_can_foresee_how_an_answer_ends(bulk: BulkConnection) -> None:
    ends = set()
    for _ in range(3):
        bulk.ask(("PING",))
        ends.add(bulk._end)
        assert parse(bulk.answer()) == [b"PONG"]
    assert len(ends) == 3


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
