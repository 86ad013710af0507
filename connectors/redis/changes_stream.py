"""The stream of changes: each change of a position that is shown, under the id that caused it.

Redis takes no entry that is not above a stream's newest, so that no change is written
twice, however often the flow replays. The price is order: a change that comes when one
with a higher id is there would be lost. So who writes here does it only when all changes
up to the highest that is given are known, or the last one of each key, and then this
holds of the stream at any time: of each key it has had the newest change up to its newest
id. What is offered again (after a restart, or without recovery from the beginning) is
then passed over rightly if it is not above that.

A server may come back without its last writes, or someone may delete the stream. Every
write tells the server how far the stream was; if it is not there any more, the newest
change of each key that is missing is written again, before all others.
"""

from functools import partial
from itertools import chain
from threading import Lock
from typing import Any

import redis

from connectors.redis.letters import ORDER
from connectors.redis.link import RedisLink
from state.records import FIRST_ID, id_order

_AT_ONCE = 500

Shown = tuple[str, str, str]
"""A key, the entry that caused its position, and the position as JSON."""

# KEYS: the stream. ARGV: about how many entries to keep, the id up to which the stream was
# written; then of each change id, key and position, in order. Answers with the stream's
# newest id, and writes nothing, if it ends before that.
_WRITE = f"""{ORDER}
local last = newest(KEYS[1])
if newer(ARGV[2], last) then return last end
for i = 3, #ARGV, 3 do
  if newer(ARGV[i], last) then
    last = ARGV[i]
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], last, 'key', ARGV[i + 1],
      'position', ARGV[i + 2])
  end
end
return false
"""


class ChangesStream:
    """Writes one stream of changes, each once and in order of id.

    kept: about how many entries stay in the stream.
    """

    def __init__(self, link: RedisLink, name: str, kept: int) -> None:
        self._link, self._name, self._kept = link, name, kept
        self._script = link.client.register_script(_WRITE)
        self._last_id = FIRST_ID
        """The stream was written up to here."""
        self._newest: dict[str, Shown] = {}
        """Of each key, what was written last."""
        self._lock = Lock()

    def write(self, shown: list[Shown]) -> None:
        """Write changes, in any order: the newest of each key that changed since the last call.

        Raises StoppedError as a link does.
        """
        with self._lock:
            self._write(sorted(shown, key=_order))

    def check(self) -> None:
        """See that what was written is still there, and write it again if it is not.

        Any thread may call it. While another writes it does nothing, since that one sees.
        """
        # Not waited for: that one may itself wait for an outage's end, and tell all parts of it.
        if self._lock.acquire(blocking=False):
            try:
                self._write([])
            finally:
                self._lock.release()

    def _write(self, shown: list[Shown]) -> None:
        start = 0
        while True:
            chunk = shown[start : start + _AT_ONCE]
            lost_after = self._link.call(partial(self._run_script, chunk))
            if lost_after is not None:
                self._last_id = lost_after
                after = id_order(lost_after)
                lost = [one for one in self._newest.values() if _order(one) > after]
                shown, start = sorted([*lost, *shown[start:]], key=_order), 0
                continue
            for one in chunk:
                self._note(one)
            start += len(chunk)
            if start >= len(shown):
                return

    def _note(self, written: Shown) -> None:
        key, stream_id, _ = written
        self._newest[key] = written
        self._last_id = max(self._last_id, stream_id, key=id_order)

    def _run_script(self, shown: list[Shown], _client: redis.Redis) -> str | None:
        """Return None, or the stream's newest id if it ends before what was written."""
        changes = chain.from_iterable((stream_id, key, text) for key, stream_id, text in shown)
        answer: Any = self._script([self._name], [self._kept, self._last_id, *changes])
        return None if answer is None else answer.decode()


def _order(shown: Shown) -> tuple[int, int]:
    return id_order(shown[1])
