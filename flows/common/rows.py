"""What the rows of the data set `positions` tell: open lots, last executions, strategies.

From the Parquet files alone, as the flow has committed them. A key's rows are told to a
book once more (`state.retold`); a key whose rows do not tell all is named, with what is
missing, rather than shown with lots that may be wrong.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from connectors.parquet.tables import DATA_SETS
from state.exact import MONEY_PLACES, milliseconds, to_text
from state.retold import Told, retell
from state.retold import laid as retold_laid
from state.snapshot import OpenLot


class Shown(NamedTuple):
    """An open lot, as it is shown."""

    account: str | None
    symbol: str
    currency: str
    multiplier: Decimal
    qty: Decimal
    """Signed."""
    price: Decimal
    cost_basis: Decimal
    """Money, signed as the quantity."""
    opened: int
    """Milliseconds since 1970, UTC; of an opening: the time that it was told with."""
    age_s: int | None
    """Seconds from then; None for what an opening brought, as nobody knows."""
    exec_id: str


class Problem(NamedTuple):
    """A key whose lots its rows do not tell."""

    key: str
    text: str


def open_lots(
    data_dir: Path,
    key: str | None = None,
    *,
    at: datetime | None = None,
    known_at: datetime | None = None,
    now: datetime,
) -> Iterator[Shown | Problem]:
    """Yield the open lots of a key, or of all, in order of keys, the oldest first.

    at: those open at a moment, by what is known; known_at: by what had arrived by then.
    now: from when ages count.
    """
    for name, rows in _by_key(data_dir, key, known_at):
        told = [Told(*row) for row in rows.select(Told._fields).iter_rows()]
        try:
            lots = retell(told, name, None if at is None else milliseconds(at))
        except ValueError as error:
            yield Problem(name, str(error))
            continue
        dateless = {row.exec_id for row in told if row.type == "opening"}
        dateless = {each for each in dateless if not (each or "").startswith("flex-open-")}
        about = rows.select("account", "symbol", "currency", "multiplier").row(-1)
        for lot in lots:
            known = lot.exec_id not in dateless
            yield _shown(about, lot, (milliseconds(now) - lot.opened) // 1000 if known else None)


def _shown(about: tuple[Any, ...], lot: OpenLot, age_s: int | None) -> Shown:
    account, symbol, currency, multiplier = about
    return Shown(
        account, symbol, currency, _plain(multiplier), Decimal(to_text(lot.qty)),
        Decimal(to_text(lot.price)), Decimal(to_text(lot.cost, MONEY_PLACES)),
        lot.opened, age_s, lot.exec_id,
    )  # fmt: skip


def _plain(text: str) -> Decimal:
    """Read a decimal without the zeros that fill up its places."""
    return Decimal(text.rstrip("0").rstrip("."))


def _by_key(
    data_dir: Path, key: str | None, known_at: datetime | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    rows = scan(data_dir).with_columns(
        message_timestamp=pl.col("message_timestamp").dt.epoch("ms"),
    )
    if key is not None:
        rows = rows.filter(pl.col("key") == key)
    if known_at is not None:
        rows = rows.filter(pl.col("arrival") <= max(0, milliseconds(known_at)))
    wanted = rows.select("key", *_ARRIVAL, "account", "symbol", "currency", *Told._fields)
    in_order = wanted.sort("key", *_ARRIVAL).with_columns(pl.selectors.decimal().cast(pl.String))
    for (name,), of_key in in_order.collect().group_by("key", maintain_order=True):
        yield str(name), of_key


def has_rows(data_dir: Path, key: str) -> bool:
    """Tell whether a key has any."""
    return not scan(data_dir).filter(pl.col("key") == key).head(1).collect().is_empty()


def last_executions(data_dir: Path, key: str, count: int) -> list[dict[str, Any]]:
    """Return a key's latest rows but those of commissions, the one that arrived last first.

    `type`, `side`, `fill_qty` (0 for a bust), `fill_price`, `exec_id` and `order_ref` are
    the message's, `time` (ms) when it happened; `net_change` is what it added to net
    realized P&L, `qty` (signed) the position after it. Figures are plain, exact texts.
    """
    rows = (
        scan(data_dir)
        .filter((pl.col("key") == key) & (pl.col("type") != "commission"))
        .sort(_ARRIVAL, descending=True)
        .head(count)
        .select(
            "type", "side", "fill_qty", "fill_price", "exec_id", "order_ref", "qty",
            net_change="net_realized_pnl_change",
            time=pl.col("message_timestamp").dt.epoch("ms"),
        )
    )  # fmt: skip
    text = pl.selectors.decimal().cast(pl.String)
    plain = rows.with_columns(text.str.strip_chars_end("0").str.strip_chars_end("."))
    return plain.collect().to_dicts()


def laid(data_dir: Path) -> dict[tuple[str, str], Decimal]:
    """Return by key and entry what it changed of what `cost` messages laid on the key.

    A late execution changes it too, as it was held when money was laid. Without keys whose
    rows do not tell all.
    """
    changes: dict[tuple[str, str], Decimal] = {}
    is_cost = pl.col("type") == "cost"
    keys = scan(data_dir).filter(is_cost).select("key").unique().collect().to_series()
    for key in keys:
        for name, rows in _by_key(data_dir, key, None):
            told = (Told(*row) for row in rows.select(Told._fields).iter_rows())
            with suppress(ValueError):
                sums = [0, *retold_laid(told, name)]
                entries = rows.select(*_ARRIVAL).iter_rows()
                for (arrival, number), (before, after) in zip(entries, pairwise(sums), strict=True):
                    changes[name, f"{arrival}-{number}"] = Decimal(to_text(after - before))
    return changes


def keys_by_strategy(data_dir: Path, strategy: str | None = None) -> dict[str, list[str]]:
    """Return the keys that have rows of a strategy (`order_ref`), or those of every strategy."""
    rows = scan(data_dir).filter(
        pl.col("order_ref") != "" if strategy is None else pl.col("order_ref") == strategy
    )
    found: dict[str, list[str]] = {}
    pairs = rows.select("order_ref", "key").unique().sort("order_ref", "key").collect()
    for name, key in pairs.iter_rows():
        found.setdefault(name, []).append(key)
    return found


_ARRIVAL = ("arrival", "number")
"""The two halves of an entry's id."""


def days(data_set: Path) -> list[Path]:
    """Return the directories of a data set's days, in order; none if it is not there.

    Raises OSError, as the next two do, if one cannot be read; `glob` would find nothing there.
    """
    try:
        return sorted(path for path in data_set.iterdir() if path.name.startswith("date="))
    except FileNotFoundError:
        return []


def files_of(day: Path) -> list[Path]:
    """Return the files of a day, in order."""
    return sorted(path for path in day.iterdir() if path.suffix == ".parquet")


def all_files(data_set: Path) -> list[Path]:
    """Return the files of all days, in order."""
    return [path for day in days(data_set) for path in files_of(day)]


def scan(
    data_dir: Path, data_set: str = "positions", files: list[Path] | None = None
) -> pl.LazyFrame:
    """Return the rows of a data set, each with its `key`, `arrival` and `number`.

    files: only what these have. What an older version did not write is null.
    """
    schema = pl.DataFrame(DATA_SETS[data_set].empty_table()).schema
    files = all_files(data_dir / data_set) if files is None else files
    rows = pl.LazyFrame(schema=schema)
    if files:
        rows = pl.scan_parquet(files, glob=False, missing_columns="insert", schema=schema,
                               extra_columns="ignore", hive_partitioning=False)  # fmt: skip
    entry = pl.col("stream_id").str.split_exact("-", 1).struct
    return rows.with_columns(
        key=pl.concat_str("account", "symbol", separator=":", ignore_nulls=True),
        arrival=entry.field("field_0").cast(pl.UInt64),
        number=entry.field("field_1").cast(pl.UInt64),
    )
