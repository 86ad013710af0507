"""A model of what makes the flow exactly once, small enough to try everything that can happen.

A `World` is what lasts: the engine's store, the books, the manifest, Redis. A `Run` is what
a process has in memory, and dies with it. `steps` says what the program can do next: read so
many entries, let a key take its own, do one more step of an epoch's end. `faults` says what can
happen to it: a crash, a Redis that forgets its last writes. `explorer` tries all orders of these.

Each rule of the product is a name in `RULES`; what happens without one is here too. So a test
takes out one after the other, and sees that the explorer finds what goes wrong.

An entry is a number, a key's book the numbers of the entries that it took, in their order;
so a position is right if it has just its key's entries up to its own. An epoch's end is a
list of small steps for each worker, as in docs/exactly-once.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

RULES = {
    "scrub": "snapshots of an epoch that was cut off are deleted before a start",
    "slowest": "a start resumes where the slowest worker was",
    "barrier": "an epoch ends when all that it read is worked off",
    "books before": "the books are durable before the epoch is",
    "as of": "a book is loaded as of its snapshot's entry",
    "by id": "where a book's rows overlap, each entry is taken once",
    "rows before": "an epoch's rows are committed before it is durable",
    "manifest first": "the manifest is in place before the files appear",
    "finish": "a start puts in place what the manifest names",
    "skip": "rows up to the manifest's entry are passed over",
    "newer": "a field of the hash is only written by a newer entry",
    "hash first": "a position is in the hash before it is among the changes",
    "own id": "a change is written under its entry's id, above the newest only",
    "sorted": "changes are written in order of their entries",
    "hold": "what several workers changed waits for the end of the epoch",
    "hold first": "what a start shows again waits for the end of its first epoch",
    "show again": "a start shows each key's last position again",
    "after outage": "after an outage the latest positions are written again",
    "how far": "a write of changes says how far the stream was",
    "group after": "the group moves, and trims, behind what is durable",
    "anchor": "trimming keeps the entry that was read last",
}

T = TypeVar("T")

Book = tuple[int, ...]
Shown = tuple[int, Book]
"""A position, behind the entry that caused it."""
Change = tuple[int, str, Book]

NOTHING: Shown = (0, ())


class Violation(Exception):  # noqa: N818 - it is what is looked for
    """What a reader or a restart must never meet."""


@dataclass(frozen=True)
class Setting:
    """What is tried: entries by their keys, and how much may go wrong."""

    entries: str
    workers: int = 1
    crashes: int = 2
    forgets: int = 0
    """How often Redis may come back without its last writes, of hash and changes."""
    trims: bool = False
    loses_store: bool = False
    """Whether a crash may take the recovery directory along."""
    rules: frozenset[str] = frozenset(RULES)

    def key(self, entry: int) -> str:
        return self.entries[entry - 1]

    @cached_property
    def keys(self) -> str:
        return "".join(sorted(set(self.entries)))

    def book(self, key: str, upto: int) -> Book:
        """Return the book as it must be."""
        return tuple(n for n in range(1, upto + 1) if self.key(n) == key)

    @property
    def writes(self) -> list[str]:
        """Return what the sink writes to Redis, in its order."""
        return ["hash", "changes"] if "hash first" in self.rules else ["changes", "hash"]

    @cached_property
    def ends(self) -> list[list[str]]:
        """Return the steps at the end of an epoch, for each worker."""
        files = ["manifest", "publish"]
        files = files if "manifest first" in self.rules else files[::-1]
        ends = []
        for worker in range(self.workers):
            before = ["source"] * (worker == 0)
            before += ["books"] * ("books before" in self.rules) + ["tokens"]
            after = ["books"] * ("books before" not in self.rules)
            if worker == self.workers - 1:  # it has the sinks
                before += self.writes
                (before if "rows before" in self.rules else after).extend(files)
                before += ["parquet"]
            ends.append([*before, "front", *after])
        return ends


class World(NamedTuple):
    """What lasts. Of keys: in their order."""

    fronts: tuple[int, ...]
    """Of each worker, the epoch that it has not completed yet."""
    snaps: frozenset[tuple[str, int, Any]]
    """Of the engine: whose, of which epoch, what."""
    books: frozenset[tuple[str, int, Book]]
    """Key, the entry that its book had before, what it took then."""
    manifest: int
    named: tuple[Shown, ...]
    """Rows that the manifest names and that are not in place yet."""
    rows: tuple[Shown, ...]
    hash: tuple[Shown, ...]
    changes: tuple[Change, ...]
    group: int
    trimmed: int
    undo: tuple[tuple[tuple[Shown, ...], tuple[Change, ...]], ...]
    """Hash and changes before each of the last writes."""
    crashes: int
    forgets: int


class Run(NamedTuple):
    """What a run has in memory. Of keys: in their order."""

    epoch: int
    pos: int
    inbox: tuple[Book, ...]
    books: tuple[Book | None, ...]
    tokens: tuple[Shown, ...]
    unsaved: tuple[tuple[int, Book], ...]
    awake: frozenset[int]
    to_show: frozenset[int]
    written: int
    """Rows up to here are passed over."""
    new_rows: tuple[Shown, ...]
    for_hash: tuple[Shown, ...]
    untold: tuple[Shown, ...]
    """Delivered, and not yet among the changes."""
    latest: tuple[Shown, ...]
    """Delivered to the sink by this run."""
    told: int
    """The changes were written up to here."""
    newest: tuple[Shown, ...]
    """Of each key the change that was written last."""
    todo: tuple[str, ...]
    """What the sink does next, before anything else."""
    holds: bool
    ending: tuple[int, ...] | None
    """How far each worker is with the end of the epoch."""
    moved: bool
    """Whether the group is where it may be."""


def new_world(s: Setting) -> World:
    none = (NOTHING,) * len(s.keys)
    return World(
        (0,) * s.workers, frozenset(), frozenset(), 0, (), (), none, (), 0, 0, (),
        s.crashes, s.forgets,
    )  # fmt: skip


State = tuple[World, Run]


# --- a start -----------------------------------------------------------------------------------


def resume(s: Setting, w: World) -> tuple[int, Callable[[str, Any], Any]]:
    """Return the epoch to resume at, and what tells a part's snapshot there."""
    epoch = (min if "slowest" in s.rules else max)(w.fronts)

    def of(part: str, default: Any) -> Any:
        found = [(e, what) for whose, e, what in w.snaps if whose == part and e < epoch]
        return max(found, key=lambda one: one[0])[1] if found else default

    return epoch, of


def start(s: Setting, w: World) -> State:
    epoch, of = resume(s, w)
    if "scrub" in s.rules:
        w = w._replace(snaps=frozenset(one for one in w.snaps if one[1] < epoch))
    pos = of("source", 0)
    if w.trimmed > pos or (pos and w.trimmed == pos):
        raise Violation(f"a gap: read up to {pos}, trimmed up to {w.trimmed}")
    if w.manifest < of("parquet", 0):
        raise Violation("rows are missing that the engine's snapshot has")
    if "finish" in s.rules:
        w = w._replace(rows=w.rows + w.named, named=())
    tokens = tuple(of(key, NOTHING) for key in s.keys)
    n, none = len(s.keys), (NOTHING,) * len(s.keys)
    shown = frozenset(k for k in range(n) if tokens[k] != NOTHING and "show again" in s.rules)
    holds = (s.workers > 1 and "hold" in s.rules) or "hold first" in s.rules
    run = Run(
        epoch, pos, ((),) * n, (None,) * n, tokens, ((0, ()),) * n,
        frozenset(), shown, w.manifest if "skip" in s.rules else 0, (), none, none, none, 0, none,
        (), holds, None, moved=True,
    )  # fmt: skip
    return w._replace(fronts=(epoch,) * s.workers), run


def load(s: Setting, w: World, key: str, upto: int) -> Book:
    book: Book = ()
    last = 0
    for _, before, ids in sorted((row for row in w.books if row[0] == key), key=lambda r: r[2][-1]):
        if ids[-1] > upto and "as of" in s.rules:
            continue
        if before > last:
            raise Violation(f"the book of {key} lacks what came after {last}")
        new = tuple(n for n in ids if n > last) if "by id" in s.rules else ids
        book, last = book + new, max(last, ids[-1])
    if last < upto:
        raise Violation(f"the book of {key} is kept up to {last}, its snapshot is after {upto}")
    return book


# --- what can happen -----------------------------------------------------------------------------

Step = tuple[str, World, Run]


def put(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])


def steps(s: Setting, w: World, r: Run) -> Iterator[Step]:
    """Yield all that the program may do next, an undisturbed way to its end first."""
    if r.todo:
        yield (r.todo[0], *act(s, w, r._replace(todo=r.todo[1:]), r.todo[0]))
        return
    if r.ending is not None:
        for worker, end in enumerate(s.ends):
            if r.ending[worker] < len(end):
                what = end[r.ending[worker]]
                nw, nr = end_step(s, w, r, worker, what)
                yield f"{what}{worker}", nw, done(s, nr)
        return
    if not r.moved:
        yield "group", move_group(s, w, r), r._replace(moved=True)
        return
    yield from ((f"show {s.keys[k]}", *deliver(s, w, r, [k])) for k in sorted(r.to_show))
    if s.workers == 1:  # a read is worked off by all keys at once
        for pos in range(len(s.entries), r.pos, -1):
            yield (f"read to {pos}", *deliver(s, w, read(s, r, pos)))
    else:
        yield from ((f"turn of {s.keys[k]}", *deliver(s, w, r, [k])) for k in busy(r))
        if r.pos < len(s.entries):
            yield f"read {r.pos + 1}", w, read(s, r, r.pos + 1)
    if r.awake and not r.to_show and not (busy(r) and "barrier" in s.rules):
        yield "end", w, r._replace(ending=(0,) * s.workers)


def busy(r: Run) -> list[int]:
    return [k for k, waiting in enumerate(r.inbox) if waiting]


def read(s: Setting, r: Run, pos: int) -> Run:
    inbox = r.inbox
    for entry in range(r.pos + 1, pos + 1):
        k = s.keys.index(s.key(entry))
        inbox = put(inbox, k, (*inbox[k], entry))
    return r._replace(pos=pos, inbox=inbox)


def deliver(s: Setting, w: World, r: Run, keys: list[int] | None = None) -> State:
    """Let keys take what waits for them, or show their position again, and the sinks have it."""
    for k in busy(r) if keys is None else keys:
        book, (last, shown), (before, ids) = r.books[k], r.tokens[k], r.unsaved[k]
        if r.inbox[k] and book is None:
            book = load(s, w, s.keys[k], last) if last else ()
        for entry in r.inbox[k]:
            assert book is not None
            if book and entry <= max(book):
                raise Violation(f"the book of {s.keys[k]} was offered {entry}, which it has")
            book = (*book, entry)
            if entry > r.written:
                r = r._replace(new_rows=(*r.new_rows, (entry, book)))
            before, ids = (before if ids else last), (*ids, entry)
            shown = book
        last = max(last, *r.inbox[k], 0)
        r = r._replace(
            books=put(r.books, k, book), tokens=put(r.tokens, k, (last, shown)),
            unsaved=put(r.unsaved, k, (before, ids)), inbox=put(r.inbox, k, ()),
            awake=r.awake | {k}, to_show=r.to_show - {k}, latest=put(r.latest, k, (last, shown)),
            for_hash=put(r.for_hash, k, (last, shown)), untold=put(r.untold, k, (last, shown)),
        )  # fmt: skip
    at_once = s.writes if not r.holds else [what for what in s.writes[:1] if what == "hash"]
    return w, r._replace(todo=tuple(at_once))


def act(s: Setting, w: World, r: Run, what: str) -> State:
    """Let the sinks write to Redis."""
    if what == "hash":
        for k, shown in enumerate(r.for_hash):
            w = write_hash(s, w, k, shown)
        return w, r._replace(for_hash=(NOTHING,) * len(s.keys))
    told = [(*shown, k) for k, shown in enumerate(r.untold) if shown != NOTHING]
    return write_changes(s, w, r._replace(untold=(NOTHING,) * len(s.keys)), told)


def write_hash(s: Setting, w: World, k: int, shown: Shown) -> World:
    if shown == NOTHING or (shown[0] <= w.hash[k][0] and "newer" in s.rules):
        return w
    if shown[0] < w.hash[k][0]:
        raise Violation(f"the hash goes back: {s.keys[k]} from {w.hash[k]} to {shown}")
    return noted(w)._replace(hash=put(w.hash, k, shown))


def write_changes(s: Setting, w: World, r: Run, told: list[tuple[int, Book, int]]) -> State:
    last = w.changes[-1][0] if w.changes else 0
    if last < r.told and "how far" in s.rules:
        told = [*told, *((*one, k) for k, one in enumerate(r.newest) if one[0] > last)]
    if "sorted" in s.rules:
        told = sorted(told)
    for entry, book, k in told:
        last = w.changes[-1][0] if w.changes else 0
        if entry > last or "own id" not in s.rules:
            w = noted(w)._replace(changes=(*w.changes, (entry, s.keys[k], book)))
        r = r._replace(told=max(r.told, entry), newest=put(r.newest, k, (entry, book)))
    return w, r


def noted(w: World) -> World:
    """Remember what was there before a write, if Redis may still forget it."""
    return w._replace(undo=(*w.undo, (w.hash, w.changes))[-3:] if w.forgets else ())


def end_step(  # noqa: C901 - a table of steps
    s: Setting, w: World, r: Run, worker: int, what: str
) -> State:
    """Do one step of an epoch's end."""
    assert r.ending is not None
    r = r._replace(ending=put(r.ending, worker, r.ending[worker] + 1))
    if what in s.writes:
        return act(s, w, r, what)
    mine = [k for k in sorted(r.awake) if k % s.workers == worker]
    match what:
        case "source":
            w = snap(w, "source", r.epoch, r.pos)
            if "group after" not in s.rules:
                w = move_group(s, w, r)
        case "books":
            w, r = save_books(s, w, r, mine)
        case "tokens":
            for k in mine:
                w = snap(w, s.keys[k], r.epoch, r.tokens[k])
        case "manifest":
            named = r.new_rows if "manifest first" in s.rules else ()
            w = w._replace(manifest=max([w.manifest, *entries_of(r.new_rows)]), named=named)
        case "publish":
            w = w._replace(rows=w.rows + r.new_rows, named=())
        case "parquet":
            w = snap(w, "parquet", r.epoch, w.manifest)
        case "front":
            w = w._replace(fronts=put(w.fronts, worker, r.epoch + 1))
    return w, r


def save_books(s: Setting, w: World, r: Run, mine: list[int]) -> State:
    rows = {(s.keys[k], *r.unsaved[k]) for k in mine if r.unsaved[k][1]}
    for k in mine:
        r = r._replace(unsaved=put(r.unsaved, k, NOTHING))
    return w._replace(books=w.books | rows), r


def entries_of(rows: tuple[Shown, ...]) -> list[int]:
    return [entry for entry, _ in rows]


def snap(w: World, part: str, epoch: int, what: Any) -> World:
    """Keep a snapshot in the place of one of the same epoch."""
    others = {one for one in w.snaps if one[:2] != (part, epoch)}
    return w._replace(snaps=frozenset({*others, (part, epoch, what)}))


def done(s: Setting, r: Run) -> Run:
    """Begin the next epoch if this one is over."""
    if r.ending != tuple(map(len, s.ends)):
        return r
    holds = s.workers > 1 and "hold" in s.rules
    return r._replace(
        epoch=r.epoch + 1, ending=None, awake=frozenset(), moved=False, holds=holds,
        written=max([r.written, *entries_of(r.new_rows)]), new_rows=(),
    )  # fmt: skip


def move_group(s: Setting, w: World, r: Run) -> World:
    w = w._replace(group=max(w.group, r.pos))
    if s.trims:
        w = w._replace(trimmed=max(w.trimmed, r.pos - ("anchor" in s.rules)))
    return w


# --- what can go wrong ---------------------------------------------------------------------------


def faults(s: Setting, w: World, r: Run) -> Iterator[tuple[str, World, Run | None]]:
    """Yield what may happen to the program, and to Redis."""
    if w.crashes:
        dead = w._replace(crashes=w.crashes - 1)
        yield "crash", dead, None
        yield from ((f"crash, {what}", lost, None) for what, lost in forgotten(dead))
        if s.loses_store:
            empty = dead._replace(fronts=(0,) * s.workers, snaps=frozenset(), books=frozenset())
            yield "crash, and the recovery directory is gone", empty, None
    for what, lost in forgotten(w):
        yield (what, *outage(s, lost, r))


def forgotten(w: World) -> Iterator[tuple[str, World]]:
    for n, (old_hash, old_changes) in enumerate(reversed(w.undo), start=1):
        lost = w._replace(hash=old_hash, changes=old_changes, undo=(), forgets=w.forgets - 1)
        yield f"Redis forgets {n} writes", lost


def outage(s: Setting, w: World, r: Run) -> State:
    """Let the sinks write again what Redis may have lost."""
    if "after outage" in s.rules:
        for k, shown in enumerate(r.latest):
            w = write_hash(s, w, k, shown)
        return write_changes(s, w, r, [])
    return w, r
