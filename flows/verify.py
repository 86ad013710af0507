"""Is what is kept still what was written: `python -m flows.verify -r RECOVERY`.

First each file alone, by its checksum: Bytewax's snapshots, the books, the manifests, the
Parquet parts. Then, if all are whole, against each other, as of the last committed entry:
each position's snapshot is what its book comes to; its last row says the same; its closed
lots add up to what it has realized; the hash has it, or a later one.

It only reads, so a flow may go on meanwhile. What is seen while that writes may fit
together badly for a moment: damage is what is still there when one looks again.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import polars as pl
import redis
import typer
from rich.console import Console

from connectors import book_store
from connectors.book_store import BookStoreError
from connectors.kept import DamagedError
from connectors.parquet import minutes
from connectors.parquet.files import DataDirError, is_whole, manifests, read_manifest
from connectors.parquet.tables import DATA_SETS
from connectors.redis.hash_sink import to_json
from flows.common.doors import app_of, enter, flows_directory
from flows.common.logs import set_up_logging
from flows.common.progress import Work
from flows.common.rows import all_files, scan
from flows.common.settings import Settings, load_settings
from flows.job import recovery
from flows.job.names import POSITION_ID
from state.exact import MONEY_PLACES
from state.records import FIRST_ID, id_order
from state.snapshot import PositionSnapshot

_LOOKS, _BETWEEN_S = 3, 1.0


class Damage(NamedTuple):
    """What is not as it was written."""

    where: str
    """The file, or what does not fit together."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Kept(NamedTuple):
    """A position as the recovery directory has it."""

    stream: str
    key: str
    symbol: str
    account: str | None
    last_id: str
    """The last entry that its book has."""
    shown_id: str
    """The entry that caused the snapshot."""
    position: PositionSnapshot | None
    """None if nothing was shown yet."""


def main(
    directory: Annotated[
        Path | None,
        typer.Option(
            "-r",
            "--recovery",
            metavar="DIR",
            help="The flow's recovery directory.",
            show_default="DATA_DIR/recovery, if it is there",
        ),
    ] = None,
) -> None:
    """Read all that is kept, and name what is damaged; exit 1 if anything is."""
    settings = load_settings()
    set_up_logging(settings)
    if directory is None and recovery.is_initialised(settings.data_dir / "recovery"):
        directory = settings.data_dir / "recovery"
    if directory is not None and not recovery.is_initialised(directory):
        raise SystemExit(f"lotstream: -r: expected a recovery directory, found none at {directory}")
    flows_directory(settings.data_dir)
    found = verify(settings, directory)
    for damage in found:
        print(damage)
    if found:
        raise SystemExit(1)
    print("All is as it was written." if directory else "All of DATA_DIR is as it was written; "
          "-r names the recovery directory, which was not looked at.")  # fmt: skip


def verify(settings: Settings, directory: Path | None) -> list[Damage]:
    """Return what is damaged; nothing of it goes away by itself."""
    found: list[Damage] = []
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_S)
        seen = _look(settings, directory)
        found = [damage for damage in seen if not look or damage in found]
        if not found:
            break
    return found


def _look(settings: Settings, directory: Path | None) -> list[Damage]:
    found = list(_files(settings.data_dir, directory))
    if found:
        return found
    if directory is None:
        return []
    kept = list(_positions(directory))
    shown = [(one, one.position) for one in kept if one.position is not None]
    return [*_books(directory, kept), *_rows(settings.data_dir, shown), *_hash(settings, shown)]


# --- each file alone --------------------------------------------------------------------


def _files(data_dir: Path, directory: Path | None) -> Iterator[Damage]:
    checks: list[tuple[Path, Callable[[Path], object]]] = []
    if directory is not None:
        checks += [(path, recovery.check_file) for path in recovery.store_files(directory)]
        checks += [(path, book_store.check_file) for path in book_store.store_files(directory)]
    checks += [(path, read_manifest) for path in manifests(data_dir)]
    for data_set in (*DATA_SETS, minutes.DATA_SET):
        checks += [(path, _check_part) for path in all_files(data_dir / data_set)]
    sizes = [_size(path) for path, _ in checks]
    with Work("reading", "bytes", sum(sizes)) as work:
        for (path, check), size in zip(checks, sizes, strict=True):
            yield from _check(path, check)
            work.advance(size)


def _check(path: Path, check: Callable[[Path], object]) -> Iterator[Damage]:
    try:
        check(path)
    except FileNotFoundError:
        return  # `flows.compact` has put another in its place
    except (recovery.RecoveryError, BookStoreError, DataDirError, DamagedError) as error:
        yield Damage(str(path), str(error).removeprefix(f"{path} is ").removeprefix(f"{path}: "))
    except OSError as error:
        yield Damage(str(path), f"cannot be read: {error.strerror}")
    except sqlite3.Error as error:
        yield Damage(str(path), f"cannot be read: {error}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # gone, or its check says more


def _check_part(path: Path) -> None:
    if is_whole(path) is False:  # a file without a checksum is not the flow's
        raise DamagedError("damaged: its checksum is not that of its name")


# --- against each other -----------------------------------------------------------------


def _positions(directory: Path) -> Iterator[Kept]:
    for _, key, values in recovery.read_snapshots(directory, [POSITION_ID]):
        _, stream, _, symbol, account, last_id, shown_id, shown = values
        position = shown and PositionSnapshot(*shown)
        yield Kept(stream, key, symbol, account, last_id, shown_id, position)


def _books(directory: Path, kept: list[Kept]) -> Iterator[Damage]:
    where, reached = str(directory), recovery.resumed_at(directory)
    with Work("booking again", "positions", len(kept)) as work:
        for one in kept:
            yield from _book(directory, one, reached.get(one.stream, FIRST_ID))
            work.advance()
    newest = max(map(id_order, reached.values()), default=id_order(FIRST_ID))
    first = book_store.first_entries(directory)
    for key in sorted(first.keys() - {one.key for one in kept}):
        if first[key] <= newest:
            yield Damage(where, f"expected a snapshot of {key!r}, whose book is kept; found none")


def _book(directory: Path, one: Kept, reached: str) -> Iterator[Damage]:
    try:
        book, _ = book_store.read_book(
            directory, one.key, one.symbol, one.account, one.last_id, reached
        )
    except BookStoreError as error:
        yield Damage(str(directory), str(error))
        return
    if one.position is not None and book.snapshot() != one.position:
        yield Damage(
            str(directory),
            f"expected the snapshot of {one.key!r} after {one.last_id} to be what its book "
            f"comes to, {book.snapshot()}, found {one.position}",
        )


_Shown = list[tuple[Kept, PositionSnapshot]]


def _rows(data_dir: Path, kept: _Shown) -> Iterator[Damage]:
    if not kept:
        return
    upto = pl.LazyFrame(
        [(one.account, one.symbol, *id_order(one.shown_id)) for one, _ in kept],
        schema={"account": pl.String, "symbol": pl.String, "ms": pl.UInt64, "seq": pl.UInt64},
        orient="row",
    )
    rows = _read(data_dir, "positions", upto, _last_rows)
    closed = _read(data_dir, "closed_lots", upto, _sums)
    for one, position in kept:
        key = (one.account, one.symbol)
        wanted = {
            "stream_id": one.shown_id, "qty": _decimal(position.qty, 10),
            "cost_basis": _decimal(position.cost_basis, MONEY_PLACES),
            "realized_pnl": _decimal(position.realized_pnl, MONEY_PLACES),
            "net_realized_pnl": _decimal(position.net_realized_pnl, MONEY_PLACES),
            "open_lots": position.open_lots, "executions": position.executions,
        }  # fmt: skip
        row = rows.get(key)
        if row != wanted:
            found = "none" if row is None else _shown(row)
            yield Damage(
                str(data_dir / "positions"),
                f"expected the last row of {one.key!r} to say {_shown(wanted)}, found {found}",
            )
        realized = closed.get(key, Decimal(0))
        if realized != wanted["realized_pnl"]:
            yield Damage(
                str(data_dir / "closed_lots"),
                f"expected the rows of {one.key!r} to add up to {wanted['realized_pnl']}, found "
                f"{realized}",
            )


_Read = Callable[[pl.LazyFrame], dict[tuple[str | None, str], Any]]


def _read(
    data_dir: Path, data_set: str, upto: pl.LazyFrame, read: _Read
) -> dict[tuple[str | None, str], Any]:
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_S)
        # `flows.compact` may put one file in the place of several meanwhile.
        with suppress(FileNotFoundError):
            return read(_upto(data_dir, data_set, upto))
    raise SystemExit(
        f"lotstream: {data_dir / data_set}: its files are being replaced; run this again when "
        f"flows.compact is done"
    )


def _upto(data_dir: Path, data_set: str, upto: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows of each key up to the entry that its position is of."""
    arrival, number = pl.col("arrival"), pl.col("number")
    rows = scan(data_dir, data_set).join(upto, on=["account", "symbol"], nulls_equal=True)
    return rows.filter(
        (arrival < pl.col("ms")) | ((arrival == pl.col("ms")) & (number <= pl.col("seq")))
    )


_FIGURES = (
    "stream_id", "qty", "cost_basis", "realized_pnl", "net_realized_pnl", "open_lots", "executions",
)  # fmt: skip


def _last_rows(rows: pl.LazyFrame) -> dict[tuple[str | None, str], dict[str, object]]:
    last = rows.sort("arrival", "number").group_by("account", "symbol").last()
    found = last.select("account", "symbol", *_FIGURES).collect()
    return {
        (row["account"], row["symbol"]): {name: row[name] for name in _FIGURES}
        for row in found.iter_rows(named=True)
    }


def _sums(rows: pl.LazyFrame) -> dict[tuple[str | None, str], Decimal]:
    found = rows.group_by("account", "symbol").agg(pl.col("realized_pnl").sum()).collect()
    return {(account, symbol): realized for account, symbol, realized in found.iter_rows()}


def _decimal(units: int, places: int) -> Decimal:
    return Decimal(f"{units}E-{places}")  # exact, whatever the context


def _shown(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def _hash(settings: Settings, kept: _Shown) -> Iterator[Damage]:
    if not kept:
        return
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    try:
        values = client.hmget(settings.positions_hash, [one.key for one, _ in kept])
    except redis.RedisError as error:
        Console(stderr=True).print(f"The hash was not looked at: {error}", highlight=False)
        return
    where = f"hash {settings.positions_hash}"
    for (one, position), value in zip(kept, values, strict=True):
        wanted = to_json(position, one.shown_id)
        if not isinstance(value, bytes):
            yield Damage(where, f"expected the position of {one.key!r}, found none")
            continue
        shown_id = _stream_id(value)
        if shown_id is None or id_order(shown_id) < id_order(one.shown_id) or (
            shown_id == one.shown_id and value.decode() != wanted
        ):  # fmt: skip
            yield Damage(where, f"expected {one.key!r} to be {wanted}, found {value!r}")


def _stream_id(value: bytes) -> str | None:
    try:
        shown_id = str(json.loads(value)["stream_id"])
        id_order(shown_id)
    except (ValueError, KeyError, TypeError):
        return None
    return shown_id


app = app_of(main)

if __name__ == "__main__":
    enter(app, "verify")
