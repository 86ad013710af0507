"""A disk that forgets, at a power cut, what was not synced.

It follows the system calls of a program (see `system_calls`), and knows at any instant what
a disk must still hold: a file's content as of its last `fsync`, and a name if its directory
was synced since. Whatever else was done may be there or not, at random: some of the writes,
the last of them torn, and some of the names. Only a rename is whole: it never loses the file.
"""

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.system_calls import Call

_SECTOR = 512
_EXCHANGE = 2
"""A flag of renameat2."""

_Write = tuple[int, bytes | None]
"""An offset and what is written there; None for a new size."""


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    since: list[_Write] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.since = _written(self.synced, self.since), []


_Node = _File | None
"""None is a directory."""

_GONE = _File()
"""Stands where a name was removed."""

_Change = dict[str, _Node]
"""Names that change together."""


class ForgetfulDisk:
    """What a program writes in a directory; what is there already is synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, _Node] = {str(root.parent): None}
        for path in [root, *root.rglob("*")] if root.exists() else []:
            self._names[str(path)] = None if path.is_dir() else _File(path.read_bytes())
        self._synced = dict(self._names)
        self._since: list[_Change] = []

    def holds(self, path: str) -> bool:
        """Tell whether a path is on this disk; so is the one that holds its root's name."""
        return path == str(self._root.parent) or self._is_within(path)

    def _is_within(self, path: str) -> bool:
        return path == str(self._root) or path.startswith(f"{self._root}/")

    def see(self, call: Call) -> int | None:
        """Follow a call; return the answer of one that syncs, as nothing else need do it."""
        paths = call.paths
        match call.kind:
            case "fsync" | "fdatasync":
                return self._sync(paths[0])
            case "write" | "pwrite64" | "ftruncate":
                if file := self._file(paths[0]):
                    cut_short = call.kind == "ftruncate"
                    file.since.append(
                        (call.arguments[1], None) if cut_short else (call.offset, call.data)
                    )
            case "openat":
                self._open(paths[0], call.arguments[2])
            case _:
                exchanges = call.kind == "renameat2" and call.arguments[4] == _EXCHANGE
                self._rename(call.kind, paths, exchanges=exchanges)
        return None

    def cut(self, rng: random.Random, into: Path | None = None) -> None:
        """Cut the power: leave, in place of what the directory holds, what a disk may hold.

        into: another directory, to see what a cut would leave while the program goes on.
        """
        root = into or self._root
        names = dict(self._synced)
        for change in self._that_lasted(rng):
            _apply(change, names)
        shutil.rmtree(root, ignore_errors=True)
        for path in sorted(filter(self._is_within, names)):
            node, where = names[path], root / Path(path).relative_to(self._root)
            in_memory_only = path.endswith("-shm")
            if in_memory_only or where.exists() or not where.parent.exists():
                continue
            if node is None:
                where.mkdir()
            else:
                where.write_bytes(_written(node.synced, _some(node.since, rng)))

    # --- following ----------------------------------------------------------------------

    def _file(self, path: str) -> _File | None:
        return self._names.get(path) if self.holds(path) else None

    def _open(self, path: str, flags: int) -> None:
        if not self.holds(path):
            return
        if file := self._names.get(path):
            if flags & os.O_TRUNC:
                file.since.append((0, None))
        elif path not in self._names and flags & os.O_CREAT:
            self._change({path: _File()})

    def _rename(self, kind: str, paths: list[str], *, exchanges: bool) -> None:
        """Follow a call about names."""
        node = self._names.get(paths[0], _GONE)
        if (node is _GONE) != (kind in {"mkdir", "mkdirat"}):
            return  # it fails
        match kind:
            case "mkdir" | "mkdirat":
                self._change({paths[0]: None})
            case "unlink" | "unlinkat" | "rmdir":
                self._change({paths[0]: _GONE})
            case "link" | "linkat":
                self._change({paths[1]: node})
            case "rename" | "renameat" | "renameat2":
                assert exchanges or node is not None, f"expected a file's rename, found {paths}"
                moved = {paths[0]: _GONE, paths[1]: node}
                self._change(self._exchanged(*paths) if exchanges else moved)
            case _:
                assert not any(map(self.holds, paths)), f"expected another call, found {kind}"

    def _exchanged(self, one: str, other: str) -> _Change:
        """Return what becomes of the names in two directories that change places."""
        found: _Change = {}
        for old, new in ((one, other), (other, one)):
            within = {p: node for p, node in self._names.items() if f"{p}/".startswith(f"{old}/")}
            found = {**dict.fromkeys(within, _GONE), **found}
            found |= {new + path.removeprefix(old): node for path, node in within.items()}
        return found

    def _change(self, change: _Change) -> None:
        if any(map(self.holds, change)) and all(str(Path(p).parent) in self._names for p in change):
            _apply(change, self._names)
            self._since.append(change)

    def _sync(self, path: str) -> int | None:
        if path not in self._names:
            return None
        if file := self._names[path]:
            file.sync()
        else:
            within = [c for c in self._since if any(str(Path(p).parent) == path for p in c)]
            self._settle(within)
        return 0

    def _settle(self, wanted: Sequence[_Change]) -> None:
        lasting = _with_earlier(self._since, wanted)
        for change in lasting:
            _apply(change, self._synced)
        self._since = [c for c in self._since if not any(c is one for one in lasting)]

    def _that_lasted(self, rng: random.Random) -> list[_Change]:
        """Choose what else lasted: all up to an instant, or any names at all."""
        if rng.random() < 0.5:
            return self._since[: rng.randint(0, len(self._since))]
        return _with_earlier(self._since, [c for c in self._since if rng.random() < 0.5])


def _apply(change: _Change, names: dict[str, _Node]) -> None:
    for path, node in change.items():
        if node is _GONE:
            names.pop(path, None)
        else:
            names[path] = node


def _with_earlier(changes: Sequence[_Change], wanted: Sequence[_Change]) -> list[_Change]:
    """Return changes, and those before that were made to the same names."""
    found: list[_Change] = []
    names: set[str] = set()
    for change in reversed(changes):
        if any(change is one for one in wanted) or names & change.keys():
            found.append(change)
            names |= change.keys()
    return found[::-1]


def _some(writes: list[_Write], rng: random.Random) -> list[_Write]:
    """Choose writes that lasted: all up to one that may be torn, or any at all."""
    if rng.random() < 0.5:
        return [write for write in writes if rng.random() < 0.5]
    kept = writes[: rng.randint(0, len(writes))]
    if kept and (data := kept[-1][1]):
        size = rng.choice((len(data), rng.randint(0, len(data)), _SECTOR * rng.randint(0, 8)))
        kept[-1] = (kept[-1][0], data[:size])
    return kept


def _written(content: bytes, writes: Sequence[_Write]) -> bytes:
    found = bytearray(content)
    for offset, data in writes:
        end = offset if data is None else offset + len(data)
        found += bytes(max(0, end - len(found)))
        if data is None:
            del found[offset:]
        else:
            found[offset:end] = data
    return bytes(found)
