"""A call that blocks: its result, its error, and an end that does not wait for it."""

import asyncio
import threading
from threading import Event

import pytest

from flows.common.threads import in_daemon_thread


def test_what_it_returns_or_raises_is_had_by_the_one_who_awaits() -> None:
    def fails() -> None:
        raise SystemExit("no more")

    assert asyncio.run(in_daemon_thread(lambda: 7)) == 7
    with pytest.raises(SystemExit, match="no more"):
        asyncio.run(in_daemon_thread(fails))


def test_one_that_is_given_up_delays_no_end_and_its_result_is_nobodys() -> None:
    go_on, began, threads = Event(), Event(), list[threading.Thread]()

    def blocks() -> None:
        threads.append(threading.current_thread())
        began.set()
        go_on.wait(20)

    async def give_up(*, waits: bool) -> list[object]:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: wrong.append(what))
        task = asyncio.create_task(in_daemon_thread(blocks))
        await asyncio.to_thread(began.wait)
        task.cancel()
        await asyncio.wait([task])
        if waits:
            go_on.set()
            await asyncio.to_thread(threads[-1].join)
            await asyncio.sleep(0.01)
        return wrong

    assert asyncio.run(give_up(waits=False)) == []
    assert threads[0].daemon
    began.clear()
    go_on.set()  # the loop of the first is closed: its thread ends in silence
    threads[0].join()
    go_on.clear()
    assert asyncio.run(give_up(waits=True)) == []
