"""The live page: `python -m flows.board`, then http://127.0.0.1:8765.

One loop looks at Redis a few times a second and tells every open page what changed, as
server-sent events; a page that comes (back) is told everything once. The page itself is
three static files in flows/board/page. It listens on the loopback interface only, reads only,
and fetches nothing from elsewhere.

The curves need a past: it is read from the Parquet files once, at the start.
"""

import asyncio
import json
import logging
import signal
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.redis.overview import Overview, OverviewReader, Position, RedisAwayError
from flows.common.logs import set_up_logging
from flows.common.settings import load_settings
from flows.watch import Rate, flow_words, overview_reader

log = logging.getLogger("lotstream.board")

HOST, PORT = "127.0.0.1", 8765
LOOK_EVERY_S = 0.4
SPARK_POINTS, CURVE_POINTS = 40, 600
PAST_DAYS, PAST_FILES = 2, 2000
"""How much of the Parquet data the curves begin with: the latest of it."""

_PAGE = Path(__file__).with_name("page")
_BEHIND = 200
"""Frames kept for a page that does not take them, before it has to ask for all again."""

Point = tuple[int, float]
"""Milliseconds since 1970, P&L."""


class Past:
    """How realized P&L came about: a few points per position, a curve per currency.

    Only for drawing, so figures are floats.
    """

    def __init__(self) -> None:
        self.sparks: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=SPARK_POINTS))
        self.curves: dict[str, list[Point]] = {}
        self._latest: dict[str, int] = {}

    def note(self, overview: Overview, changed: Iterable[str]) -> dict[str, Point]:
        """Add what has changed; return the new point of each curve."""
        for key in changed:
            position = overview.positions[key]
            spark, pnl = self.sparks[key], float(position.realized_pnl)
            if not spark or spark[-1] != pnl:
                spark.append(pnl)
            # The executions' own time: also a replay of last year draws a sensible curve.
            time = position.changed_at if position.timestamp is None else position.timestamp
            self._latest[position.currency] = max(self._latest.get(position.currency, 0), time)
        return {
            total.currency: self._add(total.currency, float(total.realized_pnl))
            for total in overview.totals
        }

    def _add(self, currency: str, pnl: float) -> Point:
        curve = self.curves.setdefault(currency, [])
        point = (max(self._latest[currency], curve[-1][0] if curve else 0), pnl)
        if curve and curve[-1][0] == point[0]:
            curve.pop()
        curve.append(point)
        if len(curve) > 2 * CURVE_POINTS:
            self.curves[currency] = thinned(curve)
        return point

    def begin(self, rows: pl.DataFrame, now: Mapping[str, Position]) -> None:
        """Draw the past from rows of the `positions` data set, up to the positions of now."""
        for (key,), of_key in rows.group_by("key", maintain_order=True):
            values = of_key.filter(pl.col("change") != 0)["pnl"].to_list()
            self.sparks[str(key)].extend(values)
        for (currency,), of_currency in rows.group_by("currency", maintain_order=True):
            moved = set(of_currency["key"])
            rest = sum(
                float(position.realized_pnl)
                for key, position in now.items()
                if position.currency == currency and key not in moved
            )
            last = sum(of_currency.group_by("key").last()["pnl"].to_list())
            start = rest + last - sum(of_currency["change"].to_list())
            curve = of_currency.sort("time", maintain_order=True).select(
                "time", pnl=start + pl.col("change").cum_sum()
            )
            self.curves[str(currency)] = thinned(curve.rows())
            self._latest[str(currency)] = curve["time"][-1]


def thinned(curve: list[Point]) -> list[Point]:
    """Return about as many points of a curve as can be drawn, the last one among them."""
    step = max(1, len(curve) // CURVE_POINTS)
    return curve[::-step][::-1]


def read_past(data_dir: Path) -> pl.DataFrame:
    """Return the latest rows of the `positions` data set, in order of their entries."""
    days = sorted((data_dir / "positions").glob("date=*"))[-PAST_DAYS:]
    files = [path for day in days for path in day.glob("*.parquet")]
    latest = sorted(files, key=lambda path: path.stat().st_mtime)[-PAST_FILES:]
    rows = pl.scan_parquet(latest, hive_partitioning=False) if latest else _NO_ROWS
    entry = pl.col("stream_id").str.split_exact("-", 1).struct
    return (
        rows.select(
            key=pl.concat_str("account", "symbol", separator=":", ignore_nulls=True),
            currency="currency",
            time=pl.col("message_timestamp").dt.epoch("ms"),
            pnl=pl.col("realized_pnl").cast(pl.Float64),
            change=pl.col("realized_pnl_change").cast(pl.Float64),
            ms=entry[0].cast(pl.Int64),
            seq=entry[1].cast(pl.Int64),
        )
        .sort("ms", "seq")
        .collect()
    )


_NO_ROWS = pl.LazyFrame(
    schema={
        "account": pl.String, "symbol": pl.String, "currency": pl.String,
        "message_timestamp": pl.Datetime("ms", "UTC"), "realized_pnl": pl.Decimal(38, 20),
        "realized_pnl_change": pl.Decimal(38, 20), "stream_id": pl.String,
    }
)  # fmt: skip


class Board:
    """What all open pages are told."""

    def __init__(self, reader: OverviewReader, data_dir: Path) -> None:
        self._reader, self._data_dir = reader, data_dir
        self._past, self._rate = Past(), Rate()
        self._begun = False
        self._overview = Overview(0, {}, [], 0)
        self._problem = "Redis was not seen yet"
        self._pages: set[asyncio.Queue[str | None]] = set()

    async def run(self, over: Callable[[], bool]) -> None:
        """Look and tell until it is over; then end all pages' streams."""
        while not over():
            await self._look()
            await asyncio.sleep(LOOK_EVERY_S)
        for page in list(self._pages):
            self._end(page)

    async def _look(self) -> None:
        changes: dict[str, Any] = {}
        try:
            overview = await asyncio.to_thread(self._reader.read)
        except (RedisAwayError, ValueError) as error:
            away = isinstance(error, RedisAwayError)
            self._problem = f"Redis is away: {error}" if away else str(error)
            self._rate.reset()
        else:
            self._problem = ""
            self._rate.count(overview.executions)
            if self._begun:
                changes = self._changes(overview)
            else:
                await self._begin(overview)
                changes = self._everything()
        self._tell({**changes, "state": self._state()})

    async def _begin(self, overview: Overview) -> None:
        self._begun = True
        try:
            rows = await asyncio.to_thread(read_past, self._data_dir)
            self._past.begin(rows, overview.positions)
        except (OSError, pl.exceptions.PolarsError) as error:
            log.warning("the curves begin now, as the past cannot be read: %s", error)
        self._changes(overview)

    def _changes(self, overview: Overview) -> dict[str, Any]:
        before, self._overview = self._overview.positions, overview
        now = overview.positions
        changed = [key for key in now if before.get(key) is not now[key]]
        gone = [key for key in before if key not in now]
        if not changed and not gone:
            return {}
        for key in gone:
            self._past.sparks.pop(key, None)
        points = self._past.note(overview, changed)
        return {
            "rows": [_row(key, now[key]) for key in changed],
            "gone": gone,
            "totals": _totals(overview),
            "points": list(points.items()),
        }

    def _everything(self) -> dict[str, Any]:
        positions = self._overview.positions
        return {
            "all": True,
            "rows": [_row(key, position) for key, position in positions.items()],
            "sparks": {key: list(self._past.sparks[key]) for key in positions},
            "totals": _totals(self._overview),
            "curves": self._past.curves,
            "state": self._state(),
        }

    def _state(self) -> dict[str, Any]:
        overview = self._overview
        seen = overview.at_ms > 0
        return {
            "at": overview.at_ms,
            "problem": self._problem,
            "rate": self._rate.per_second,
            "dead_letters": overview.dead_letters if seen else None,
            "streams": [
                {
                    "flow": state.flow,
                    "words": flow_words(state, "" if len(overview.streams) == 1 else state.stream),
                    "lag": state.lag,
                    "lag_s": state.lag_s,
                    "committed_age_s": state.committed_age_s,
                }
                for state in overview.streams
            ],
        }

    def _tell(self, frame: dict[str, Any]) -> None:
        text = json.dumps(frame)
        for page in list(self._pages):
            if page.full():
                # It does not listen; if it lives, it will come again and ask for all.
                self._end(page)
            else:
                page.put_nowait(text)

    def _end(self, page: asyncio.Queue[str | None]) -> None:
        self._pages.discard(page)
        if page.full():
            page.get_nowait()
        page.put_nowait(None)

    async def frames(self) -> AsyncIterator[str]:
        """Yield a page's events: everything, then changes."""
        page: asyncio.Queue[str | None] = asyncio.Queue(_BEHIND)
        self._pages.add(page)
        try:
            frame: str | None = json.dumps(self._everything())
            yield "retry: 1000\n"
            while frame is not None:
                yield f"data: {frame}\n\n"
                frame = await page.get()
        finally:
            self._pages.discard(page)


def _row(key: str, position: Position) -> list[Any]:
    """Return what the page knows of a position, in the order of board.js; figures as text."""
    return [
        key,
        position.account,
        position.symbol,
        position.currency,
        _text(position.qty),
        _text(position.avg_price),
        _text(position.last_price),
        _text(position.cost_basis),
        _text(position.realized_pnl),
        _text(position.net_realized_pnl),
        _text(position.commission),
        position.changed_at,
    ]


def _totals(overview: Overview) -> list[list[Any]]:
    return [
        [
            total.currency,
            _text(total.realized_pnl),
            _text(total.net_realized_pnl),
            _text(total.commission),
            total.open,
            total.flat,
        ]
        for total in overview.totals
    ]


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


# --- serving ------------------------------------------------------------------------------


class _Headers:
    """Forbids the page to fetch anything from elsewhere, and others to frame it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'"
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-cache"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def build_app(board: Board, over: Callable[[], bool]) -> Starlette:
    """Return the web application: the page and its events, nothing that writes.

    over: tells that the program is to end.
    """

    @asynccontextmanager
    async def looking(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(board.run(over))
        task.add_done_callback(_end_if_failed)
        yield
        await task

    def events(_request: Request) -> StreamingResponse:
        return StreamingResponse(board.frames(), media_type="text/event-stream")

    return Starlette(
        routes=[Route("/events", events), Mount("/", StaticFiles(directory=_PAGE, html=True))],
        # Else a page from elsewhere could read this one under a name of its own.
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_Headers),
        ],
        lifespan=looking,
    )


def _end_if_failed(task: asyncio.Task[None]) -> None:
    # A page that no longer changes must not look as if nothing happened.
    if task.exception() is not None:
        log.critical("stopped: %r", task.exception(), exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)


def main(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = PORT,
) -> None:
    """Serve the live page on 127.0.0.1 until told to stop."""
    settings = load_settings()
    set_up_logging(settings)
    board = Board(overview_reader(settings), settings.data_dir)
    config = uvicorn.Config(
        build_app(board, lambda: server.should_exit), host=HOST, port=port,
        log_config=None, log_level="warning", timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has its own handlers, and gives the signal on when it has ended well.
        signal.signal(number, lambda *_: None)
    log.info("the board is on http://%s:%d", HOST, port)
    server.run()
    if not server.started:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
