"""More partitions for the stream, or other processes for them: `python -m flows.rescale`.

    python -m flows.rescale --to 4 --from data/recovery --into 'data/recovery-{}'

Run it while neither producers nor flows run; the page docs/scaling.md has the
procedure. Each stream becomes some new ones, each key's entries into the one where the
key now lives. The one idea: an entry keeps its id. So all that was written by id stays
true (positions, Parquet rows, dead letters, books), and the recovery state moves on
without being worked out anew, also that of a stream whose beginning was trimmed.

All is made ready beside what is in use. One transaction puts it in place, and fails if
a producer has written meanwhile. Until then nothing has changed, so a run that was cut
off, wherever it was, is done again with the same options. What it cannot do it refuses:
fewer partitions, or a number that is no multiple of the old one, since then entries of
two streams would become one stream's, and their ids could be equal.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Annotated, Any, NamedTuple

import redis
import typer
from redis.client import Pipeline

from connectors.book_store import copy_books
from connectors.codec import decode
from connectors.file_lock import LockedError
from connectors.parquet.files import DataDirError, StreamFiles
from connectors.redis.letters import keys_beside
from connectors.redis.link import RedisLink, can_pass, explain, newest_id, send
from connectors.redis.names import GROUP, count_key, once_keys, trace_stream
from connectors.redis.partitions import recorded
from flows.common.doors import app_of, enter
from flows.common.logs import set_up_logging
from flows.common.progress import Work
from flows.common.settings import Settings, load_settings, partition_names
from flows.job import recovery
from flows.job.names import PARQUET_ID, POSITION_ID, SOURCE_ID
from state.keys import partition_of, position_key
from state.messages import RejectedError
from state.records import FIRST_ID, id_order

_PAGE = 1000

Layout = Mapping[Path, Sequence[int]]
"""The partitions whose state each recovery directory is to have."""


class RescaleError(Exception):
    """What was asked for cannot be done as things are; nothing has changed."""


class _Progress(NamedTuple):
    """How far the flow is in a stream."""

    last_id: str = FIRST_ID
    """The last entry that it has read."""
    entries_read: int = 0


class _Rows(NamedTuple):
    """Which entries of a stream have their rows in Parquet."""

    first: str = FIRST_ID
    last: str = FIRST_ID


_UNREAD, _NO_ROWS = _Progress(), _Rows()


@dataclass
class _Part:
    """A stream as it is to be."""

    stream: str
    progress: _Progress = _UNREAD
    rows: _Rows = _NO_ROWS
    entries: int = 0
    newest: str = FIRST_ID


class _State(NamedTuple):
    """What the recovery directories have."""

    progress: dict[str, _Progress]
    """By stream."""
    positions: dict[str, tuple[Any, ...]]
    """By key: the recovery snapshot of each position."""
    last_rows: dict[str, str]
    """By stream: the entry up to which DATA_DIR must have the rows."""
    directories: Sequence[Path]


# --- recovery directories -------------------------------------------------------------


def read_layout(texts: Iterable[str], partitions: int) -> Layout:
    """Read which recovery directory is to have which partitions.

    texts: `DIR` has all, `DIR=0,2` these, and `DIR-{}` stands for one directory each.
    Raises RescaleError unless each partition is in exactly one of them.
    """
    layout: dict[Path, Sequence[int]] = {}
    for text in texts:
        name, equals, parts = text.rpartition("=")
        if "{}" in text:
            layout |= {Path(text.replace("{}", str(part))): [part] for part in range(partitions)}
        elif equals:
            layout[Path(name)] = _numbers(parts, text)
        else:
            layout[Path(text)] = range(partitions)
    given = sorted(part for parts in layout.values() for part in parts)
    if given != list(range(partitions)):
        raise RescaleError(
            f"--into: expected each partition from 0 to {partitions - 1} once, found "
            f"{', '.join(map(str, given)) or 'none'}"
        )
    return layout


def _numbers(text: str, whole: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise RescaleError(f"--into: expected DIR=0,2, DIR-{{}} or DIR, found {whole!r}") from None


def read_state(directories: Sequence[Path], streams: Sequence[str]) -> _State:
    """Lock recovery directories and read what the flow's last complete epochs left there.

    Raises LockedError if a flow uses one, RecoveryError if one is of another version, and
    RescaleError unless each stream is in one.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise RescaleError("--from: expected each recovery directory once, found one twice")
    state = _State({}, {}, {}, directories)
    for directory in directories:
        if not recovery.is_initialised(directory):
            raise RescaleError(f"--from: expected a recovery directory, found {str(directory)!r}")
        recovery.prepare(directory, None)
        for step, key, values in recovery.read_snapshots(directory):
            if step == SOURCE_ID and key in state.progress:
                raise RescaleError(f"--from: stream {key!r} is in two of the directories")
            if step == SOURCE_ID:
                state.progress[key] = _Progress(*values)
            elif step == PARQUET_ID:
                [state.last_rows[key]] = values
            elif step == POSITION_ID:
                state.positions[key] = values
    if directories and set(state.progress) != set(streams):
        raise RescaleError(
            f"--from: expected the recovery directories of {', '.join(streams)}, found those of "
            f"{', '.join(sorted(state.progress)) or 'none'}"
        )
    return state


def write_state(state: _State, parts: Sequence[_Part], layout: Layout) -> None:
    """Make the new recovery directories."""
    for directory, numbers in layout.items():
        own = {parts[number].stream for number in numbers}

        def stream_of(key: str) -> str:
            return parts[partition_of(key, len(parts))].stream

        snapshots: list[recovery.Snapshot] = [
            (SOURCE_ID, part.stream, tuple(part.progress)) for part in parts if part.stream in own
        ]
        for key, (version, _, *rest) in state.positions.items():
            if (stream := stream_of(key)) in own:
                snapshots.append((POSITION_ID, key, (version, stream, *rest)))
        with recovery.new_store(directory, snapshots) as making:
            copy_books(state.directories, making, lambda key: stream_of(key) in own)  # noqa: B023
        print(f"{directory}: partitions {', '.join(map(str, numbers))}")


# --- streams --------------------------------------------------------------------------


class _Parent:
    """A stream that is to become others."""

    def __init__(
        self, client: redis.Redis, stream: str, number: int, progress: _Progress, rows: _Rows
    ) -> None:
        self._client, self._stream, self._number = client, stream, number
        self._progress, self._rows = progress, rows
        info = dict(client.xinfo_stream(stream)) if client.exists(stream) else {}
        self._counts = "entries-added" in info  # since Redis 7
        self.entries = int(info.get("length", 0))
        self._gone = info.get("entries-added", 0) - info.get("length", 0) if self._counts else 0
        self._deleted = _text(info.get("max-deleted-entry-id", FIRST_ID))
        lacks_first = rows.first != FIRST_ID and not _holds(client, stream, rows.first)
        self.is_trimmed = self._gone > 0 or lacks_first

    def split(self, parts: Sequence[_Part], parents: int, work: Work) -> None:
        """Copy its entries to beside the streams that they are for, ids and all.

        parts: all the streams that are to be. parents: how many there are so far. work: counts
        the entries.
        Raises RescaleError if it lacks the entry that the flow has read last.
        """
        own = parts[self._number :: parents]
        for part in own:
            self._client.delete(_beside(part.stream))
        for page in self._pages():
            with self._client.pipeline(transaction=False) as pipe:
                for entry_id, fields in page:
                    heir = parts[self._home(fields, len(parts), parents)]
                    for part in own if self._must_stay(entry_id.decode()) else [heir]:
                        send(pipe, "XADD", _beside(part.stream), entry_id, *fields)
                        self._count(part, entry_id.decode())
                pipe.execute()
            work.advance(len(page))
        for part in own:
            self._finish(part)

    def _pages(self) -> Iterator[list[tuple[bytes, list[bytes]]]]:
        start = "-"
        while page := send(self._client, "XRANGE", self._stream, start, "+", "COUNT", _PAGE):
            yield page
            start = f"({page[-1][0].decode()}"

    def _home(self, fields: list[bytes], partitions: int, parents: int) -> int:
        """Return where an entry belongs; one that the flow refused stays where it can."""
        try:
            symbol, account, _ = decode(fields)
        except RejectedError:
            return self._number
        home = partition_of(position_key(symbol, account), partitions)
        return home if home % parents == self._number else self._number

    def _must_stay(self, entry_id: str) -> bool:
        # Of a stream that was trimmed the flow wants to find the last entry it has read.
        return self.is_trimmed and entry_id == self._progress.last_id

    def _count(self, part: _Part, entry_id: str) -> None:
        part.entries, part.newest = part.entries + 1, entry_id
        if id_order(entry_id) <= id_order(self._progress.last_id):
            part.progress = _Progress(entry_id, part.progress.entries_read + 1)
        if id_order(entry_id) <= id_order(self._rows.last):
            first = entry_id if part.rows.first == FIRST_ID else part.rows.first
            part.rows = _Rows(first, entry_id)

    def _finish(self, part: _Part) -> None:
        """Give the copy what it must know beside its entries."""
        if self.is_trimmed:
            if part.progress.last_id != self._progress.last_id:
                raise RescaleError(
                    f"stream {self._stream!r}: expected entry {self._progress.last_id}, which the "
                    f"flow has read last, found it gone; start the flow and see what it says"
                )
            # Nobody can tell which part's entries they were: each lacks its beginning.
            read = part.progress.entries_read + self._gone
            part.progress = part.progress._replace(entries_read=read)
            part.rows = part.rows._replace(first=self._rows.first)
        copy = _beside(part.stream)
        read_too = ("ENTRIESREAD", part.progress.entries_read) if self._counts else ()
        last_id = part.progress.last_id
        send(self._client, "XGROUP", "CREATE", copy, GROUP, last_id, "MKSTREAM", *read_too)
        if self._gone:
            deleted = min(self._deleted, part.newest, key=id_order)
            added = part.entries + self._gone
            send(
                self._client, "XSETID", copy, part.newest,
                "ENTRIESADDED", added, "MAXDELETEDID", deleted,
            )  # fmt: skip


def _holds(client: redis.Redis, stream: str, entry_id: str) -> bool:
    return bool(send(client, "XRANGE", stream, entry_id, entry_id))


def _beside(stream: str) -> str:
    return f"{stream}:rescaling"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _Names(NamedTuple):
    """The streams of one number of partitions."""

    streams: list[str]
    dead_letters: list[str]

    @classmethod
    def of(cls, settings: Settings, partitions: int) -> "_Names":
        return cls(
            partition_names(settings.executions_stream, partitions),
            partition_names(settings.dead_letter_stream, partitions),
        )


def put_in_place(
    client: redis.Redis, switch: Pipeline, settings: Settings, old: _Names, new: _Names
) -> None:
    """Make the copies the streams, all at once, and move what belongs to them.

    switch: watches the old streams since before they were copied.
    Raises RescaleError if one has changed since.
    """
    newest_dead = [newest_id(client, stream) for stream in old.dead_letters]
    switch.multi()
    for number, stream in enumerate(new.streams):
        parent = number % len(old.streams)
        switch.rename(_beside(stream), stream)
        # Let the new streams know which messages and letters they had once, as nobody
        # knows whose they are.
        _copy_keys(switch, once_keys(old.streams[parent])[1:], once_keys(stream)[1:])
        beside = keys_beside(old.dead_letters[parent])
        _copy_keys(switch, beside, keys_beside(new.dead_letters[number]))
        if new.dead_letters[number] not in old.dead_letters and newest_dead[parent] != FIRST_ID:
            _begin_dead_letters(switch, old, new, number, newest_dead[parent])
    for stream in set(old.streams) - set(new.streams):
        for name in once_keys(stream):
            switch.delete(name)
        # So that a producer which still writes here, where nobody reads now, is refused.
        switch.set(stream, f"moved by flows.rescale to {', '.join(new.streams)}")
    switch.set(count_key(settings.executions_stream), len(new.streams))
    try:
        switch.execute()
    except redis.WatchError:
        raise RescaleError(
            f"{', '.join(old.streams)}: expected no new entries meanwhile, found some; stop all "
            f"producers, then run this again"
        ) from None


def _copy_keys(switch: Pipeline, old: Sequence[str], new: Sequence[str]) -> None:
    for source, target in zip(old, new, strict=True):
        if source != target:
            switch.copy(source, target, replace=True)


def _begin_dead_letters(
    switch: Pipeline, old: _Names, new: _Names, number: int, newest: str
) -> None:
    """Move the letters to the first of the new streams; let the others begin behind them."""
    stream = new.dead_letters[number]
    if number < len(old.streams):
        source = old.dead_letters[number]
        switch.rename(source, stream)
        # Of the letters that were handled there may be none, and so no stream to rename.
        switch.copy(trace_stream(source), trace_stream(stream), replace=True)
        switch.delete(trace_stream(source))
    else:
        # Redis takes no id that is not above the newest: letters that an entry has had
        # are not written again, should it be read again.
        switch.xadd(stream, {"none": ""}, id=newest)
        switch.xdel(stream, newest)


# --- the command ----------------------------------------------------------------------


class _Rescaling:
    """One run: what there is, what is to be, and the steps between."""

    def __init__(self, settings: Settings, to: int, into: Sequence[str]) -> None:
        self._settings = settings
        self._client = RedisLink(settings.redis_url.get_secret_value(), Event()).client
        # redis-py makes a dict of an entry's fields, which loses repeated ones.
        self._client.set_response_callback("XRANGE", lambda reply, **_: reply)
        self._has = recorded(self._client, settings.executions_stream) or settings.stream_partitions
        if to % self._has:
            raise RescaleError(f"--to: expected a multiple of {self._has}, found {to}")
        self._old, self._new = _Names.of(settings, self._has), _Names.of(settings, to)
        self._layout = read_layout(into, to)
        self._files = {
            stream: StreamFiles(settings.data_dir, stream)
            for stream in dict.fromkeys(self._old.streams + self._new.streams)
        }

    def run(self, directories: Sequence[Path]) -> None:
        """Do it all, or what an earlier run that was cut off has left to do."""
        for files in self._files.values():
            files.lock()
        if self._has != len(self._new.streams) or not self._all_made():
            self._prepare_and_switch(directories)
        self._settle_rows()

    def _all_made(self) -> bool:
        return all(map(recovery.is_unused, self._layout))

    def _prepare_and_switch(self, directories: Sequence[Path]) -> None:
        self._refuse_what_is_in_the_way()
        state = read_state(directories, self._old.streams)
        self._refuse_other_data(state)
        if self._has == len(self._new.streams):
            if not directories:
                raise RescaleError(
                    f"--from: expected the recovery directories whose partitions are to move, as "
                    f"there are {self._has} already; found none"
                )
            parts = [_Part(stream, state.progress[stream]) for stream in self._new.streams]
            write_state(state, parts, self._layout)
            return
        with self._client.pipeline() as switch:
            switch.watch(*self._old.streams)  # type: ignore[no-untyped-call]
            parts = self._split(state)
            write_state(state, parts, self._layout)
            for part in parts:
                self._prepare_rows(part)
            os.sync()
            put_in_place(self._client, switch, self._settings, self._old, self._new)

    def _refuse_other_data(self, state: _State) -> None:
        for stream, last_row in state.last_rows.items():
            if id_order(has := self._files[stream].recover()) < id_order(last_row):
                raise RescaleError(
                    f"DATA_DIR: expected rows of stream {stream!r} up to entry {last_row}, as "
                    f"the recovery directory has it, found rows up to {has}; all flows' rows "
                    f"must be in one DATA_DIR"
                )

    def _refuse_what_is_in_the_way(self) -> None:
        for directory in self._layout:
            if directory.exists() and not recovery.is_unused(directory):
                raise RescaleError(
                    f"--into: expected directories that are not there yet, found {str(directory)!r}"
                )
        wanted = {*self._new.streams, *self._new.dead_letters}
        for stream in wanted - {*self._old.streams, *self._old.dead_letters}:
            if self._client.exists(stream):
                raise RescaleError(
                    f"stream {stream!r}: expected none of this name yet, found one; nobody has "
                    f"read it, so see what is in it, then rename or delete it"
                )

    def _split(self, state: _State) -> list[_Part]:
        parts = [_Part(stream) for stream in self._new.streams]
        parents = [self._parent(number, state) for number in range(self._has)]
        entries = sum(parent.entries for parent in parents)
        with Work("copying", "entries", entries) as work:
            for parent in parents:
                parent.split(parts, self._has, work)
        for part in parts:
            print(f"{part.stream}: {part.entries} entries, {part.progress.entries_read} read")
        return parts

    def _parent(self, number: int, state: _State) -> _Parent:
        stream = self._old.streams[number]
        self._files[stream].recover()  # also the half of a commit that a crash left
        rows = _Rows(*self._files[stream].written())
        progress = state.progress.get(stream, _UNREAD)
        parent = _Parent(self._client, stream, number, progress, rows)
        if parent.is_trimmed and not state.directories:
            raise RescaleError(
                f"--from: expected the recovery directories, since the beginning of stream "
                f"{stream!r} was trimmed and cannot tell positions; found none"
            )
        return parent

    def _prepare_rows(self, part: _Part) -> None:
        """Say which entries of a stream have their rows, as far as that is true already."""
        files = self._files[part.stream]
        files.first_id = part.rows.first
        if part.stream in self._old.streams:
            files.commit(files.written()[1])  # until the switch it has all its entries
        else:
            files.commit(part.rows.last)

    def _settle_rows(self) -> None:
        """Name, of a stream that kept its name but not all entries, one that it has.

        The flow wants to find the entry of the last rows.
        """
        for stream in set(self._old.streams) & set(self._new.streams):
            last_row = self._files[stream].recover()
            found = send(self._client, "XREVRANGE", stream, last_row, "-", "COUNT", 1)
            newest = found[0][0].decode() if found else FIRST_ID
            if newest != last_row:
                self._files[stream].commit(newest)


def rescale(
    to: Annotated[int, typer.Option(min=1, max=1000, help="How many partitions there are to be.")],
    into: Annotated[
        list[str],
        typer.Option(
            metavar="DIR[=0,2]",
            help="A new recovery directory, with the partitions whose state it is to have; "
            "all if it names none; one directory each if it has {} in its name.",
        ),
    ],
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="DIR", help="A recovery directory that is in use so far."),
    ] = None,
) -> None:
    """Give the stream more partitions, or their state to other processes.

    Stop producers and flows first. --from and --into may be given several times.
    """
    settings = load_settings()
    set_up_logging(settings)
    try:
        _Rescaling(settings, to, into).run(from_ or [])
    except (RescaleError, recovery.RecoveryError, LockedError, DataDirError) as error:
        raise SystemExit(f"lotstream: {error}") from None
    except redis.RedisError as error:
        why = f"Redis is away: {error}" if can_pass(error) else explain(error)
        raise SystemExit(f"lotstream: {why.rstrip('.')}; run this again") from None
    print(f"Done. Now start producers and flows, all with STREAM_PARTITIONS={to}.")


app = app_of(rescale)

if __name__ == "__main__":
    enter(app, "rescale")
