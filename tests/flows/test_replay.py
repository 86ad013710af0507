"""Dead letters on a real server, as the flow leaves them, and what a person does with them."""

import getpass
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import redis as redis_py
from typer.testing import CliRunner, Result

from connectors.redis.letter_box import LetterBox
from connectors.redis.letters import OtherLetters
from connectors.redis.link import RedisLink
from connectors.redis.partitions import PartitionsError
from flows import replay as module
from flows.replay import app, user
from state.keys import partition_of
from tests.support.commands import run_apart
from tests.support.flow_process import FlowProcess, read_hash, read_stream, until
from tests.support.servers import free_port

DEAD, HANDLED = "executions:dead", "executions:dead:handled"
GOOD: dict[Any, Any] = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "1",
    "exec_id": "e1", "timestamp": "1700000000000",
}  # fmt: skip

MORE = {
    name: {f"n{number}": "1" for number in range(fields)}
    for name, fields in (("few words", 0), ("too many for a trace", 3985), ("too many", 6000))
}
"""What else a letter has. A script hands on 8,000 words at most."""


@pytest.fixture(autouse=True)
def settings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def add_letter(
    redis: redis_py.Redis,
    fields: dict[str, str] | list[str],
    error: str = "side: expected BUY or SELL, found 'HOLD'",
    *,
    letter_id: str = "*",
    dead: str = DEAD,
    source: str = "executions",
) -> str:
    pairs = list(chain.from_iterable(fields.items())) if isinstance(fields, dict) else fields
    words: list[Any] = ["XADD", dead, letter_id, *pairs, "error", error]
    words += ["source_stream", source, "source_id", "1-0"]
    return str(redis.execute_command(*words).decode())  # type: ignore[no-untyped-call]


def entries(redis: redis_py.Redis, stream: str) -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in zip(f[::2], f[1::2], strict=True)}
        for _, f in read_stream(redis, stream)
    ]


def test_letters_are_listed_by_the_field_that_is_wrong(redis: redis_py.Redis) -> None:
    first = add_letter(redis, {**GOOD, "side": "HOLD"})
    second = add_letter(redis, {**GOOD, "fill_qty": "x"}, "fill_qty: expected a decimal, found 'x'")
    add_letter(redis, {**GOOD, "side": "HOLD"})
    result = replay()
    assert result.exit_code == 0
    assert result.output.startswith("3 dead letters in executions:dead\n")
    assert f"fill_qty: 1\n  {second}  AAPL" in result.output
    assert f"side: 2\n  {first}  AAPL" in result.output
    assert "before these" not in result.output
    assert replay("list").output == result.output


def test_a_long_list_shows_the_latest_and_counts_the_rest(redis: redis_py.Redis) -> None:
    ids = [add_letter(redis, GOOD, letter_id=f"{n}-1") for n in range(1, 2502)]
    output = replay("list", "--limit", "2").output
    assert "side: 2501" in output
    assert "and 2499 before these" in output
    assert ids[-1] in output
    assert "2499-1" not in output


def test_a_long_list_of_several_partitions_shows_the_latest_of_all(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_PARTITIONS", "2")
    for number, part in ((9, 0), (10, 0), (8, 1), (11, 1)):
        add_letter(redis, GOOD, letter_id=f"{number}-0", dead=f"executions:dead:{part}")
    lines = replay("list", "--limit", "2").output.splitlines()
    assert [line.split()[0] for line in lines[3:5]] == [
        "executions:dead:0/10-0", "executions:dead:1/11-0",
    ]  # fmt: skip


def test_one_letter_is_shown_in_full_with_its_fault_marked(redis: redis_py.Redis) -> None:
    letter = add_letter(
        redis, {**GOOD, "side": "HOLD", "note": "a\x1b[31mb"}, letter_id="1700000000123-0"
    )
    output = replay("show", letter).output
    assert "2023-11-14 22:13:20.123+00:00 in executions" in output
    assert "side: expected BUY or SELL, found 'HOLD'" in output
    assert "side             HOLD   <- see the reason" in output
    assert "fill_price       150.25\n" in output
    assert "\x1b" not in output
    assert "its form    is wrong" in output
    assert "its form    is right" in replay("show", add_letter(redis, GOOD)).output
    nanoseconds = add_letter(redis, GOOD, letter_id="1700000000123456789-0")
    assert f"came        as {nanoseconds}, which is no time," in replay("show", nanoseconds).output


def test_a_letter_that_never_was_an_entry_has_no_time_at_which_it_came(
    redis: redis_py.Redis, redis_url: str
) -> None:
    """Its id is that behind the newest letter, of whatever day that is."""
    link = RedisLink(redis_url, Event())
    with link.client:
        others = OtherLetters(link, {"executions": DEAD})
        others.add_once("e1", "executions", {"tws": "{}"}, "timestamp: expected a zone")
    [(letter, _)] = read_stream(redis, DEAD)
    assert "came        as no entry of a stream, but meant for executions\n" in (
        replay("show", letter).output
    )


def test_no_letter_can_draw_on_the_terminal(redis: redis_py.Redis) -> None:
    reason = "side: expected BUY or SELL, found '\x1b[31m'"
    letter = add_letter(redis, {**GOOD, "symbol": "A\x1b[2J", "side": "\x1b[31m"}, reason)
    output = replay().output + replay("show", letter).output
    output += replay("put-back", letter).output
    output += replay("put-back", letter, "--set", "side=\x1b", "--dry-run").output
    output += replay("drop", letter, "--dry-run").output
    output += replay("drop", letter, "--why", "\x1b[1m").output + replay("handled").output
    assert output.count("\\x1b[31m") >= 4
    assert "'\\x1b[1m'" in output
    assert "\x1b" not in output


def test_a_reason_and_a_name_may_be_any_bytes(redis: redis_py.Redis, redis_url: str) -> None:
    letter: Any = redis.xadd(
        DEAD, {**GOOD, "error": b"side: \xff", "source_stream": "executions", "source_id": "1-0"}
    )
    assert r"side: \xff" in replay().output
    link = RedisLink(redis_url, Event())
    with link.client:
        box = LetterBox(link, [DEAD])
        [found] = box.find(letter.decode())
        assert box.drop(found, why="", at="now", by="\x1b[2J")
        assert not box.drop(found, why="", at="now", by="me")
    assert "dropped by '\\x1b[2J'" in replay("handled").output


def test_what_the_flow_has_not_written_is_shown_whole_and_goes_nowhere(
    redis: redis_py.Redis,
) -> None:
    letter: Any = redis.xadd(DEAD, GOOD)
    assert f"none: 1\n  {letter.decode()}  AAPL" in replay().output
    assert "timestamp        1700000000000" in replay("show", letter.decode()).output
    result = replay("put-back", letter.decode())
    assert (result.exit_code, redis.xlen(DEAD)) == (1, 1)
    assert "it came in ''" in result.output


def test_a_repaired_letter_goes_back_with_its_own_fields_only(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, {**GOOD, "side": "HOLD", "error": "mine", "bogus": "1"})
    result = replay("put-back", letter, "--set", "side=SELL", "--unset", "bogus")
    assert result.exit_code == 0, result.output
    [entry] = entries(redis, "executions")
    assert entry == {**GOOD, "side": "SELL", "error": "mine", "replayed_from": letter}
    assert redis.xlen(DEAD) == 0


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_a_letter_cannot_be_put_back_twice(redis: redis_py.Redis, more: dict[str, str]) -> None:
    letter = add_letter(redis, GOOD | more)
    assert replay("put-back", letter).exit_code == 0
    again = replay("put-back", letter)
    assert again.exit_code == 0
    assert "was put back as" in again.output
    dropped = replay("drop", letter)
    assert dropped.exit_code == 1
    assert "was put back as" in dropped.output
    assert redis.xlen("executions") == redis.xlen(HANDLED) == 1


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_of_many_who_put_a_letter_back_at_once_one_does(
    redis: redis_py.Redis, redis_url: str, more: dict[str, str]
) -> None:
    letter, all_here = add_letter(redis, GOOD | more), Barrier(8)

    def put_back(_: int) -> str | None:
        link = RedisLink(redis_url, Event())
        box = LetterBox(link, [DEAD])
        [found] = box.find(letter)
        all_here.wait()
        new = box.put_back(found, "executions", found.fields, changes="", at="", by="")
        link.client.close()
        return new

    with ThreadPoolExecutor(8) as pool:
        done = [new_id for new_id in pool.map(put_back, range(8)) if new_id]
    assert len(done) == redis.xlen("executions") == redis.xlen(HANDLED) == 1


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_whatever_is_done_leaves_a_trace(redis: redis_py.Redis, more: dict[str, str]) -> None:
    back, dropped = add_letter(redis, {**GOOD, **more, "side": "X"}), add_letter(redis, GOOD | more)
    replay("put-back", back, "--set", "side=BUY", "--unset", "note")
    replay("drop", dropped, "--why", "a test order")
    assert redis.xlen(DEAD) == 0
    first, second = entries(redis, HANDLED)
    assert first["side"] == "X"
    assert more.items() <= first.items()
    assert first["error"].startswith("side: expected")
    assert (first["letter_id"], first["action"], first["changes"]) == (
        back, "put back", "side=BUY -note",
    )  # fmt: skip
    assert first["handled_by"] == getpass.getuser()
    assert first["handled_at"].endswith("+00:00")
    assert first["new_stream"] == "executions"
    assert first["new_id"] == read_stream(redis, "executions")[0][0]
    assert (second["action"], second["why"], second["new_id"]) == ("dropped", "a test order", "")
    output = replay("handled").output
    assert output.index("dropped by") < output.index("put back on executions as")
    assert f"{getpass.getuser()}: a test order" in output
    assert f"{getpass.getuser()}: side=BUY -note" in output
    assert "put back" not in replay("handled", "--limit", "1").output


@pytest.mark.parametrize("stream", [DEAD, "executions"])
def test_a_letter_of_many_words_is_handled_as_it_is_then_whatever_happens_meanwhile(
    redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    letter, link = add_letter(redis, GOOD | MORE["too many"]), RedisLink(redis_url, Event())
    transaction: Any = link.client.transaction

    def interrupted(act: Any, *watched: Any) -> Any:
        def act_late(pipe: Any) -> None:
            act(pipe)
            if stream == DEAD:
                redis.xdel(DEAD, letter)
            elif not redis.exists("executions"):
                redis.xadd("executions", GOOD, id="9999999999999-7")

        return transaction(act_late, *watched)

    monkeypatch.setattr(link.client, "transaction", interrupted)
    with link.client:
        box = LetterBox(link, [DEAD])
        [found] = box.find(letter)
        new = box.put_back(found, "executions", found.fields, changes="", at="", by="")
    assert new == (None if stream == DEAD else "9999999999999-8")
    assert redis.xlen(HANDLED) == (new is not None)
    assert redis.xlen("executions") == 2 * (new is not None)


def test_a_letter_of_many_words_goes_behind_what_the_stream_has(redis: redis_py.Redis) -> None:
    ahead = "9999999999999-7"  # a server's clock may have been set back
    for words in MORE.values():
        redis.xadd("executions", {"a": "b"}, id=ahead)
        assert replay("put-back", add_letter(redis, GOOD | words)).exit_code == 0
        assert read_stream(redis, "executions")[-1][0] == "9999999999999-8"
        redis.flushall()
    before = redis.time()[0] * 1000
    assert replay("put-back", add_letter(redis, GOOD | MORE["too many"])).exit_code == 0
    [(put_back, _)] = read_stream(redis, "executions")
    assert before <= int(put_back.partition("-")[0]) <= (redis.time()[0] + 1) * 1000


def test_what_nobody_has_done_is_said(redis: redis_py.Redis) -> None:
    assert redis.dbsize() == 0
    assert replay("handled").output == "no dead letter was put back or dropped so far\n"
    assert replay().output == "0 dead letters in executions:dead\n"
    assert redis.dbsize() == 0


def test_a_dry_run_writes_nothing(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, {**GOOD, "side": "X"})
    before = redis.dbsize()
    result = replay("put-back", letter, "--set", "side=BUY", "--dry-run")
    assert result.exit_code == 0
    assert "would be put back on executions" in result.output
    assert "side             BUY" in result.output
    assert "would be dropped" in replay("drop", letter, "--dry-run").output
    assert redis.dbsize() == before
    assert redis.xlen(DEAD) == 1


def test_a_letter_that_is_still_wrong_stays(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, {**GOOD, "side": "X"})
    result = replay("put-back", letter, "--set", "side=Y")
    assert result.exit_code == 1
    assert "it would come again: side: expected BUY or SELL, found 'Y'" in result.output
    assert redis.xlen(DEAD) == 1
    assert not redis.exists("executions", HANDLED)


@pytest.mark.parametrize(("days", "code", "form"), [(0.5, 0, "right"), (1.5, 1, "wrong")])
def test_a_time_that_was_ahead_goes_back_once_it_is_near(
    redis: redis_py.Redis, days: float, code: int, form: str
) -> None:
    ahead = str(int((time.time() + days * 86_400) * 1000))
    letter = add_letter(redis, {**GOOD, "timestamp": ahead}, "timestamp: expected a time")
    assert f"its form    is {form}" in replay("show", letter).output
    assert replay("put-back", letter).exit_code == code


def test_a_repeated_field_is_repaired_by_setting_it(redis: redis_py.Redis) -> None:
    pairs = [*chain.from_iterable(GOOD.items()), "side", "SELL"]
    letter = add_letter(redis, pairs, "side: expected once, found 2 times")
    assert replay("put-back", letter).exit_code == 1
    assert replay("put-back", letter, "--set", "side=BUY").exit_code == 0
    [(_, fields)] = read_stream(redis, "executions")
    assert fields.count(b"side") == 1


def test_bytes_that_are_no_text_survive(redis: redis_py.Redis) -> None:
    letter = redis.execute_command(  # type: ignore[no-untyped-call]
        "XADD", DEAD, "*", *chain.from_iterable(GOOD.items()), b"junk", b"\xff\x00", "error",
        "order_id: expected", "source_stream", "executions", "source_id", "1-0",
    ).decode()  # fmt: skip
    assert r"b'\xff\x00'" in replay("show", letter).output
    assert replay("put-back", letter).exit_code == 0
    [(_, fields)] = read_stream(redis, "executions")
    assert fields[fields.index(b"junk") + 1] == b"\xff\x00"


def test_all_letters_of_one_reason_can_be_repaired_at_once(redis: redis_py.Redis) -> None:
    for number in range(3):
        add_letter(redis, {**GOOD, "exec_id": f"e{number}", "side": "B"})
    add_letter(redis, GOOD, "fill_qty: expected a decimal, found 'x'")
    assert replay("put-back", "--reason", "side", "--set", "side=BUY").exit_code == 0
    assert [entry["exec_id"] for entry in entries(redis, "executions")] == ["e0", "e1", "e2"]
    assert redis.xlen(DEAD) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["put-back", "5-0"], "5-0: expected a dead letter, found none in executions:dead"),
        (["drop", "x"], "expected an id such as 1700000000000-0, found 'x'"),
        (["drop"], "expected dead letters' ids or a --reason"),
        (["show", "5-0"], "expected a dead letter, found none"),
        (["drop", "--reason", "sied"], "expected a field that dead letters are about (none)"),
        (["drop", "--reason", "side", "5-0"], "expected dead letters' ids or a --reason, not both"),
        (["drop", "5-0x"], "expected an id such as 1700000000000-0, found '5-0x'"),
        (["drop", "18446744073709551616-0"], "expected an id such as 1700000000000-0, found '184"),
        (["show", "18446744073709551615-0"], "expected a dead letter, found none"),
        (["drop", "elsewhere/5-0"], "expected one of executions:dead, found 'elsewhere'"),
        (["put-back", "5-0", "--set", "side"], "expected FIELD=VALUE, found 'side'"),
        (["put-back", "5-0", "--set", "=BUY"], "expected FIELD=VALUE, found '=BUY'"),
        (["put-back", "5-0", "--set", "side=\udcfc"], r"expected UTF-8 text, found 'side=\udcfc'"),
        (["put-back", "5-0", "--unset", "\udcfc"], r"expected UTF-8 text, found '\udcfc'"),
        (["drop", "5-0", "--why", "\udcfc"], r"expected UTF-8 text, found '\udcfc'"),
    ],
)
def test_what_cannot_be_done_is_said(
    redis: redis_py.Redis, arguments: list[str], said: str
) -> None:
    result = replay(*arguments)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_reason_is_the_whole_field(redis: redis_py.Redis) -> None:
    add_letter(redis, GOOD)
    result = replay("drop", "--reason", "sid")
    assert result.exit_code == 1
    assert "expected a field that dead letters are about (side), found 'sid'" in result.output
    assert redis.xlen(DEAD) == 1


def test_a_dropped_letter_is_dropped_once_and_put_back_no_more(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, GOOD)
    assert replay("drop", letter).output == f"{letter}: dropped\n"
    again = replay("drop", letter)
    assert (again.exit_code, f"{letter}: was dropped by" in again.output) == (0, True)
    back = replay("put-back", letter)
    assert (back.exit_code, f"{letter}: was dropped by" in back.output) == (1, True)
    assert not redis.exists("executions")


def test_another_number_of_partitions_is_refused_before_anything_is_done(
    redis: redis_py.Redis,
) -> None:
    letter = add_letter(redis, GOOD)
    redis.set("executions:partitions", 4)
    result = replay("put-back", letter)
    assert result.exit_code == 1
    assert isinstance(result.exception, PartitionsError)
    assert redis.xlen(DEAD) == 1


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError(1)

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert user() == str(os.getuid())


def test_an_absent_redis_is_said_in_one_line() -> None:
    result = run_apart("replay", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("lotstream: Redis is away: ")
    assert "Traceback" not in result.stderr


def test_a_letter_of_another_stream_is_not_put_back(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, GOOD, source="fills")
    result = replay("put-back", letter)
    assert result.exit_code == 1
    assert "it came in 'fills', which the settings do not name" in result.output


def test_with_partitions_a_letter_goes_where_its_repaired_key_lives(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_PARTITIONS", "4")
    symbol = next(s for s in ("A", "B", "C", "D", "E", "F") if partition_of(s, 4) == 2)
    for part in (0, 1):
        add_letter(
            redis, {**GOOD, "symbol": f"n{part}"}, letter_id="7-0",
            dead=f"executions:dead:{part}", source=f"executions:{part}",
        )  # fmt: skip
    assert "  executions:dead:1/7-0  n1" in replay().output
    ambiguous = replay("put-back", "7-0", "--set", f"symbol={symbol}")
    assert ambiguous.exit_code == 1
    assert "executions:dead:0/7-0, executions:dead:1/7-0" in ambiguous.output
    result = replay("put-back", "executions:dead:1/7-0", "--set", f"symbol={symbol}")
    assert result.exit_code == 0, result.output
    assert [entry["symbol"] for entry in entries(redis, "executions:2")] == [symbol]
    assert redis.xlen("executions:dead:1:handled") == 1
    assert redis.xlen("executions:dead:0") == 1


def test_with_partitions_what_was_done_is_told_of_the_letter_that_is_meant_the_latest_first(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_PARTITIONS", "2")
    for part in (0, 1):
        dead, source = f"executions:dead:{part}", f"executions:{part}"
        add_letter(redis, GOOD, letter_id="7-0", dead=dead, source=source)
    replay("drop", "executions:dead:0/7-0", "--why", "before")
    monkeypatch.setattr(module, "now", lambda: "2099-01-01T00:00:00+00:00")
    assert replay("put-back", "executions:dead:1/7-0").exit_code == 0
    again = replay("put-back", "executions:dead:1/7-0")
    assert (again.exit_code, "was put back as" in again.output) == (0, True)
    assert "put back" in replay("handled", "--limit", "1").output


def test_a_letter_from_before_the_stream_had_partitions_goes_back_with_its_reports(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_PARTITIONS", "4")
    redis.set("executions", "moved by flows.rescale")
    home, new = (f"executions:{partition_of(f'{name}:SHOP', 4)}" for name in ("U1", "U4"))
    assert home != new
    redis.xadd(home, REPORT)
    letter = add_letter(redis, SHOP, dead="executions:dead:0")
    result = replay("put-back", letter, "--set", "account=U4")
    assert result.exit_code == 0, result.output
    assert [each["account"] for each in entries(redis, new)] == ["U4", "U4"]


def test_the_flow_books_what_is_put_back_and_writes_the_letter_no_second_time(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    redis.xadd("executions", {**GOOD, "fill_qty": "ten"})
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until(lambda: redis.xlen(DEAD), "a dead letter")
        [(letter, _)] = read_stream(redis, DEAD)
        assert replay("put-back", letter, "--set", "fill_qty=10").exit_code == 0
        flow.until(lambda: "AAPL" in read_hash(redis), "the position")
        assert read_hash(redis)["AAPL"]["qty"] == 10
        flow.kill()
    # Without its recovery store it reads everything again.
    with FlowProcess(tmp_path, redis_url, recovery=False) as flow:
        redis.xadd("executions", {**GOOD, "exec_id": "e2"})
        flow.until(lambda: read_hash(redis)["AAPL"]["qty"] == 20, "the next execution")
        flow.until_committed(redis)
    until(lambda: redis.xlen(DEAD) == 0, "no dead letter")
    assert replay("put-back", letter, "--set", "fill_qty=10").exit_code == 0
    assert redis.xlen("executions") == 3


# --- the reports of an execution that gets another key ---------------------------------------

REPORT: dict[Any, Any] = {
    "type": "commission", "symbol": "SHOP", "account": "U1", "exec_id": "e1",
    "timestamp": "1700000000001", "commission": "1.5", "currency": "CAD",
}  # fmt: skip
SHOP = {**GOOD, "symbol": "SHOP", "account": "U1"}


def test_an_execution_that_gets_another_symbol_takes_its_reports_along(
    redis: redis_py.Redis,
) -> None:
    redis.xadd("executions", REPORT)
    redis.xadd("executions", {**REPORT, "exec_id": "e2"})
    redis.xadd("executions", {**REPORT, "account": "U2"})
    redis.xadd("executions", SHOP)  # of the same name, and no report
    letter = add_letter(redis, SHOP, "currency: expected 'USD', found 'CAD'")
    dead_report = add_letter(redis, {**REPORT, "commission": "x"}, "commission: found 'x'")
    result = replay("put-back", letter, "--set", "symbol=SHOP@TSE")
    assert result.exit_code == 1, result.output  # the report that is still wrong
    assert f"{dead_report}: not put back" in result.output
    report, execution = entries(redis, "executions")[4:]
    assert report == {**REPORT, "symbol": "SHOP@TSE", "replayed_from": letter}
    assert execution == {**SHOP, "symbol": "SHOP@TSE", "replayed_from": letter}


def test_a_report_that_is_a_dead_letter_too_goes_with_its_execution(redis: redis_py.Redis) -> None:
    letter = add_letter(redis, SHOP, "currency: expected 'USD', found 'CAD'")
    add_letter(redis, REPORT, "currency: expected 'USD', found 'CAD'")
    assert replay("put-back", letter, "--set", "symbol=SHOP@TSE").exit_code == 0
    assert [each["symbol"] for each in entries(redis, "executions")] == ["SHOP@TSE", "SHOP@TSE"]
    # The execution last: a run that is cut off before finds it, and so the report, again.
    assert [each.get("type") for each in entries(redis, "executions")] == ["commission", None]
    assert redis.xlen(DEAD) == 0


def test_reports_stay_where_they_are_if_the_key_does(redis: redis_py.Redis) -> None:
    redis.xadd("executions", {**REPORT, "symbol": "AAPL"})
    add_letter(redis, {**REPORT, "symbol": "AAPL"}, "commission: expected")
    letter = add_letter(redis, {**GOOD, "account": "U1", "side": "B"})
    replay("put-back", letter, "--set", "side=BUY", "--dry-run")
    assert replay("put-back", letter, "--set", "side=BUY").exit_code == 0
    assert redis.xlen("executions") == 2
    assert redis.xlen(DEAD) == 1


def test_reports_that_move_keep_their_own_money_and_time(redis: redis_py.Redis) -> None:
    redis.xadd("executions", REPORT)
    add_letter(redis, {**REPORT, "commission": "2"}, "currency: expected 'USD', found 'CAD'")
    letter = add_letter(redis, {**SHOP, "commission": "x"}, "commission: expected a decimal")
    changes = "symbol=SHOP@TSE", "currency=USD", "commission=9", "timestamp=1700000000009"
    result = replay("put-back", letter, *(f"--set={change}" for change in changes))
    assert result.exit_code == 0, result.output
    moved, dead, execution = entries(redis, "executions")[1:]
    assert moved == {**REPORT, "symbol": "SHOP@TSE", "replayed_from": letter}
    assert dead == {**moved, "commission": "2", "replayed_from": dead["replayed_from"]}
    assert (execution["commission"], execution["currency"]) == ("9", "USD")
    assert entries(redis, HANDLED)[0]["changes"] == "symbol=SHOP@TSE"


def test_an_execution_that_loses_its_account_takes_its_reports_along(
    redis: redis_py.Redis,
) -> None:
    redis.xadd("executions", REPORT)
    letter = add_letter(redis, SHOP)
    assert replay("put-back", letter, "--unset", "account").exit_code == 0
    report, execution = entries(redis, "executions")[1:]
    assert (report["commission"], report.get("account")) == ("1.5", None)
    assert execution.get("account") is None


def test_another_account_moves_reports_too_whatever_revision_they_name(
    redis: redis_py.Redis,
) -> None:
    ibkr = "0000e0d5.6596b0d2.01.0"
    redis.xadd("executions", {**REPORT, "exec_id": f"{ibkr}1"})
    letter = add_letter(redis, {**SHOP, "exec_id": f"{ibkr}2", "type": "execution", "side": "X"})
    change = ("--set", "account=U9", "--set", "side=BUY")
    dry = replay("put-back", letter, *change, "--dry-run")
    assert f"{letter}: its commission report would be published on executions" in dry.output
    assert redis.xlen("executions") == 1
    assert replay("put-back", letter, *change).exit_code == 0
    assert [each["account"] for each in entries(redis, "executions")] == ["U1", "U9", "U9"]


def test_only_an_execution_brings_reports_along_and_only_reports_of_its_own(
    redis: redis_py.Redis,
) -> None:
    redis.xadd("executions", REPORT)
    redis.xadd("executions", {**REPORT, "commission": "x"})  # of no use there either
    report = add_letter(redis, {**REPORT, "commission": "2"}, "commission: expected")
    assert replay("put-back", report, "--set", "symbol=SHOP@TSE").exit_code == 0
    assert redis.xlen("executions") == 3
    other = add_letter(redis, {**REPORT, "exec_id": "e2"}, "commission: expected")
    same_id = add_letter(redis, {**SHOP, "side": "Y"})
    letter = add_letter(redis, SHOP)
    assert replay("put-back", letter, "--set", "symbol=SHOP@TSE").exit_code == 0
    assert [each.get("commission") for each in entries(redis, "executions")[3:]] == ["1.5", None]
    assert {entry_id for entry_id, _ in read_stream(redis, DEAD)} == {other, same_id}


def test_a_report_that_is_named_with_its_execution_goes_once(redis: redis_py.Redis) -> None:
    letters = add_letter(redis, SHOP), add_letter(redis, REPORT)
    result = replay("put-back", *letters, "--set", "symbol=SHOP@TSE")
    assert result.exit_code == 0
    assert "was put back" not in result.output
    assert redis.xlen("executions") == 2


def test_bytes_in_an_executions_id_are_no_reason_to_fail(redis: redis_py.Redis) -> None:
    redis.xadd("executions", {**REPORT, b"exec_id": b"\xff"})
    letter = add_letter(redis, SHOP)
    assert replay("put-back", letter, "--set", "symbol=SHOP@TSE").exit_code == 0


def test_an_execution_without_an_id_brings_no_report_along(redis: redis_py.Redis) -> None:
    """It could be any other's that has none either."""
    report = {**REPORT, "exec_id": ""}
    redis.xadd("executions", report)
    waiting = add_letter(redis, report, "exec_id: expected a value, found none")
    letter = add_letter(redis, {**SHOP, "exec_id": ""}, "exec_id: expected a value, found none")
    changes = ("--set", "exec_id=e9", "--set", "account=U2")
    assert replay("put-back", letter, *changes).exit_code == 0
    assert [each["exec_id"] for each in entries(redis, "executions")] == ["", "e9"]
    assert [entry_id for entry_id, _ in read_stream(redis, DEAD)] == [waiting]


def test_with_partitions_reports_go_where_the_execution_goes(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_PARTITIONS", "4")
    redis.xadd("executions:1", REPORT)
    letter = add_letter(redis, SHOP, dead="executions:dead:1", source="executions:1")
    away = {partition_of("SHOP", 4), 1}
    account = next(f"U{n}" for n in range(2, 99) if partition_of(f"U{n}:SHOP", 4) not in away)
    assert replay("put-back", letter, "--set", f"account={account}").exit_code == 0
    moved = entries(redis, f"executions:{partition_of(f'{account}:SHOP', 4)}")
    assert [each.get("type") for each in moved] == ["commission", None]
