"""How dead letters get onto their stream: the flow's in order, others between them.

The flow writes a letter under its entry's own id. Redis takes none that is not above the
stream's newest, so that a replay writes none twice. A letter from elsewhere has no entry.
It goes directly behind the newest, and from then on a key beside the stream says how far
the flow was, since the newest id no longer does.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import redis
from redis.exceptions import NoScriptError

from connectors.redis.link import RedisLink, send
from state.records import FIRST_ID

WIDE = 4_000
"""A letter of more words is written without Lua, which hands on 8,000 at most."""

_Letter = tuple[str, Sequence[bytes]]
"""The entry's id, and the letter's names and values in turn."""

# Ids are two whole numbers of up to 20 digits, more than Lua's numbers hold exactly: the
# longer is the larger, of equally long ones the later in text order.
ORDER = """
local function above(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end
local function newer(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if ms == other_ms then return above(seq, other_seq) end
  return above(ms, other_ms)
end
local function newest(stream)
  if redis.call('EXISTS', stream) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
local function behind(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local digits, i = {string.byte(seq, 1, -1)}, #seq
  while i > 0 and digits[i] == 57 do digits[i] = 48; i = i - 1 end
  if i == 0 then return ms .. '-1' .. string.rep('0', #seq) end
  digits[i] = digits[i] + 1
  return ms .. '-' .. string.char(unpack(digits))
end
"""

# KEYS: the letters, how far the flow was. ARGV: the entry's id. Answers with the letter's
# id, and whether to note how far the flow is then; with nothing if it is there already.
_PLACE = f"""{ORDER}
local id, last = ARGV[1], newest(KEYS[1])
local mark = redis.call('GET', KEYS[2])
if not newer(id, mark or last) then return false end
return {{newer(id, last) and id or behind(last), mark}}
"""

# KEYS: the letters, how far the flow was. ARGV: the entry's id, the letter's words.
_FLOW = f"""{ORDER}
local id, last = ARGV[1], newest(KEYS[1])
local mark = redis.call('GET', KEYS[2])
if not newer(id, mark or last) then return 0 end
redis.call('XADD', KEYS[1], newer(id, last) and id or behind(last), unpack(ARGV, 2))
if mark then redis.call('SET', KEYS[2], id) end
return 1
"""

# KEYS: the letters, how far the flow was, what was written before. ARGV: by what the letter
# is known, its words.
_OTHER = f"""{ORDER}
if redis.call('SADD', KEYS[3], ARGV[1]) == 0 then return 0 end
local last = newest(KEYS[1])
redis.call('SET', KEYS[2], last, 'NX')
redis.call('XADD', KEYS[1], behind(last), unpack(ARGV, 2))
return 1
"""


_FLOW_SHA = hashlib.sha1(_FLOW.encode(), usedforsecurity=False).hexdigest()


def keys_beside(stream: str) -> tuple[str, str]:
    """Name the keys beside a dead letter stream: how far the flow was, and what others wrote."""
    tagged = stream if "{" in stream else f"{{{stream}}}"
    return f"{tagged}:flow", f"{tagged}:others"


def add_of_flow(client: redis.Redis, stream: str, letters: Sequence[_Letter]) -> list[bool]:
    """Add letters of entries, by their ids in order; tell for each whether it was new.

    All of them or, when Redis is out of memory, none (but for those of thousands of words).
    """
    added: list[bool] = []
    for wide, some in groupby(letters, key=lambda letter: len(letter[1]) > WIDE):
        added += (_add_wide if wide else _add_some)(client, stream, list(some))
    return added


def _add_some(client: redis.Redis, stream: str, letters: Sequence[_Letter]) -> list[bool]:
    mark, _ = keys_beside(stream)
    pipe = client.pipeline(transaction=True)
    for entry_id, words in letters:
        send(pipe, "EVALSHA", _FLOW_SHA, 2, stream, mark, entry_id, *words)
    answers = pipe.execute(raise_on_error=False)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        send(client, "SCRIPT", "LOAD", _FLOW)
        return _add_some(client, stream, letters)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [answer == 1 for answer in answers]


def _add_wide(client: redis.Redis, stream: str, letters: Sequence[_Letter]) -> list[bool]:
    """Do what the script does, from here: Lua can hand on only so many words at once."""
    mark, _ = keys_beside(stream)
    added = []
    for entry_id, words in letters:
        place: Any = None

        def add(pipe: Any, entry_id: str = entry_id, words: Sequence[bytes] = words) -> None:
            nonlocal place
            place = send(pipe, "EVAL", _PLACE, 2, stream, mark, entry_id)
            pipe.multi()
            if place:
                send(pipe, "XADD", stream, place[0], *words)
                if place[1] is not None:
                    send(pipe, "SET", mark, entry_id)

        client.transaction(add, stream)  # anew if another adds meanwhile
        added.append(place is not None)
    return added


class OtherLetters:
    """Writes dead letters of what never was an entry of the flow's streams.

    streams: by source stream, its dead letter stream.
    """

    def __init__(self, link: RedisLink, streams: Mapping[str, str]) -> None:
        self._link, self._streams = link, streams
        self._script = link.client.register_script(_OTHER)

    def add_once(self, once_id: str, source: str, fields: Mapping[str, str], reason: str) -> bool:
        """Add a letter unless it was added before; tell whether it was new.

        source: the stream where the entry would have gone.
        """
        stream = self._streams[source]
        about = {"error": reason, "source_stream": source, "source_id": FIRST_ID}
        words = [*chain.from_iterable(fields.items()), *chain.from_iterable(about.items())]
        keys = (stream, *keys_beside(stream))
        return bool(self._link.call(lambda _: self._script(keys, [once_id, *words])) == 1)
