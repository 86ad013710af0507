"""The router's marks: what is held is looked at again and again, and its prices are written.

Marks wait in one place per symbol, a newer one instead of the older, so however slow
Redis is, no more of them wait than symbols are held.
"""

import asyncio
from functools import partial

from connectors.ibkr.feed import ExecutionFeed
from connectors.ibkr.market_data import DELAYED, LIVE, Mark, MarketData
from connectors.redis.mark_stream import HeldContracts, MarkStream
from flows.common.threads import in_daemon_thread

HELD_EVERY_S = 2.0
WRITE_EVERY_S = 0.1
KINDS = {"live": LIVE, "delayed": DELAYED}


class Marks:
    """Writes a mark for each change of price of what is held."""

    def __init__(
        self, feed: ExecutionFeed, kind: str, answer_s: float, held: HeldContracts, out: MarkStream
    ) -> None:
        self._feed, self._held, self._out = feed, held, out
        self._market = MarketData(feed.ib, KINDS[kind], answer_s, self._put)
        self._waiting: dict[str, Mark] = {}
        self._filled = asyncio.Event()

    async def run(self) -> None:
        """Follow prices, until cancelled. Raises a group of RedisRefusedError."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._market.run(lambda: self._feed.listed))
            tasks.create_task(self._look())
            tasks.create_task(self._write())

    def _put(self, mark: Mark) -> None:
        self._waiting[mark.symbol] = mark
        self._filled.set()

    async def _look(self) -> None:
        while True:
            self._market.hold(await in_daemon_thread(self._held.read))
            await asyncio.sleep(HELD_EVERY_S)

    async def _write(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            marks, self._waiting = self._waiting, {}
            await in_daemon_thread(partial(self._out.write, map(_fields, marks.values())))
            await asyncio.sleep(WRITE_EVERY_S)


def _fields(mark: Mark) -> dict[str, str]:
    return {key: str(value) for key, value in mark._asdict().items()}
