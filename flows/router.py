"""IBKR to the stream: `python -m flows.router`.

Two loops, so that neither world waits for the other: the feed follows TWS, the outbox
follows Redis, and what is between them is bounded by what TWS lists. Redis alone
decides what is new, so the feed may offer an execution as often as it likes.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from threading import Event, Thread
from typing import TypeVar
from zoneinfo import ZoneInfo

from connectors.ibkr.feed import ExecutionFeed, Message, Tws
from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.publisher import BATCH, Once, Publisher
from flows.common.logs import set_up_logging
from flows.common.settings import Settings, load_settings
from state.keys import position_key

T = TypeVar("T")
log = logging.getLogger("lotstream.router")

LAST_CHANCE_S = 1.0
"""How long, once told to stop, to try to publish what is still waiting."""
MOST_LINES = 20
"""More new executions at once than this are a backlog: one line for all."""


def once(message: Message) -> Once:
    """Say by what a message is known: a commission again whenever its figure changes."""
    exec_id = message.get("exec_id", "")
    if message.get("type") == "commission":
        figure = f"{message['commission']} {message.get('currency', '')}"
        return Once(f"commission:{exec_id}", message, figure)
    return Once(exec_id, message)


class Outbox:
    """What is to be published: kept while Redis is away, in the order it came."""

    def __init__(self, link: RedisLink, streams: Sequence[str]) -> None:
        self._link = link
        self._publisher = Publisher(link, streams)
        self._waiting: dict[str, Once] = {}
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    @property
    def size(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    def put(self, messages: list[Message]) -> None:
        """Add messages; one that still waits is replaced, in its place."""
        self._waiting.update((item.once_id, item) for item in map(once, messages))
        self._filled.set()
        self._emptied.clear()

    async def run(self, after_outage: Callable[[], None]) -> None:
        """Publish what comes, until cancelled.

        after_outage: called when Redis was away and is back. It may have lost what
        it had taken, so all is to be offered again. Raises RedisRefusedError.
        """
        while True:
            await self._filled.wait()
            new: list[Message] = []
            while self._waiting:
                retries = self._link.retries
                new += await self._publish_batch()
                if self._link.retries != retries:
                    after_outage()
            note_published(new)
            self._filled.clear()
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until nothing waits."""
        if self.size:
            await self._emptied.wait()

    async def _publish_batch(self) -> list[Message]:
        batch = list(islice(self._waiting.values(), BATCH))
        added = await in_daemon_thread(lambda: self._publisher.publish_once(*batch))
        for item in batch:
            if self._waiting[item.once_id] == item:  # else a newer one has replaced it
                del self._waiting[item.once_id]
        return [dict(item.fields) for item, new in zip(batch, added, strict=True) if new]


def note_published(new: Sequence[Message]) -> None:
    """Log each execution, or a backlog as one."""
    executions = [fields for fields in new if "type" not in fields]
    if len(executions) > MOST_LINES:
        commissions = len(new) - len(executions)
        log.info("published %d executions and %d commissions", len(executions), commissions)
        return
    for fields in executions:
        key = position_key(fields["symbol"], fields.get("account"))
        names = ("side", "fill_qty", "fill_price", "exec_id")
        log.info("published %s: %s %s at %s (%s)", key, *map(fields.get, names))


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Await a call that blocks; unlike asyncio.to_thread, it cannot delay the program's end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(done.set_result, call())
        except BaseException as error:  # noqa: BLE001  # the one who awaits is to have it
            settle = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: done.done() or settle())

    Thread(target=run, daemon=True).start()
    return await done


async def route(settings: Settings) -> None:
    """Publish all that TWS lists until SIGTERM or SIGINT.

    Raises a group of RedisRefusedError if Redis will never take it.
    """
    stopping, redis_stop = asyncio.Event(), Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    link = RedisLink(settings.redis_url.get_secret_value(), redis_stop)
    outbox = Outbox(link, settings.streams)
    zone = ZoneInfo(settings.ibkr_timezone)
    tws = Tws(settings.ibkr_host, settings.ibkr_port, settings.ibkr_client_id, zone)
    feed = ExecutionFeed(tws, outbox.put)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(feed.run())
        publishing = tasks.create_task(outbox.run(feed.fetch))
        log.info("started: from TWS to %s", ", ".join(settings.streams))
        await stopping.wait()
        following.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(outbox.emptied(), LAST_CHANCE_S)
        redis_stop.set()
        publishing.cancel()
    if outbox.size:
        log.warning("%d messages are not published; the next start finds them", outbox.size)
    log.info("stopped, as told to")


def main() -> None:
    """Run until told to stop."""
    settings = load_settings()
    set_up_logging(settings)
    try:
        asyncio.run(route(settings))
    except* RedisRefusedError as refused:
        raise SystemExit(f"lotstream: {refused.exceptions[0]}") from None


if __name__ == "__main__":
    main()
