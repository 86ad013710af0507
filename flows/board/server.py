"""The web server of the live page: static files, a stream of events, answers from the Parquet.

It listens on the loopback interface only, reads only, and lets the page fetch nothing
from elsewhere.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

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

from flows.board.frames import Board
from flows.board.told import Teller

log = logging.getLogger("lotstream.board")

HOST = "127.0.0.1"
_PAGE = Path(__file__).with_name("page")


def serve(board: Board, port: int) -> None:
    """Serve the page until told to stop; raises SystemExit with one line if the port is taken."""
    try:
        # Now, as the server itself would find out beside what looks at Redis already.
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise SystemExit(
            f"lotstream: --port: expected a free port on {HOST}, found {port}: {error}"
        ) from None
    config = uvicorn.Config(
        build_app(board, lambda: server.should_exit),
        log_config=None, log_level="warning", timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has its own handlers, and gives the signal on when it has ended well.
        signal.signal(number, lambda *_: None)
    log.info("the board is on http://%s:%d", HOST, port)
    server.run(sockets=[listening])


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
    """Return the web application: the page, its events and its questions; nothing that writes.

    over: tells that the program is to end.
    """
    teller = Teller(board.data_dir)

    @asynccontextmanager
    async def looking(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(board.run(over))
        task.add_done_callback(_end_if_failed)
        yield
        await task

    def events(_request: Request) -> StreamingResponse:
        return StreamingResponse(board.frames(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/events", events),
            Route("/position", teller.position),
            Route("/strategies", teller.strategies),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
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
