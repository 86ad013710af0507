"""IBKR to the stream: `python -m flows.router`.

Two loops, so that neither world waits for the other: the feed follows TWS, the outbox
follows Redis, and what is between them is bounded by what TWS lists. Redis alone
decides what is new, so the feed may offer an execution as often as it likes. What the
broker holds, and whether that is what we have, see `flows.broker`.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from threading import Event

from connectors.ibkr.account import Accounts
from connectors.ibkr.feed import ExecutionFeed
from connectors.ibkr.messages import Letter, Message
from connectors.redis.broker import BothSidesReader, BrokerHash
from connectors.redis.instruments import InstrumentHash
from connectors.redis.letters import OtherLetters
from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.mark_stream import HeldContracts, MarkStream
from connectors.redis.publisher import BATCH, Once, Publisher
from flows.broker.marks import Marks
from flows.broker.side import AccountView, BrokerSide, Comparison, WaitingRegister
from flows.broker.tws import tws_of
from flows.common.doors import app_of, enter
from flows.common.logs import set_up_logging
from flows.common.overview import counted
from flows.common.settings import Settings, load_settings
from flows.common.threads import in_daemon_thread
from state.keys import position_key

log = logging.getLogger("lotstream.router")

LAST_CHANCE_S = 1.0
"""How long, once told to stop, to try to publish what is still waiting."""
MOST_LINES = 20
"""More new executions at once than this are a backlog: one line for all."""


def once(message: Message) -> Once:
    """Say by what a message is known: a commission again whenever its figure changes.

    An execution id may come in two accounts, so it is known by both.
    """
    known_by = f"{message.get('account', '')}:{message.get('exec_id', '')}"
    if message.get("type") == "commission":
        figure = f"{message['commission']} {message.get('currency', '')}"
        return Once(f"commission:{known_by}", message, figure)
    return Once(known_by, message)


class Outbox:
    """What is to be published: kept while Redis is away, in the order it came.

    streams: with the dead letter stream of each.
    """

    def __init__(self, link: RedisLink, streams: Mapping[str, str]) -> None:
        self._publisher = Publisher(link, list(streams))
        self._letters_box = OtherLetters(link, streams)
        self._waiting: dict[str, Once] = {}
        self._letters: dict[str, Letter] = {}
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    @property
    def size(self) -> int:
        """How many messages wait."""
        return len(self._waiting) + len(self._letters)

    def put(self, messages: list[Message]) -> None:
        """Add messages; one that still waits is replaced, in its place."""
        self._waiting.update((item.once_id, item) for item in map(once, messages))
        self._filled.set()
        self._emptied.clear()

    def refuse(self, letter: Letter) -> None:
        """Add an execution that is to go to the dead letters."""
        known_by = f"{letter.account}:{letter.exec_id or letter.fields['tws']}"
        self._letters.setdefault(known_by, letter)
        self._filled.set()
        self._emptied.clear()

    async def run(self) -> None:
        """Publish what comes, until cancelled. Raises RedisRefusedError."""
        while True:
            await self._filled.wait()
            self._filled.clear()  # first, so that what comes while this writes wakes it again
            new: list[Message] = []
            while self._waiting:
                new += await self._publish_batch()
            while self._letters:
                await self._write_letter(*next(iter(self._letters.items())))
            note_published(new)
            if not self.size:
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

    async def _write_letter(self, once_id: str, letter: Letter) -> None:
        about = {"symbol": letter.fields.get("symbol", ""), "account": letter.account}
        stream = self._publisher.stream_of(about)
        fields, reason = letter.fields, letter.reason
        await in_daemon_thread(lambda: self._letters_box.add_once(once_id, stream, fields, reason))
        del self._letters[once_id]


def note_published(new: Sequence[Message]) -> None:
    """Log each execution, or a backlog as one."""
    executions = [fields for fields in new if "type" not in fields]
    if len(executions) > MOST_LINES:
        commissions = len(new) - len(executions)
        both = counted(len(executions), "execution"), counted(commissions, "commission")
        log.info("published %s and %s", *both)
        return
    for fields in executions:
        key = position_key(fields["symbol"], fields.get("account"))
        names = ("side", "fill_qty", "fill_price", "exec_id")
        log.info("published %s: %s %s at %s (%s)", key, *map(fields.get, names))


class Router:
    """The parts, wired."""

    def __init__(self, settings: Settings) -> None:
        self.stop_redis = Event()
        link = RedisLink(settings.redis_url.get_secret_value(), self.stop_redis)
        self.outbox = Outbox(link, settings.letters_of)
        self._accounts = Accounts(settings.ibkr_accounts)
        broker = BrokerHash(link, settings.broker_hash)
        self._broker_side = BrokerSide(broker)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        instruments = InstrumentHash(link, settings.instruments_hash, settings.positions_hash)
        self._feed = ExecutionFeed(
            tws_of(settings),
            self.outbox.put,
            self.outbox.refuse,
            WaitingRegister(instruments, self._fail),
            accounts=self._accounts,
            positions_changed=self._broker_side.changed,
            warn_of_zone="ibkr_timezone" not in settings.model_fields_set,
        )
        reader = BothSidesReader(
            link,
            positions_hash=settings.positions_hash,
            broker_hash=settings.broker_hash,
            streams=settings.streams,
        )
        self._comparison = Comparison(reader, broker, lambda: self.outbox.size)
        self._account_view = AccountView(broker, self._accounts)
        self._marks: Marks | None = None
        if settings.ibkr_marks != "off":
            self._marks = Marks(
                self._feed,
                settings.ibkr_marks,
                tws_of(settings).answer_s,
                HeldContracts(link, settings.positions_hash),
                MarkStream(link, settings.marks_stream, settings.marks_kept),
            )
        # It may have lost what it had taken, so all is offered again.
        loop = asyncio.get_running_loop()

        def after_outage() -> None:
            loop.call_soon_threadsafe(self._offer_again)

        link.after_outage.append(after_outage)

    def tasks(self) -> list[Coroutine[None, None, None]]:
        """Return what is to run side by side; each for ever."""
        return [
            self._feed.run(),
            self._broker_side.run(self._feed, self._accounts),
            self._comparison.run(self._feed),
            self._account_view.run(self._feed),
            *([self._marks.run()] if self._marks else []),
            self._until_failure(),
        ]

    async def forget_broker(self) -> None:
        """Say that the broker's side is no longer known."""
        await self._broker_side.forget()

    def _offer_again(self) -> None:
        self._feed.offer_again()
        self._broker_side.write_again()
        self._comparison.write_again()

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _until_failure(self) -> None:
        await self._failure


async def route(settings: Settings) -> None:
    """Publish all that TWS lists until SIGTERM or SIGINT.

    Raises a group of RedisRefusedError if Redis will never take it.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    router = Router(settings)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(each) for each in router.tasks()]
        publishing = tasks.create_task(router.outbox.run())
        log.info("started: from TWS to %s", ", ".join(settings.streams))
        await stopping.wait()
        for task in following:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(_wind_up(router), LAST_CHANCE_S)
        router.stop_redis.set()
        publishing.cancel()
    if router.outbox.size:
        waiting = counted(router.outbox.size, "message")
        log.warning("not published: %s; the next start finds what is left", waiting)
    log.info("stopped, as told to")


async def _wind_up(router: Router) -> None:
    await router.outbox.emptied()
    await router.forget_broker()


def main() -> None:
    """Publish what IBKR reports to the stream, and keep the broker's side, until told to stop."""
    settings = load_settings()
    set_up_logging(settings)
    try:
        asyncio.run(route(settings))
    except* RedisRefusedError as refused:
        first: BaseException = refused
        while isinstance(first, BaseExceptionGroup):  # marks are a group in the group
            first = first.exceptions[0]
        raise SystemExit(f"lotstream: {first}") from None


app = app_of(main)

if __name__ == "__main__":
    enter(app, "router")
