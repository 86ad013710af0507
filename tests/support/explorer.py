"""Goes through all that can happen in the model, and looks at each state.

Nothing that a reader sees may be wrong, doubled or go back. And after each crash, a restart
that nothing disturbs must come to an end at which all is as if nothing had happened.
"""

from collections import deque
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from tests.support.model import (
    Setting,
    State,
    Violation,
    World,
    faults,
    new_world,
    resume,
    start,
    steps,
)


def look(s: Setting, w: World) -> None:
    """Raise Violation if a reader sees what is wrong."""
    for k, (entry, book) in enumerate(w.hash):
        if book != s.book(s.keys[k], entry):
            raise Violation(f"the hash has {s.keys[k]} after {entry} as {book}")
    if len({entry for entry, _ in w.rows}) < len(w.rows):
        raise Violation(f"rows are doubled: {w.rows}")
    if any(book != s.book(s.key(entry), entry) for entry, book in w.rows):
        raise Violation(f"a row is wrong: {w.rows}")
    ids = [entry for entry, *_ in w.changes]
    if ids != sorted(set(ids)):
        raise Violation(f"changes are not in order, each once: {w.changes}")
    for entry, key, book in w.changes:
        if book != s.book(key, entry):
            raise Violation(f"a change is wrong: {w.changes}")
        if w.hash[s.keys.index(key)][0] < entry:
            raise Violation(f"a follower misses a change: {key} after {entry} is not in the hash")
    committed = resume(s, w)[1]("source", 0)
    if w.group > committed and not s.loses_store:
        raise Violation(f"the group is at {w.group}, durable is {committed}")


def run_to_end(s: Setting, w: World) -> World:
    """Let a restart run undisturbed; raise Violation if anything is missing then."""
    w, r = start(s, w)
    while (step := next(steps(s, w, r), None)) is not None:
        _, w, r = step
        look(s, w)
    for k, key in enumerate(s.keys):
        last = s.entries.rindex(key) + 1
        if w.hash[k] != (last, s.book(key, last)):
            raise Violation(f"at the end the hash has {key} as {w.hash[k]}")
        if [one[0] for one in w.changes if one[1] == key][-1:] != [last]:
            raise Violation(f"at the end the last change of {key} is missing: {w.changes}")
    if sorted(entry for entry, _ in w.rows) != [*range(1, len(s.entries) + 1)]:
        raise Violation(f"at the end rows are missing: {w.rows}")
    return w


class Found(NamedTuple):
    """What an exploration came to."""

    states: int
    violation: str | None
    way: list[str]
    """The shortest way to the violation."""


def explore(s: Setting) -> Found:
    """Go through all that can happen, the shortest ways first."""
    first = start(s, new_world(s))
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    ended: set[World] = set()
    waiting = deque([first])
    while waiting:
        state, what = waiting.popleft(), "go on"
        try:
            for what, world, run in chain(steps(s, *state), faults(s, *state)):
                look(s, world)
                if run is None and world not in ended:
                    ended.add(world)
                    run_to_end(s, world)
                after = (world, run) if run is not None else start(s, world)
                if after not in came_from:
                    came_from[after] = (state, what)
                    waiting.append(after)
        except Violation as violation:
            return Found(len(came_from), str(violation), [*way_to(came_from, state), what])
    return Found(len(came_from), None, [])


def way_to(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    while (before := came_from[state]) is not None:
        state, what = before
        way.insert(0, what)
    return way


def without(s: Setting, rule: str) -> Setting:
    """Return a setting in which a rule does not hold."""
    return replace(s, rules=s.rules - {rule})
