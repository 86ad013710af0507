"""A connection to TWS or IB Gateway, for reading only.

The library keeps the connection; what it reads wrongly, it does not get to see. It loses
executions whose time names a zone unknown to Python, reads TWS's UTC format as local
time and a commission that is not given as 0, keeps one of two executions that have one
id, and would fail to connect if TWS does not end the list of executions.
"""

import asyncio
import itertools
import logging
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

# On import, eventkit takes the thread's event loop: newer Pythons make none by
# themselves, and the one that older ones make would never be closed.
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)
if TYPE_CHECKING:
    from ib_insync import IB, ContractDetails, ExecutionFilter
    from ib_insync import Contract as LibraryContract
else:
    try:  # ib_insync's successor, with the same names, serves where it is installed
        from ib_async import IB, ContractDetails, ExecutionFilter
        from ib_async import Contract as LibraryContract
    except ImportError:
        from ib_insync import IB, ContractDetails, ExecutionFilter
        from ib_insync import Contract as LibraryContract
asyncio.set_event_loop(None)
_loop.close()

log = logging.getLogger("lotstream.ibkr")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
CLIENT_ID_TAKEN = 326
CUT = {1100, 2110}
"""What TWS says when it has lost IBKR's servers."""

_RECEIVED_AT_ONCE = 16_384
"""Bytes: the library's time for a packet grows with its square."""

Reader = Callable[[list[str]], None]
"""Is given the fields of one of TWS's messages."""


class TwsError(Exception):
    """There is no connection to TWS; the text says why, in one line."""


class ClientIdTakenError(TwsError):
    """Another program is connected with this client id."""


class Tws(NamedTuple):
    """Where TWS or Gateway listens, and as whom to connect."""

    host: str
    port: int
    client_id: int
    zone: tzinfo
    """The zone of times that name none."""
    answer_s: float = 5.0
    """How long an answer may take, in seconds."""


class ReadingIB(IB):
    """The library's IB, for reading only.

    instead: who reads TWS's messages of a kind instead of the library.
    before: who reads them first.
    """

    def __init__(
        self, *, instead: Mapping[int, Reader], before: Mapping[int, Reader] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # They log every attempt and every fill; what matters is logged here, once.
        for part in ("client", "wrapper", "ib"):
            logging.getLogger(f"{IB.__module__.split('.')[0]}.{part}").setLevel(logging.CRITICAL)
        self.read_instead(instead)
        handlers: dict[int, Reader] = self.client.decoder.handlers
        for kind, reader in (before or {}).items():
            handlers[kind] = _both(reader, handlers[kind])

    def read_instead(self, readers: Mapping[int, Reader]) -> None:
        """Have TWS's messages of further kinds read instead of by the library."""
        self.client.decoder.handlers.update(readers)

    async def reqExecutionsAsync(self, execFilter: Any = None) -> list[Any]:  # noqa: ARG002, N802, N803
        """Ask for nothing; see `fetch_executions`."""
        return []

    def reqAutoOpenOrders(self, autoBind: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002, N802, N803
        """Ask to be told of orders given by hand; the library would have client 0 own them."""
        super().reqAutoOpenOrders(autoBind=False)

    def hang_up(self) -> None:
        """End the connection now, also one whose other end is gone without a word."""
        transport = self.client.conn.transport
        with suppress(OSError):  # of a socket that is no longer connected
            self.client.disconnect()  # type: ignore[no-untyped-call]
        if transport is not None:
            transport.abort()  # a plain close would wait for what is yet to be sent


def _both(first: Reader, second: Reader) -> Reader:
    def read(fields: list[str]) -> None:
        first(fields)
        second(fields)

    return read


async def connect(ib: ReadingIB, tws: Tws) -> None:
    """Connect for reading only.

    Raises TwsError as soon as it is clear that TWS will not have us; the library
    alone would wait for its time-out.
    """
    codes: set[int] = set()
    connecting = asyncio.ensure_future(
        ib.connectAsync(tws.host, tws.port, tws.client_id, tws.answer_s, readonly=True)
    )
    # If we are cancelled meanwhile, nobody else looks at how it ends.
    connecting.add_done_callback(lambda done: done.cancelled() or done.exception())

    def on_error(_request: int, code: int, _text: str, _contract: Any) -> None:
        codes.add(code)

    def on_hang_up(_text: str) -> None:
        connecting.cancel()

    ib.errorEvent += on_error
    ib.client.conn.disconnected += on_hang_up
    try:
        await asyncio.wait({connecting})
    finally:
        connecting.cancel()
        ib.errorEvent -= on_error
        ib.client.conn.disconnected -= on_hang_up
    if connecting.cancelled() or connecting.exception():
        error = None if connecting.cancelled() else connecting.exception()
        if CLIENT_ID_TAKEN in codes:
            taken = f"client id {tws.client_id} is in use by another program; set IBKR_CLIENT_ID"
            raise ClientIdTakenError(taken)
        raise TwsError(_reason(tws, error)) from error
    _receive_little(ib)


def _receive_little(ib: ReadingIB) -> None:
    transport = ib.client.conn.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_AT_ONCE)


def _reason(tws: Tws, error: BaseException | None) -> str:
    where = f"{tws.host}:{tws.port}"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}; is TWS or Gateway running, with its API enabled?"
    if isinstance(error, TimeoutError):
        return f"no answer from {where} within {tws.answer_s:g} s"
    if error is None or isinstance(error, ConnectionError):
        return f"{where} closed the connection"
    return f"{where}: {error}"


async def fetch_executions(ib: IB, answer_s: float, heard: Callable[[], int]) -> bool:
    """Have TWS list all executions, to whom reads them.

    heard: how many executions TWS has listed so far. Returns whether TWS said that these
    are all; not if none came for `answer_s` seconds, but what comes later still
    arrives. Raises ConnectionError if the connection is lost.
    """
    client: Any = ib.client
    wrapper: Any = ib.wrapper
    request = client.getReqId()
    ended = wrapper.startReq(request)
    client.reqExecutions(request, ExecutionFilter())
    try:
        before = -1
        while not ended.done() and heard() != before:
            before = heard()
            await asyncio.wait({ended}, timeout=answer_s)
        if ended.done():
            ended.result()
        return bool(ended.done())
    finally:
        # Else the library would keep, for ever, a request that is never answered.
        wrapper._endReq(request)  # noqa: SLF001


_FIRST_OF_MARKET_DATA = 1_000_000_000


def market_data_numbers() -> Iterator[int]:
    """Yield numbers for requests that the library's own, counted from 1, never reach."""
    return itertools.count(_FIRST_OF_MARKET_DATA)


def is_of_market_data(request: int) -> bool:
    """Tell whether a request's number is one of `market_data_numbers`."""
    return request >= _FIRST_OF_MARKET_DATA


async def contract_details(ib: IB, con_id: int, answer_s: float) -> ContractDetails | None:
    """Ask what a contract is, also one that has expired; None if TWS does not say.

    Raises TimeoutError, and ConnectionError if there is no connection.
    """
    asked = LibraryContract(conId=con_id, includeExpired=True)
    async with asyncio.timeout(answer_s):
        found = await ib.reqContractDetailsAsync(asked)
    return next((each for each in found if each.contract), None)


def waits() -> Iterator[float]:
    """Yield the seconds to wait before each further attempt."""
    wait = FIRST_WAIT_S
    while True:
        yield wait + random.uniform(0, FIRST_WAIT_S)  # noqa: S311
        wait = min(2 * wait, LONGEST_WAIT_S)
