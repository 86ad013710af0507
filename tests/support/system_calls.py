"""A process whose system calls are held, looked at, and let go one by one.

Each call with which it changes anything outside of itself (a file, a name, what it says to
Redis) waits until a test has looked at it. The test lets it happen, answers in the kernel's
place, or kills the process before it happens. So a test knows all instants of a run in their
order over all threads, and can choose any.

It is Linux's own way for this (seccomp's user notification): the program is the real one,
and nothing in it is patched.
"""

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread

from tests.support import needs

_NUMBERS = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "sendto": 44, "recvfrom": 45, "fsync": 74,
        "fdatasync": 75, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86,
        "unlink": 87, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
        "linkat": 265, "fallocate": 285, "pwritev": 296, "renameat2": 316,
        "copy_file_range": 326,
    },
    "aarch64": {
        "write": 64, "pwrite64": 68, "writev": 66, "sendto": 206, "recvfrom": 207, "fsync": 82,
        "fdatasync": 83, "ftruncate": 46, "openat": 56, "mkdirat": 34, "unlinkat": 35,
        "renameat": 38, "linkat": 37, "fallocate": 47, "pwritev": 70, "renameat2": 276,
        "copy_file_range": 285,
    },
}  # fmt: skip

_CREATES = os.O_CREAT | os.O_TRUNC
"""Of `openat` only what makes or empties a file is held."""

_PATHS = {
    "rename": (0, 1), "mkdir": (0,), "rmdir": (0,), "link": (0, 1), "unlink": (0,),
}  # fmt: skip
"""Which arguments are paths."""

_PATHS_AT = {
    "openat": (0,), "mkdirat": (0,), "unlinkat": (0,), "renameat": (0, 2), "renameat2": (0, 2),
    "linkat": (0, 2),
}  # fmt: skip
"""Which are a directory, with a path in it behind."""

_HERE = -100
"""Where the current directory is meant."""

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_LET_GO = 1

# Runs before the program, in its process. From here on, in all its threads, the calls wait
# for whoever holds the listener; that goes to the test by `sendmsg`, which is not held.
_HOLD = f"""
import ctypes, os, socket, struct, sys
name, numbers, opens, creates = sys.argv[1], sys.argv[2].split(","), sys.argv[3], {_CREATES}
NUMBER, SECOND = 0, 32
LOAD, EQUAL, ANY_OF, RETURN, ALLOW, HOLD = 0x20, 0x15, 0x45, 0x06, 0x7FFF0000, 0x7FC00000
steps = [(LOAD, 0, 0, NUMBER), (EQUAL, 0, 2, int(opens)), (LOAD, 0, 0, SECOND),
         (ANY_OF, len(numbers) + 1, len(numbers), creates)]
steps += [(EQUAL, len(numbers) - at, 0, int(one)) for at, one in enumerate(numbers)]
steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, HOLD)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
way = socket.socket(socket.AF_UNIX)
way.connect("\\0" + name)
libc.prctl(38, 1, 0, 0, 0)
listener = libc.syscall(277 if os.uname().machine == "aarch64" else 317, 1, 8, program)
if listener < 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
socket.send_fds(way, [b"!"], [listener])
os.close(listener)
way.close()
os.execvp(sys.argv[4], sys.argv[4:])
"""


class Call:
    """A system call that waits."""

    def __init__(self, kind: str, thread: int, arguments: tuple[int, ...]) -> None:
        self.kind, self.thread, self.arguments = kind, thread, arguments

    @property
    def paths(self) -> list[str]:
        """The files that it names, absolute; of a socket, `socket:` and its number."""
        if self.kind in _PATHS:
            return [self._path(self.arguments[at]) for at in _PATHS[self.kind]]
        if self.kind in _PATHS_AT:
            return [
                self._path(self.arguments[at + 1], self.arguments[at])
                for at in _PATHS_AT[self.kind]
            ]
        return [str(Path(f"/proc/{self.thread}/fd/{self.arguments[0]}").readlink())]

    @property
    def data(self) -> bytes:
        """What `write`, `pwrite64` or `sendto` brings."""
        return self._memory(self.arguments[1], self.arguments[2])

    @property
    def offset(self) -> int:
        """Where in its file `write` or `pwrite64` writes."""
        if self.kind == "pwrite64":
            return self.arguments[3]
        said = Path(f"/proc/{self.thread}/fdinfo/{self.arguments[0]}").read_text()
        return int(said.split()[1])

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process."""
        os.killpg(os.getpgid(self.thread), signum)

    def _path(self, address: int, directory: int | None = None) -> str:
        found = self._memory(address, 4096).partition(b"\0")[0].decode()
        number = ctypes.c_int(_HERE if directory is None else directory & 0xFFFFFFFF).value
        base = "cwd" if number == _HERE else f"fd/{number}"
        return os.path.normpath(Path(f"/proc/{self.thread}/{base}").readlink() / found)

    def _memory(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
            memory.seek(address)
            return memory.read(size)


Look = Callable[[Call], int | None]
"""Looks at a call that waits, while all others wait too. Returns None to let it happen, or the
answer in the kernel's place."""

_numbers = count()


class Held:
    """Programs whose calls are held, one at a time; `prefix` goes before the program's words."""

    def __init__(self) -> None:
        numbers = _NUMBERS.get(platform.machine(), {}) if sys.platform == "linux" else {}
        if not numbers:
            needs.need_right("hold system calls", "known on Linux for x86_64 and aarch64")
        self._names = {number: name for name, number in numbers.items()}
        self._name = f"lotstream-{os.getpid()}-{next(_numbers)}"
        held = ",".join(str(number) for name, number in numbers.items() if name != "openat")
        hold = (sys.executable, "-I", "-S", "-c", _HOLD)
        self.prefix = (*hold, self._name, held, str(numbers["openat"]))

    @contextmanager
    def watched(self, look: Look) -> Iterator[None]:
        """Look at the calls of a program that is started while `with`, and has ended then."""
        died: list[Exception] = []
        with socket.socket(socket.AF_UNIX) as way:
            way.bind(f"\0{self._name}")
            way.listen(1)
            way.settimeout(20)
            thread = Thread(target=self._run, args=(way, look, died))
            thread.start()
            try:
                yield
            finally:
                thread.join()
        if died:
            raise died[0]

    def _run(self, way: socket.socket, look: Look, died: list[Exception]) -> None:
        try:
            with way.accept()[0] as connection:
                _, [listener], _, _ = socket.recv_fds(connection, 1, 1)
        except Exception as error:  # noqa: BLE001  # told to the test above
            died.append(error)
            return
        try:
            for call in _calls(listener, self._names, look, died):
                call.send(signal.SIGKILL)
        finally:
            os.close(listener)


def _calls(
    listener: int, names: dict[int, str], look: Look, died: list[Exception]
) -> Iterator[Call]:
    """Let calls be looked at until the process is over; yield those at which that failed."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        # Where it says "not found", the process was killed meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError, InterruptedError):
            notice = bytearray(_NOTICE.size)
            fcntl.ioctl(listener, _RECEIVE, notice)
            number, thread, _, kind, _, _, *arguments = _NOTICE.unpack(notice)
            call, answer = Call(names[kind], thread, tuple(arguments)), None
            try:
                answer = look(call)
            except (FileNotFoundError, ProcessLookupError):
                raise
            except Exception as error:  # noqa: BLE001  # told to the test
                died.append(error)
                yield call
            reply = (number, answer or 0, 0, _LET_GO if answer is None else 0)
            fcntl.ioctl(listener, _SEND, _ANSWER.pack(*reply))
