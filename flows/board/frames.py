"""What the open pages are told: everything once, then what has changed."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from connectors.redis.overview import Overview, OverviewReader, Position, RedisAwayError
from connectors.redis.worth import Worth
from flows.board.past import Past, read_past
from flows.common.overview import Rate, base_words, break_words, broker_words, flow_words

log = logging.getLogger("lotstream.board")

LOOK_EVERY_S = 0.4
_BEHIND = 200
"""Frames kept for a page that does not take them, before it has to ask for all again."""


class Board:
    """What all open pages are told."""

    def __init__(self, reader: OverviewReader, data_dir: Path) -> None:
        self._reader, self.data_dir = reader, data_dir
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
            rows = await asyncio.to_thread(read_past, self.data_dir)
            self._past.begin(rows, overview.positions)
        except (OSError, pl.exceptions.PolarsError) as error:
            log.warning("the curves begin now, as the past cannot be read: %s", error)
        self._changes(overview)

    def _changes(self, overview: Overview) -> dict[str, Any]:
        last, self._overview = self._overview, overview
        before, now = last.positions, overview.positions
        changed = [key for key in now if before.get(key) is not now[key]]
        gone = [key for key in before if key not in now]
        worth = {key: it for key, it in overview.worth.items() if last.worth.get(key) != it}
        if not (changed or gone or worth) and bool(last.worth) == bool(overview.worth):
            return {}
        for key in gone:
            self._past.sparks.pop(key, None)
        points = self._past.note(overview, changed) if changed or gone else {}
        return {
            "rows": [_row(key, now[key]) for key in changed],
            "worth": [_worth(*item) for item in worth.items()],
            "gone": gone,
            "totals": _totals(overview),
            "points": list(points.items()),
        }

    def _everything(self) -> dict[str, Any]:
        positions = self._overview.positions
        return {
            "all": True,
            "rows": [_row(key, position) for key, position in positions.items()],
            "worth": [_worth(*item) for item in self._overview.worth.items()],
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
            "valued": bool(overview.worth),
            "base": _base(overview),
            "dead_letters": overview.dead_letters if seen else None,
            "broker": broker_words(overview.broker),
            "breaks": [break_words(*item) for item in overview.broker.breaks.items()],
            "accounts": [_account(*item) for item in overview.broker.figures.items()],
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

    async def frames(self) -> AsyncGenerator[str, None]:
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


def _row(key: str, position: Position) -> dict[str, Any]:
    """Return what the page knows of a position; figures as text, which is exact."""
    figures = (
        "qty", "avg_price", "last_price", "cost_basis", "realized_pnl", "net_realized_pnl",
        "commission",
    )  # fmt: skip
    return {
        "key": key,
        "account": position.account,
        "symbol": position.symbol,
        "currency": position.currency,
        **{name: _text(getattr(position, name)) for name in figures},
        "changed_at": position.changed_at,
        "stream_id": position.stream_id,
    }


def _worth(key: str, worth: Worth) -> dict[str, Any]:
    """Return what the page knows of a position's worth; what nobody knows is null."""
    figures = ("mark_price", "market_value", "unrealized_pnl", "day_pnl", "total_pnl")
    return {
        "key": key,
        **{name: _text(getattr(worth, name)) for name in figures},
        "mark_timestamp": worth.mark_timestamp,
        "state": worth.state,
    }


def _account(account: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the broker says of an account; figures are texts already."""
    figures = {name: about[name] for name in ("net_liquidation", "buying_power", "cash")}
    orders = about["open_orders"]
    if orders is not None:
        orders = [{name: order[name] for name in _OF_AN_ORDER} for order in orders]
    return {"account": account, **figures, "open_orders": orders}


_OF_AN_ORDER = ("side", "qty", "symbol", "order_type", "limit_price", "stop_price", "status")


def _base(overview: Overview) -> dict[str, Any] | None:
    """Return the totals over all currencies, figures as text; None if nobody tells them."""
    base = overview.base
    if base is None or not overview.worth:
        return None
    figures = ("unrealized_pnl", "day_pnl", "total_pnl")
    return {
        "currency": base.base_currency,
        **{name: _text(getattr(base, name)) for name in figures},
        "lacks": base_words(base, overview.at_ms),
    }


def _totals(overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            name: _text(figure) if isinstance(figure, Decimal) else figure
            for name, figure in total._asdict().items()
        }
        for total in overview.totals
    ]


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")
