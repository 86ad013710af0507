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
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.columns.replies import (
    BlockEntries,
    BulkConnection,
    EntryBlock,
    EntryBlocks,
    alike,
    last_id_in,
    packed_ids,
    parse,
)
from connectors.redis.link import send
from state.records import RawEntry, pack_ids
from tests.support.resp import encode, reply
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


def ids_of(blocks: EntryBlocks) -> list[bytes]:
    [lines] = blocks.ids(np.arange(len(blocks)), np.array([0, len(blocks)]))
    return lines.split(b"\n")[:-1]


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


def block_of(entries: Sequence[RawEntry]) -> EntryBlock:
    block = EntryBlock.of(reply(entries))
    assert block is not None
    return block


def plain(count: int, start: int = 0, names: Sequence[bytes] = (b"a", b"b")) -> list[RawEntry]:
    return [
        [b"%d-0" % number, [part for name in names for part in (name, name * number)]]
        for number in range(start + 1, start + count + 1)
    ]


def check_same(entries: list[RawEntry], found: bytearray) -> bool:
    """Hold a block against the entries; tell whether there is a block."""
    block = EntryBlock.of(found)
    if block is None:
        return False
    names = entries[0][1][::2]
    assert all(fields[::2] == names for _, fields in entries)
    assert list(block) == entries
    assert len(block) == len(entries)
    assert block.names == names
    assert block.last_id == entries[-1][0].decode()
    blocks = EntryBlocks([block, block])
    assert list(blocks) == entries * 2
    assert len(blocks) == 2 * len(entries)
    # Of a name that comes twice, a block has the last value, as a dict has.
    for name in names:
        values = [dict(zip(*[iter(fields)] * 2, strict=True))[name] for _, fields in entries]
        assert blocks.values(name).to_pylist() == values * 2
    assert ids_of(blocks) == [raw[0] for raw in entries] * 2
    assert parse(block.rest) == [ANCHOR]
    return True


# --- blocks ---------------------------------------------------------------------------------


@SETTINGS
@given(alike_entries(plain_texts), st.booleans())
def test_like_entries_with_short_texts_make_a_block(entries: list[RawEntry], resp3: bool) -> None:
    assert check_same(entries, reply(entries, resp3=resp3))


@pytest.mark.long
@settings(SETTINGS, max_examples=300)
@given(alike_entries() | any_entries(), st.booleans())
def test_a_block_says_what_the_client_library_reads(entries: list[RawEntry], resp3: bool) -> None:
    found = reply(entries, resp3=resp3)
    whole, _ = parse(found)
    [[_, listed]] = whole.items() if isinstance(whole, dict) else whole
    assert listed == entries
    check_same(entries, found)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_block_holds_texts_of_up_to_99_bytes(length: int) -> None:
    entries: list[RawEntry] = [
        [b"1-1", [b"a", b"x" * length, b"b", b""]],
        [b"1-2", [b"a", b"", b"b", b"y" * length]],
    ]
    assert check_same(entries, reply(entries)) == (length < 100)


@pytest.mark.parametrize("name", [b"", b"1234567", b"12345678", b"x" * 300, b"\xff\x00"])
def test_names_may_be_of_any_length(name: bytes) -> None:
    entries: list[RawEntry] = [[b"1-1", [name, b"1"]], [b"1-2", [name, b"2"]]]
    assert check_same(entries, reply(entries))


def test_a_field_may_have_the_name_that_stands_for_the_id() -> None:
    entries: list[RawEntry] = [
        [b"1-1", [b"*", b"x", b"a", b"1"]],
        [b"1-2", [b"*", b"y", b"a", b"2"]],
    ]
    block = EntryBlock.of(reply(entries))
    assert block is None or ids_of(EntryBlocks([block])) == [b"1-1", b"1-2"]


@pytest.mark.parametrize("text", [text for text in IMITATIONS if b"\n" in text])
def test_a_text_with_a_line_end_leaves_all_to_the_parser(text: bytes) -> None:
    for fields in ([b"a", text, b"b", b"1"], [b"a", b"1", b"b", text], [text, b"1", b"b", b"2"]):
        entries = [*plain(3), [b"9-9", fields], *plain(2, 10)]
        assert EntryBlock.of(reply(entries)) is None
        assert EntryBlock.of(reply([[b"9-9", fields]])) is None
        assert EntryBlock.of(reply([[b"9-8", fields], [b"9-9", fields]])) is None


@pytest.mark.parametrize(
    "fields",
    [
        [b"a", b"1"], [b"a", b"1", b"c", b"2"], [b"b", b"2", b"a", b"1"], [b"aa", b"1", b"b", b"2"],
        [b"a", b"1", b"b", b"2", b"c", b"3"], [b"", b"1", b"b", b"2"],
    ],
)  # fmt: skip
def test_entries_with_other_fields_are_left_to_the_parser(fields: list[bytes]) -> None:
    for at in range(4):
        entries = plain(3)
        entries.insert(at, [b"9-9", fields])
        assert EntryBlock.of(reply(entries)) is None


@pytest.mark.parametrize("resp3", [False, True])
def test_a_reply_cut_short_has_all_its_entries_or_none(resp3: bool) -> None:
    for some in ([*plain(2), [b"9-1", [b"a", b"\n", b"b", b"2"]]], plain(2)):
        whole = reply(some, resp3=resp3)
        for length in range(len(whole)):
            block = EntryBlock.of(whole[:length])
            if block is not None:
                assert list(block) == some
                assert block.rest == whole[len(whole) - len(encode(ANCHOR)) : length]
                assert parse(block.rest) == []


@SETTINGS
@given(alike_entries(), st.data())
def test_what_is_cut_short_makes_no_other_block(
    entries: list[RawEntry], data: st.DataObject
) -> None:
    whole = reply(entries)
    block = EntryBlock.of(whole[: data.draw(st.integers(0, len(whole)))])
    assert block is None or list(block) == entries


@pytest.mark.parametrize(
    "first",
    [
        b"", b"*-1\r\n", b"_\r\n", b"-ERR no\r\n", b"-WRONGTYPE Operation against a key\r\n",
        b"*0\r\n", b"%0\r\n", b"$-1\r\n", b"+OK\r\n", b":1\r\n", encode([[b"executions", []]]),
        encode([[b"a", [[b"1-1", [b"a", b"b"]]]], [b"b", [[b"1-1", [b"a", b"b"]]]]]),
    ],
)  # fmt: skip
def test_a_reply_without_entries_is_left_to_the_parser(first: bytes) -> None:
    assert EntryBlock.of(bytearray(first)) is None
    assert EntryBlock.of(bytearray(first + encode(ANCHOR))) is None
    last_id_in(bytearray(first))
    last_id_in(bytearray(first + encode(ANCHOR)))


@pytest.mark.parametrize("count", [0, 1, 2, 4, 10**30])
def test_a_wrong_count_makes_no_block_of_more_than_there_is(count: int) -> None:
    entries = plain(3)
    found = reply(entries).replace(b"*3\r\n", b"*%d\r\n" % count, 1)
    block = EntryBlock.of(found)
    assert (block is None) == (count not in {1, 2})
    assert block is None or list(block) == entries[:count]


# --- several blocks -------------------------------------------------------------------------


@SETTINGS
@given(st.lists(alike_entries(st.binary(max_size=5)), min_size=1, max_size=3), st.data())
def test_values_are_put_together_in_lines_group_by_group(
    drawn: list[list[RawEntry]], data: st.DataObject
) -> None:
    found = [
        EntryBlock.of(reply([[raw[0], [b"a", b"!" + raw[1][1]]] for raw in entries]))
        for entries in drawn
    ]
    blocks = EntryBlocks([block for block in found if block is not None] or [block_of(plain(2))])
    values, ids = blocks.values(b"a").to_pylist(), ids_of(blocks)
    order = data.draw(st.permutations(range(len(values))))
    cuts = data.draw(st.sets(st.integers(1, len(values) - 1))) if len(values) > 1 else set()
    bounds = [0, *sorted(cuts), len(values)]
    groups = [order[start:stop] for start, stop in pairwise(bounds)]
    by = (np.array(order), np.array(bounds))
    assert blocks.lines(b"a", *by) == [
        b"".join(values[at] + b"\n" for at in group) for group in groups
    ]
    assert blocks.ids(*by) == [b"".join(ids[at] + b"\n" for at in group) for group in groups]


def test_a_value_may_be_empty_in_lines() -> None:
    blocks = EntryBlocks([block_of([[b"1-1", [b"a", b""]], [b"1-2", [b"a", b"x"]]])])
    order, bounds = np.array([1, 0]), np.array([0, 1, 2])
    assert blocks.lines(b"a", order, bounds) == [b"x\n", b"\n"]


def test_all_values_may_be_empty_in_lines() -> None:
    blocks = EntryBlocks([block_of([[b"1-1", [b"a", b""]], [b"1-2", [b"a", b""]]])])
    assert blocks.values(b"a").to_pylist() == [b"", b""]
    assert blocks.lines(b"a", np.array([1, 0]), np.array([0, 2])) == [b"\n\n"]


def test_blocks_are_put_together_as_long_as_their_fields_are_the_same() -> None:
    one, two = block_of(plain(2)), block_of(plain(3, 2))
    other, swapped = block_of(plain(1, 5, [b"c"])), block_of(plain(2, 6, [b"b", b"a"]))
    last = block_of(plain(1, 8))
    groups = alike([one, two, other, swapped, last])
    assert [group.blocks for group in groups] == [[one, two], [other], [swapped], [last]]
    assert [group.names for group in groups] == [[b"a", b"b"], [b"c"], [b"b", b"a"], [b"a", b"b"]]
    assert list(groups[0]) == plain(5)
    assert alike([]) == []


# --- some entries of blocks -----------------------------------------------------------------


@pytest.fixture
def some() -> tuple[BlockEntries, list[RawEntry]]:
    """Give entries of blocks, and as a list."""
    blocks = EntryBlocks([block_of(plain(3)), block_of(plain(4, 3))])
    entries, order = plain(7), [6, 0, 3, 2, 5, 1, 4]
    expected = [entries[at] for at in order[1:5]]
    ids = pack_ids(raw[0] for raw in expected)
    return BlockEntries(blocks, np.array(order), 1, 5, ids), expected


def test_some_entries_are_read_like_a_list(some: tuple[BlockEntries, list[RawEntry]]) -> None:
    entries, expected = some
    assert list(entries) == expected
    assert len(entries) == 4
    assert [entries[at] for at in range(-4, 4)] == expected + expected
    for at in (4, -5):
        with pytest.raises(IndexError):
            entries[at]


def test_some_entries_know_their_ids(some: tuple[BlockEntries, list[RawEntry]]) -> None:
    entries, expected = some
    assert packed_ids(entries) == entries.ids == packed_ids(expected)


def test_some_entries_are_sent_as_a_list(some: tuple[BlockEntries, list[RawEntry]]) -> None:
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
    block = EntryBlock.of(found)
    assert block is not None
    assert list(block) == send_raw(redis, 51, 250)
    [[anchor]] = parse(block.rest)
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
