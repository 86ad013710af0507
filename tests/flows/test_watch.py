"""The terminal view: what it says, in a terminal and to a script, of a real server."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import pytest
import redis as redis_py
from rich.console import Console

from connectors.redis.overview import Overview, OverviewReader, StreamState
from connectors.redis.worth import Valuations
from flows.watch import Show, Sort, View, as_json, figure, moment, money, page, price, progress
from tests.conftest import OwnServer
from tests.support.flow_process import FlowProcess
from tests.support.hash_values import (
    NOT_KNOWN,
    base_totals,
    be_heard,
    commit,
    currency_total,
    position,
    put,
    valuation,
)
from tests.support.servers import free_port, tied

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "flows.watch"]
STATE = StreamState("executions", 5, "5-0", "4-0", 2.0, 0, 0.0, 0.5)


def run(url: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, "REDIS_URL": url, **settings},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def text_of(view: View, height: int | None = None, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(page(view, height, width))
    return capture.get().splitlines()


@pytest.fixture
def view(redis: redis_py.Redis, redis_url: str) -> Iterator[View]:
    """A view of four positions."""
    put(
        redis,
        position("AAPL", realized_pnl="-12.345", stream_id="1700000000000-0"),
        position("MSFT", account="U1", realized_pnl="1234567.891", stream_id="1700000002000-0"),
        position("SAP", currency="EUR", realized_pnl="3", stream_id="1700000001000-0"),
        position("FLAT", qty=0, avg_price=None, cost_basis=0, stream_id="1700000003000-0"),
    )
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=["executions:dead"], positions_hash="positions"
    )
    view = View()
    view.look(reader)
    yield view
    reader.close()


@pytest.fixture
def valued(view: View, redis: redis_py.Redis, redis_url: str) -> View:
    """The same positions, of which one has no mark and one a stale one."""
    put(
        redis,
        valuation("AAPL", unrealized_pnl="-1234.5", total_pnl="-1235.5", day_pnl=None,
                  stream_id="1700000000000-0"),
        valuation("MSFT", account="U1", mark_timestamp=1700000000000, unrealized_pnl="1234567.891",
                  stream_id="1700000002000-0"),
        valuation("SAP", currency="EUR", state="no mark", stream_id="1700000001000-0", **NOT_KNOWN),
        name="valuations",
    )  # fmt: skip
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=["executions:dead"], positions_hash="positions",
        valuations=Valuations("valuations", 60_000, "UTC"),
    )  # fmt: skip
    view.look(reader)
    reader.close()
    return view


def keys(view: View) -> list[str]:
    return [key for key, _ in view.positions()]


def test_what_is_wrong_stands_above_the_last_figures_and_ends_the_rate(
    view: View, redis: redis_py.Redis, redis_url: str
) -> None:
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=["executions:dead"], positions_hash="positions"
    )
    time.sleep(0.01)
    view.look(reader)
    assert view.rate.per_second == 0
    redis.set("positions", "no hash")
    view.look(reader)
    text = text_of(view)
    assert text[0].startswith("Redis is away: Redis refuses a command: WRONGTYPE")
    assert any(line.startswith("AAPL ") for line in text)
    assert as_json(view) == json.dumps({"problem": view.problem})
    assert view.rate.per_second is None
    redis.delete("positions")
    redis.hset("positions", "A", "none")
    view.look(reader)
    assert view.problem.startswith("position 'A': expected a JSON object")
    redis.delete("positions")
    view.look(reader)
    assert view.problem == ""
    reader.close()


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("problem", ["word" * 70, f"Redis is away: {'x' * 70} {'y' * 70}"])
def test_a_long_problem_leaves_the_page_in_its_height(view: View, problem: str, width: int) -> None:
    assert view.overview is not None
    one = view.overview.positions["AAPL"]
    view.overview = view.overview._replace(positions={f"A{n}": one for n in range(50)})
    view.problem = problem
    assert len(text_of(view, 24, width)) == 24
    assert any(line.startswith("A0 ") for line in text_of(view, 3, width)), "one at least"


def test_positions_are_sorted_by_key_pnl_or_latest_change(view: View) -> None:
    assert keys(view) == ["AAPL", "SAP", "U1:MSFT"]
    view.sort = Sort.PNL
    assert keys(view) == ["U1:MSFT", "SAP", "AAPL"]
    view.sort = Sort.CHANGE
    assert keys(view) == ["U1:MSFT", "SAP", "AAPL"]
    view.show = Show.ALL
    assert keys(view) == ["FLAT", "U1:MSFT", "SAP", "AAPL"]


def test_open_and_flat_positions_can_be_shown_alone(view: View) -> None:
    view.show = Show.FLAT
    assert keys(view) == ["FLAT"]
    view.show = Show.ALL
    assert len(keys(view)) == 4


def test_a_page_says_all_there_is_within_80_columns(view: View) -> None:
    lines = text_of(view)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert re.search(r"^U1:MSFT +10 +150.2500 +1,234,567.89 +-1.00 USD", text, re.MULTILINE)
    assert re.search(r"^AAPL .* -12.34 ", text, re.MULTILINE)
    assert re.search(r"^EUR: 1 open, 0 flat +1,502.50 +3.00 +-1.00 +1.00", text, re.MULTILINE)
    assert "dead letters: 0" in lines[0]
    assert "flow waiting for a first entry, lag 0, nothing committed" in lines[1]


def test_the_longest_key_and_the_largest_figures_fit(view: View) -> None:
    assert view.overview is not None
    [long] = [p for k, p in view.overview.positions.items() if k == "AAPL"]
    long = long._replace(
        account="U1234567", symbol="S" * 64, qty=Decimal("-99999999999999999.0000000001"),
        avg_price=Decimal("123456789.0123456789"), realized_pnl=Decimal(-(10**17) + 1),
        net_realized_pnl=Decimal(-(10**17) + 1),
    )  # fmt: skip
    view.overview = view.overview._replace(positions={f"U1234567:{'S' * 64}": long})
    lines = text_of(view)
    assert max(map(len, lines)) <= 80
    assert "-1.000000e+17" in "\n".join(lines)
    assert "…" in "\n".join(lines)


def test_no_name_can_draw_on_the_terminal(view: View) -> None:
    assert view.overview is not None
    evil = view.overview.positions["AAPL"]._replace(currency="[re")
    view.overview = view.overview._replace(positions={"[red]\x1b[2J\n": evil})
    text = "\n".join(text_of(view))
    assert r"[red]\x1b[2J\n" in text
    assert "\x1b" not in text
    assert "[re " in text


def test_positions_that_do_not_fit_are_on_further_pages(view: View) -> None:
    view.show = Show.ALL
    first = text_of(view, height=10)
    assert len(first) <= 10
    assert "4 positions by key, 1/2" in first[-1]
    assert view.press("n")
    second = text_of(view, height=10)
    assert re.findall(r"^(AAPL|FLAT|SAP|U1:MSFT) ", "\n".join(first + second), re.MULTILINE) == [
        "AAPL", "FLAT", "SAP", "U1:MSFT",
    ]  # fmt: skip
    assert "2/2" in second[-1]
    view.press("n")
    assert text_of(view, height=10) == second
    view.press("p")
    assert text_of(view, height=10) == first


def test_arrows_go_by_a_row_and_page_keys_by_a_page(view: View) -> None:
    view.show = Show.ALL
    text_of(view, height=9)
    assert view.room == 2
    for key, top in (
        ("\x1b[B", 1), ("\x1b[A", 0), ("\x1b[A", 0), ("\x1b[6~", 2), ("\x1b[6~", 2), ("\x1b[5~", 0),
    ):  # fmt: skip
        assert view.press(key)
        text_of(view, height=9)
        assert view.top == top


def test_words_of_account_symbol_and_currency_filter(view: View) -> None:
    for key in "/u1 MS":
        assert view.press(key)
    assert text_of(view, height=24)[-1].startswith("filter: u1 MS_")
    assert keys(view) == ["U1:MSFT"]
    view.press("\x7f")
    view.press("\r")
    assert keys(view) == ["U1:MSFT"]
    assert "1 open position by key, with 'u1 M', 1/1" in text_of(view, height=24)[-1]
    assert not view.press("q")
    view.press("\x1b")
    assert len(keys(view)) == 3
    view.search = "eur"
    assert keys(view) == ["SAP"]
    for key in "/us":
        view.press(key)
    assert len(keys(view)) == 2, "what was typed before is gone"
    for key in ("\x1b[A", "\x07"):
        view.press(key)
    assert view.search == "us", "keys that are no letters are no words"
    view.press("\x1b")
    assert (view.typing, view.search) == (False, "")


def test_where_there_is_little_room_figures_give_way_and_more_come_where_there_is_more(
    view: View,
) -> None:
    assert view.overview is not None
    held = view.overview.positions["U1:MSFT"]._replace(
        symbol="AAPL  250718C00205000", net_realized_pnl=Decimal("-1234567.89")
    )
    name = "DU1000001:AAPL  250718C00205000"
    view.overview = view.overview._replace(positions={name: held})
    for width in (40, 60, 80, 120, 160):
        lines = text_of(view, 24, width)
        assert max(map(len, lines)) <= width
        assert name in "\n".join(lines)
    headings = {
        width: next(line for line in text_of(view, width=width) if line.startswith("Position "))
        for width in (60, 80, 120)
    }
    assert headings[60].split() == ["Position", "Qty", "Net", "P&L", "Cur"]
    assert "Avg price" in headings[80]
    assert "Realized P&L" in headings[120]
    assert "Cost basis" in headings[120]


def test_what_positions_are_worth_is_shown_and_what_is_unknown_is_said(valued: View) -> None:
    valued.show = Show.ALL
    text = "\n".join(text_of(valued, width=200))
    assert re.search(
        r"^AAPL +10 +150.2500 +150.2500 +1,502.50 +151.0000 +\d+ s +-1,234.50 +unknown +-1,235.50 ",
        text, re.MULTILINE,
    )  # fmt: skip
    assert re.search(r"^U1:MSFT .* stale 1,234,567.89 +2.25 +6.50 ", text, re.MULTILINE)
    assert re.search(r"^SAP .* - +- +no mark +unknown +unknown ", text, re.MULTILINE)
    assert re.search(r"^FLAT .* - +- +not valued +unknown +unknown ", text, re.MULTILINE)
    assert re.search(r"^EUR: 1 open, 0 flat +unknown +unknown +unknown ", text, re.MULTILINE)
    assert re.search(r"^USD: 2 open, 1 flat +1,233,333.39 +2.25 +-1,229.00 ", text, re.MULTILINE)
    assert "all in" not in text
    assert "\nEUR: 1 without a mark left out\n" in text
    assert "\nUSD: 1 without a mark left out, 1 more in no day's P&L, 1 at a stale mark\n" in text


def test_a_flat_position_needs_no_mark_so_none_of_it_is_stale(
    valued: View, redis: redis_py.Redis, redis_url: str
) -> None:
    old = valuation("FLAT", qty=0, unrealized_pnl=0, mark_timestamp=1, stream_id="1700000003000-0")
    put(redis, old, name="valuations")
    reader = OverviewReader(
        redis_url, streams=[], letters=[], positions_hash="positions",
        valuations=Valuations("valuations", 60_000, "UTC"),
    )  # fmt: skip
    valued.look(reader)
    reader.close()
    valued.show = Show.FLAT
    [line] = [line for line in text_of(valued, width=200) if line.startswith("FLAT ")]
    assert "stale" not in line


def test_totals_over_all_currencies_stand_below_and_say_what_they_leave_out(
    view: View, redis: redis_py.Redis, redis_url: str
) -> None:
    put(redis, valuation("AAPL", stream_id="1700000000000-0"), name="valuations")
    old = currency_total("EUR", pair="EUR.USD", rate="1.25", rate_timestamp=1, rate_state="live")
    redis.set("valuations:totals", base_totals(
        total_pnl="1234.5", day_pnl=None, unvalued=2, no_rate='{"CHF.USD": 1, "GBP.USD": 2}',
        currencies=f"[{old}]",
    ))  # fmt: skip
    text = run(redis_url, "--once", COLUMNS="200").stdout
    assert re.search(r"^all in USD +7.50 +unknown +1,234.50 *$", text, re.MULTILINE)
    assert re.search(
        r"^all in USD: no rate CHF.USD: 1 position left out, no rate GBP.USD: 2 positions left "
        r"out, rate EUR.USD stale, \d+ d, 2 without a mark left out$",
        text, re.MULTILINE,
    )  # fmt: skip
    base = json.loads(run(redis_url, "--once", "--json").stdout)["base"]
    assert base["no_rate"] == {"CHF.USD": 1, "GBP.USD": 2}
    assert [each["rate_state"] for each in base["currencies"]] == ["stale"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_what_positions_are_worth_gives_way_last_and_never_the_symbol(
    valued: View, width: int
) -> None:
    lines = text_of(valued, width=width, height=15)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 15
    assert re.search(r"^U1:MSFT +10 .*stale 1,234,567.89", text, re.MULTILINE)
    assert re.search(r"^SAP +10 .*no mark", text, re.MULTILINE)
    assert ("Total" in text.splitlines()[2]) == (width >= 60)


def test_keys_change_sort_and_filter(view: View) -> None:
    assert [view.press(key) for key in "sf"] == [True, True]
    assert (view.sort, view.show) == (Sort.PNL, Show.FLAT)
    for key in "ssff":
        view.press(key)
    assert (view.sort, view.show) == (Sort.KEY, Show.OPEN)
    assert view.press("x")
    assert not view.press("q")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (STATE, "lag 0, all committed"),
        (STATE._replace(lag=1234, lag_s=90.0), "lag 1,234 (2 min), committed up to 2 s ago"),
        (
            STATE._replace(lag=None, lag_s=5.0),
            "lag some entries (5 s), committed up to 2 s ago",
        ),
        (STATE._replace(committed_id=None, committed_age_s=None), "lag 0, nothing committed"),
    ],
)
def test_progress_is_said_in_words(state: StreamState, words: str) -> None:
    assert progress(state) == words


def test_of_many_streams_the_worst_are_listed() -> None:
    streams = [STATE._replace(stream=f"executions:{n}", lag_s=float(n)) for n in range(9)]
    streams[4] = streams[4]._replace(flow_silent_s=60.0)
    lines = text_of(View(overview=Overview(0, {}, streams, 0)))
    assert lines[1].startswith("executions:4: flow AWAY")
    assert lines[2].startswith("executions:8: flow running")
    assert lines[7] == "and 3 streams more"


def test_figures_keep_their_width() -> None:
    assert figure(Decimal("10.50"), 10) == "10.5"
    assert figure(Decimal(1000), 10) == "1,000"
    assert figure(None, 10) == "-"
    assert figure(Decimal("0.005"), 10, 2) == "0.00"
    assert figure(Decimal("1234567890.5"), 10) == "1.23e+9"
    assert moment(1700000000000, 1700000005000) == "22:13:20"
    assert moment(1700000000000, 1800000000000) == "20231114"
    assert moment(1700000000000000, 1800000000000) == "no time"  # an entry's id in microseconds
    hour = 3_600_000
    assert moment(1700000000000, 1700000000000 + 20 * hour - 1) == "22:13:20"
    assert moment(1700000000000, 1700000000000 + 20 * hour) == "20231114"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("191.2", "191.2000"), ("0.5", "0.5000"), ("-0.00001234567", "-0.00001235"),
        ("0.0000001234", "1.234e-7"), ("0E-10", "0.0000"),
    ],
)  # fmt: skip
def test_no_price_is_0_because_it_is_small(value: str, text: str) -> None:
    assert price(Decimal(value)) == text


def test_only_a_loss_is_red_and_only_a_gain_green() -> None:
    assert [money(Decimal(n)).style for n in (-1, 0, 1)] == ["red", "", "green"]


# --- the command --------------------------------------------------------------------------


def test_a_script_gets_exact_json(redis: redis_py.Redis, redis_url: str) -> None:
    pnl = "12345678901234567.00000000000000000001"
    said: dict[str, Any] = {"con_id": 7, "other_commissions": {"EUR": 1.5}}
    put(redis, position("A", realized_pnl=pnl, **said), position("B", qty=0))
    entry = redis.xadd("executions", {"a": "1"})
    assert isinstance(entry, bytes)
    commit(redis, entry.decode(), read=1)
    be_heard(redis)
    result = run(redis_url, "--once", "--json", "--show", "all")
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout, parse_float=Decimal)
    assert [p["symbol"] for p in seen["positions"]] == ["A", "B"]
    assert seen["positions"][0]["realized_pnl"] == Decimal(pnl)
    assert {name: seen["positions"][0][name] for name in said} == said
    assert seen["totals"][0]["realized_pnl"] == Decimal(pnl)
    assert seen["dead_letters"] == 0
    assert seen["executions_per_s"] is None
    [stream] = seen["streams"]
    assert (stream["flow"], stream["lag"], stream["committed_id"]) == (
        "running", 0, entry.decode(),
    )  # fmt: skip


def test_once_prints_one_page_without_any_control_code(
    redis: redis_py.Redis, redis_url: str
) -> None:
    put(redis, *(position(f"S{n:03}") for n in range(100)))
    result = run(redis_url, "--once", "--sort", "pnl")
    assert result.returncode == 0
    assert all(f"S{n:03}" in result.stdout for n in range(100))
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "100 open positions by pnl" in result.stdout


def test_another_number_of_partitions_is_said_as_the_flow_says_it(
    redis: redis_py.Redis, redis_url: str
) -> None:
    redis.set("executions:partitions", 4)
    result = run(redis_url, "--once")
    assert result.returncode == 1
    said = "STREAM_PARTITIONS: expected 4, as stream 'executions' has had so far, found 1;"
    assert said in " ".join(result.stdout.split())


def test_an_absent_redis_is_said_and_is_exit_code_1() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    result = run(url, "--once")
    assert result.returncode == 1
    assert result.stdout.startswith("Redis is away: ")
    as_json = run(url, "--once", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["problem"].startswith("Redis is away: ")


def test_a_real_flow_is_seen_at_work(redis: redis_py.Redis, redis_url: str, tmp_path: Path) -> None:
    redis.xadd(
        "executions",
        {"symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25",
         "order_id": "1", "exec_id": "e1", "timestamp": "1700000000000"},
    )  # fmt: skip
    redis.xadd("executions", {"symbol": "AAPL"})
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        flow.until(lambda: redis.xlen("executions:dead"), "a dead letter")
        seen = json.loads(run(redis_url, "--once", "--json").stdout)
    assert [(p["symbol"], p["qty"]) for p in seen["positions"]] == [("AAPL", 10)]
    assert seen["dead_letters"] == 1
    assert seen["streams"][0]["lag"] == 0


class Terminal:
    """The command in a terminal of 80 x 24."""

    def __init__(self, url: str, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            tied([*COMMAND, *arguments]), cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "REDIS_URL": url, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(slave)
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, pattern: str) -> str:
        """Wait until something new matches; return all that came until then."""
        start, deadline = len(self.output), time.monotonic() + 30
        while not re.search(pattern, self.output[start:]):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.output[-3000:]!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    break
        return self.output[start:]

    def type(self, key: str) -> None:
        os.write(self._master, key.encode())


def test_the_terminal_follows_keys_changes_and_outages_without_flicker(
    own_server: OwnServer,
) -> None:
    server = own_server(appendonly=True)
    with server.client() as client:
        put(client, position("AAPL"), position("FLAT", qty=0))
        with Terminal(server.url, "--every", "0.2") as terminal:
            terminal.until("1 open position by key")
            terminal.type("s")
            terminal.until("open position by pnl")
            terminal.type("f")
            terminal.until("1 flat position")
            put(client, position("FLAT2", qty=0, realized_pnl="55"))
            terminal.until("FLAT2 .*55.00")
            server.kill()
            terminal.until("Redis is away: .*\n(.*\n)*.*FLAT2")
            server.start()
            drawn = terminal.until(r"lotstream [\d:]+ UTC.*\n(.*\n)*.*2 flat positions")
            # Nothing is cleared before it is drawn anew: that would flicker.
            assert "\x1b[2J" not in drawn
            terminal.type("q")
            terminal.until(r"\x1b\[\?1049l")
            assert terminal.process.wait(20) == 0


def test_the_terminal_is_given_back_when_the_program_is_ended(
    redis: redis_py.Redis, redis_url: str
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Terminal(redis_url) as terminal:
            terminal.until("positions by key")
            terminal.process.send_signal(number)
            terminal.until(r"\x1b\[\?1049l")
            assert terminal.process.wait(20) == 0


def test_json_goes_on_until_it_is_ended(redis: redis_py.Redis, redis_url: str) -> None:
    with subprocess.Popen(
        tied([*COMMAND, "--json", "--every", "0.1"]), cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "REDIS_URL": redis_url},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        put(redis, position("A"))
        looks = [json.loads(process.stdout.readline()) for _ in range(20)]
        process.terminate()
    assert first["positions"] == []
    assert looks[-1]["positions"][0]["symbol"] == "A"
    assert looks[-1]["executions_per_s"] is not None
