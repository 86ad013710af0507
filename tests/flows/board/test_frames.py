"""What the open pages are told, without a server: the frames of one board."""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.redis.overview import OverviewReader
from connectors.redis.worth import Valuations
from flows.board import frames
from flows.board.frames import Board
from flows.board.server import build_app
from tests.support.hash_values import base_totals, position, put, valuation
from tests.support.servers import free_port


def board_of(url: str, data_dir: Path, *streams: str) -> Board:
    reader = OverviewReader(
        url, streams=streams or ["executions"], letters=["executions:dead"],
        positions_hash="positions", valuations=Valuations("valuations", 60_000, "UTC"),
    )  # fmt: skip
    return Board(reader, data_dir)


@pytest.fixture
def board(redis_url: str, tmp_path: Path) -> Iterator[Board]:
    board = board_of(redis_url, tmp_path)
    yield board
    board._reader.close()


async def next_of(page: AsyncIterator[str]) -> dict[str, Any]:
    """Return the next frame."""
    while not (text := await anext(page)).startswith("data: "):
        pass
    told: dict[str, Any] = json.loads(text.removeprefix("data: "))
    return told


def told(board: Board, *acts: Callable[[], object]) -> list[dict[str, Any]]:
    """Return the first frame of a page that comes after one look, and one after each act."""

    async def follow() -> list[dict[str, Any]]:
        await board._look()
        page = board.frames()
        found = [await next_of(page)]
        for act in acts:
            act()
            await board._look()
            found.append(await next_of(page))
        return found

    return asyncio.run(follow())


def test_nothing_is_told_twice(board: Board, redis: redis_py.Redis) -> None:
    put(redis, position("A", realized_pnl=1), position("B"))
    put(redis, valuation("A"), valuation("B"), name="valuations")
    first, same, changed, gone, unvalued = told(
        board,
        lambda: None,
        lambda: put(redis, position("A", realized_pnl=2)),
        lambda: redis.hdel("positions", "B"),
        lambda: redis.delete("valuations"),
    )
    assert sorted(row["key"] for row in first["rows"]) == ["A", "B"]
    assert first["sparks"] == {"A": [1.0], "B": [0.0]}
    assert same.keys() == {"state"}
    assert [row["key"] for row in changed["rows"]] == ["A"]
    assert (changed["worth"], changed["gone"]) == ([], [])
    assert changed["points"] == [["USD", [1700000000000, 2.0]]]
    assert (gone["rows"], gone["gone"], gone["points"]) == ([], ["B"], changed["points"])
    assert unvalued["totals"][0]["unrealized_pnl"] is None
    assert (unvalued["state"]["valued"], unvalued["points"]) == (False, [])


def test_a_position_that_comes_back_begins_its_small_curve_anew(
    board: Board, redis: redis_py.Redis
) -> None:
    put(redis, position("A", realized_pnl=1))
    told(
        board,
        lambda: redis.hdel("positions", "A"),
        lambda: put(redis, position("A", realized_pnl=2)),
    )
    assert board._everything()["sparks"] == {"A": [2.0]}


def test_figures_are_texts_as_people_write_them_and_counts_are_numbers(
    board: Board, redis: redis_py.Redis
) -> None:
    put(redis, position("A", qty="1E+3", cost_basis="1E-10"))
    [first] = told(board)
    [row] = first["rows"]
    assert (row["qty"], row["cost_basis"]) == ("1000", "0.0000000001")
    [total] = first["totals"]
    assert (total["open"], total["currency"], total["cost_basis"]) == (1, "USD", "0.0000000001")


def test_the_totals_over_all_are_told_only_where_positions_are_valued(
    board: Board, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    redis.set("valuations:totals", base_totals())
    unvalued, valued = told(board, lambda: put(redis, valuation("A"), name="valuations"))
    assert unvalued["state"]["base"] is None
    assert valued["state"]["base"]["total_pnl"] == "6.5"


def test_what_is_wrong_is_said_and_what_was_seen_stays(board: Board, redis: redis_py.Redis) -> None:
    put(redis, position("A"))
    first, wrong, right = told(
        board,
        lambda: redis.hset("positions", "B", "none"),
        lambda: redis.hdel("positions", "B"),
    )
    assert first["state"]["problem"] == right["state"]["problem"] == ""
    assert wrong["state"]["problem"].startswith("position 'B': expected a JSON object")
    assert wrong["state"]["rate"] is None
    assert "rows" not in wrong


def test_before_redis_was_seen_nothing_is_said_of_it(tmp_path: Path) -> None:
    board = board_of(f"redis://127.0.0.1:{free_port()}", tmp_path)
    [first] = told(board)
    assert first["state"]["problem"].startswith("Redis is away: ")
    assert first["state"]["dead_letters"] is None
    board._reader.close()


def test_streams_are_named_where_there_are_several(redis_url: str, tmp_path: Path) -> None:
    board = board_of(redis_url, tmp_path, "executions:0", "executions:1")
    [first] = told(board)
    words = [stream["words"] for stream in first["state"]["streams"]]
    assert words == [f"executions:{part} waiting for a first entry" for part in (0, 1)]
    board._reader.close()


def test_files_that_cannot_be_read_cost_the_curves_alone(
    board: Board, redis: redis_py.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "positions" / "date=2024-01-02").mkdir(parents=True)
    (tmp_path / "positions" / "date=2024-01-02" / "a.parquet").write_text("damage")
    put(redis, position("A"))
    [first] = told(board)
    assert [row["key"] for row in first["rows"]] == ["A"]
    assert caplog.messages[0].startswith("the curves begin now, as the past cannot be read: ")


def test_a_page_that_does_not_take_its_frames_is_ended_and_others_are_not(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_BEHIND", 3)

    async def follow() -> tuple[int, int, int]:
        deaf, awake = board.frames(), board.frames()
        await next_of(deaf)
        await next_of(awake)
        for _ in range(5):
            board._tell({"a": 1})
            await next_of(awake)
        left, pages = len([frame async for frame in deaf]), len(board._pages)
        await awake.aclose()
        return left, pages, len(board._pages)

    assert asyncio.run(follow()) == (2, 1, 0)


def test_a_board_that_can_look_no_more_ends_the_program(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(board, "_look", None)
    app = build_app(board, lambda: False)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            for _ in range(100):
                await asyncio.sleep(0 if ended.is_set() else 0.01)

    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with pytest.raises(TypeError):
            asyncio.run(live())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.is_set()
    assert caplog.messages[0].startswith("stopped: TypeError")


def test_when_it_is_over_all_pages_end(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LOOK_EVERY_S", 0.01)

    async def follow() -> list[dict[str, Any]]:
        page, looks = board.frames(), iter([False, False, True])
        first = await next_of(page)
        await board.run(lambda: next(looks))
        return [first, *[json.loads(text[6:]) async for text in page]]

    before, *after = asyncio.run(follow())
    assert before["state"]["problem"] == "Redis was not seen yet"
    assert [frame["state"]["problem"] for frame in after] == ["", ""]
