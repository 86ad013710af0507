"""Several hosts for real: each its own network, and a cable between them that is cut.

A host is a network namespace of Linux with a cable (veth) to one switch (bridge). Redis
and the test are on the host that the switch is in, the flows on two others.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis

from tests.conftest import OwnServer
from tests.support.flow_process import FlowProcess
from tests.support.needs import need, need_right
from tests.support.scaling import Ledger, found

BACKOFF_S = 5
"""The longest wait between two tries to reach Redis."""


class Network:
    """A switch and two hosts."""

    def __init__(self) -> None:
        number = os.getpid() % 10_000
        self._switch = f"ls{number}"
        self._subnet = f"198.18.{number % 256}"  # a range for tests of networks (RFC 2544)
        self.redis_address = f"{self._subnet}.1"
        self.hosts = [f"lotstream-{number}-{host}" for host in range(2)]
        self.addresses = [f"{self._subnet}.{host + 2}" for host in range(2)]

    def on(self, host: int) -> list[str]:
        """Return what to put before a command, to run it on a host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def cut(self, host: int) -> None:
        """Cut a host's cable."""
        _ip("link", "set", self._plug(host), "down")

    def heal(self, host: int) -> None:
        """Put the cable back."""
        _ip("link", "set", self._plug(host), "up")

    def _plug(self, host: int) -> str:
        return f"{self._switch}-{host}"

    def make(self) -> None:
        self.remove()  # what a test run left that was killed
        _ip("link", "add", self._switch, "type", "bridge")
        _ip("addr", "add", f"{self.redis_address}/24", "dev", self._switch)
        _ip("link", "set", self._switch, "up")
        for host, name in enumerate(self.hosts):
            _ip("netns", "add", name)
            inside = ["peer", "name", "eth0", "netns", name]
            _ip("link", "add", self._plug(host), "type", "veth", *inside)
            _ip("link", "set", self._plug(host), "master", self._switch, "up")
            _ip("-n", name, "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        for name in self.hosts:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._switch], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    need("ip")
    made = Network()
    try:
        made.make()
        yield made
    except subprocess.CalledProcessError as error:
        need_right("make a network", f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}")
    finally:
        made.remove()


def test_nothing_is_lost_or_doubled_when_a_cable_is_cut_for_longer_than_the_backoff(
    network: Network, own_server: OwnServer, running: ExitStack, tmp_path: Path
) -> None:
    server = own_server(bind=f"127.0.0.1 {network.redis_address}", protected_mode="no")
    url = f"redis://{network.redis_address}:{server.port}/0"
    redis = running.enter_context(server.client())
    flows = [_flow(network, url, tmp_path / "apart", host) for host in range(2)]
    members = [_member(network, url, tmp_path / "together", host) for host in range(2)]
    ledgers = _Ledgers(Ledger(redis, seed=31), Ledger(redis, seed=32))
    ledgers.publish(200)
    for process in [*flows, *members]:
        running.enter_context(process)
    _until_committed(redis, flows, members)
    network.cut(1)
    ledgers.publish(300)
    flows[0].until_committed(redis, "executions:0")  # needs nobody on the other host
    # The member may not ask for more until the other host has closed the epoch before.
    flows[1].until(lambda: "Redis is away" in flows[1].log, "it notices")
    time.sleep(BACKOFF_S + 1)
    assert all(process.running for process in [*flows, *members])
    network.heal(1)
    ledgers.publish(100)
    _until_committed(redis, flows, members)
    for process in [*flows, *members]:
        process.send(signal.SIGTERM)
    assert [process.wait() for process in [*flows, *members]] == [0] * 4
    assert found(redis, tmp_path / "apart", 2) == ledgers.apart.expected()
    seen = found(redis, tmp_path / "together", 2, stream="shared", name="shared:positions")
    assert seen == ledgers.together.expected()


class _Ledgers(NamedTuple):
    apart: Ledger
    together: Ledger

    def publish(self, count: int) -> None:
        self.apart.publish(count, 2)
        self.together.publish(count, 2, "shared")


def _until_committed(redis: Redis, flows: list[FlowProcess], members: list[FlowProcess]) -> None:
    for host, flow in enumerate(flows):
        flow.until_committed(redis, f"executions:{host}")
    for member in members:
        member.until_committed(redis, "shared:0", "shared:1")


def _flow(network: Network, url: str, data_dir: Path, host: int) -> FlowProcess:
    """Return a flow of one partition."""
    return FlowProcess(
        data_dir / f"flow-{host}",
        url,
        prefix=network.on(host),
        STREAM_PARTITIONS="2",
        OWN_PARTITIONS=str(host),
        DATA_DIR=str(data_dir),
    )


def _member(network: Network, url: str, data_dir: Path, host: int) -> FlowProcess:
    """Return a process of a cluster."""
    addresses = ";".join(f"{address}:7400" for address in network.addresses)
    store = ["-r", str(data_dir / "recovery"), "-b", "0"]
    return FlowProcess(
        data_dir / f"process-{host}",
        url,
        recovery=False,
        arguments=[*store, "-i", str(host), "-a", addresses],
        prefix=network.on(host),
        EXECUTIONS_STREAM="shared",
        DEAD_LETTER_STREAM="shared:dead",
        POSITIONS_HASH="shared:positions",
        STREAM_PARTITIONS="2",
        DATA_DIR=str(data_dir),
    )
