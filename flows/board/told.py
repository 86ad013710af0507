"""What the page asks for once in a while: a position's lots and executions, the strategies.

Read from the Parquet files, as of the flow's last commit, in a thread and one at a time, so
that neither the live page nor the flow waits for it. What goes wrong is told in words.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from starlette.requests import Request
from starlette.responses import JSONResponse

from flows.common.rows import Problem, keys_by_strategy, last_executions, open_lots

MOST_LOTS, MOST_EXECUTIONS, MOST_STRATEGIES = 200, 20, 200

Told = dict[str, Any]


class Teller:
    """Answers the page's questions of the files under a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._one_at_a_time = asyncio.Lock()

    async def position(self, request: Request) -> JSONResponse:
        """Tell a key's open lots and last executions."""
        key = request.query_params.get("key", "")
        return await self._answer(lambda: _position(self._data_dir, key))

    async def strategies(self, request: Request) -> JSONResponse:
        """Tell the strategies that there are, or the keys that have rows of one."""
        name = request.query_params.get("name")
        return await self._answer(lambda: _strategies(self._data_dir, name))

    async def _answer(self, read: Callable[[], Told]) -> JSONResponse:
        async with self._one_at_a_time:
            told = await asyncio.to_thread(_read, read)
        return JSONResponse(told)


def _read(read: Callable[[], Told]) -> Told:
    for _ in range(2):
        try:
            return {"problem": "", **read()}
        except (OSError, pl.exceptions.PolarsError) as error:
            # `flows.compact` may have put one file in the place of several: look again.
            problem = f"The Parquet files cannot be read: {error}"
    return {"problem": problem}


def _position(data_dir: Path, key: str) -> Told:
    found = list(open_lots(data_dir, key, now=datetime.now(UTC)))
    problems = [each.text for each in found if isinstance(each, Problem)]
    lots = [each for each in found if not isinstance(each, Problem)]
    return {
        "problem": "".join(problems),
        "lots": [
            {
                "opened": lot.opened, "dated": lot.age_s is not None, "exec_id": lot.exec_id,
                **{name: f"{getattr(lot, name):f}" for name in ("qty", "price", "cost_basis")},
            }
            for lot in lots[:MOST_LOTS]
        ],
        "lots_in_all": len(lots),
        "executions": last_executions(data_dir, key, MOST_EXECUTIONS),
    }  # fmt: skip


def _strategies(data_dir: Path, name: str | None) -> Told:
    if name is not None:
        return {"keys": keys_by_strategy(data_dir, name).get(name, [])}
    found = keys_by_strategy(data_dir)
    most_held = sorted(found, key=lambda each: (-len(found[each]), each))
    return {"strategies": sorted(most_held[:MOST_STRATEGIES]), "strategies_in_all": len(found)}
