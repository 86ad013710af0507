"""The page in a real browser, headless, and what the server sends it."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_py
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from connectors.parquet.tables import POSITIONS_SCHEMA
from flows.board.past import read_past
from tests.conftest import OwnServer
from tests.support.flow_process import FlowProcess, add, until
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
from tests.support.needs import need
from tests.support.rows import write_rows
from tests.support.servers import RedisServer, free_port, tied

urlopen = urllib.request.urlopen
ROOT = Path(__file__).parents[3]
MANY = 5000


@contextmanager
def serving(redis_url: str, data_dir: Path, **settings: str) -> Iterator[str]:
    """Run the board; give its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    given = {"REDIS_URL": redis_url, "DATA_DIR": str(data_dir), **settings}
    # The days of `valuation` are those of UTC.
    environment = {**os.environ, "DAY_ZONE": "UTC", **given}
    process = subprocess.Popen(
        tied([sys.executable, "-m", "flows.board", "--port", str(port)]), cwd=ROOT, env=environment
    )
    try:
        until(lambda: answers(url), "the board")
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0


def answers(url: str) -> bool:
    try:
        with urlopen(url):
            return True
    except OSError:
        return False


EVIL = "<img src=x onerror='window.evil=1'>"
"""A strategy that someone would like to see drawn."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of some of the positions that the page shows, one of them incomplete."""
    data_dir = tmp_path_factory.mktemp("data")
    write_rows(
        data_dir, "U1", "S0001", ["BUY 10 @ 100", "BUY 5 @ 110.5", "SELL 2 @ 120", "SPLIT 2:1"],
        "trend", "revert", "trend",
    )  # fmt: skip
    write_rows(data_dir, "U1", "S0002", ["BUY 1 @ 7"], "trend")
    write_rows(data_dir, "U1", "S0003", ["BUY 1 @ 7"], EVIL)
    write_rows(data_dir, "U1", "S0004", ["BUY 10 @ 100", "BUY 5 @ 110"])
    [part] = (data_dir / "positions").glob("*/S0004*")
    pq.write_table(pq.read_table(part)[1:], part)
    return data_dir


@pytest.fixture(scope="module")
def shared_board(redis_server: RedisServer, data_dir: Path) -> Iterator[str]:
    with serving(redis_server.url, data_dir) as url:
        yield url


@pytest.fixture
def board(redis: redis_py.Redis, shared_board: str) -> str:
    """The board of the shared server, which is empty."""
    with frames(shared_board) as events:
        told = (frame for frame in events if frame["state"]["streams"])
        empty = (frame for frame in told if not frame["state"]["streams"][0]["lag"])
        first = next(frame for frame in empty if "rows" not in frame or not frame["rows"])
        assert first["state"]["problem"] == ""
    return shared_board


@contextmanager
def frames(url: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Follow the page's events."""
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rsplit(":", 1)[1]), timeout=20)
    connection.request("GET", "/events")
    response = connection.getresponse()
    try:
        events = (json.loads(line[6:]) for line in response if line.startswith(b"data: "))
        yield islice(events, 60)  # two or three a second: what does not come, fails
    finally:
        connection.close()


def many(number: int = MANY) -> list[str]:
    return [
        position(f"S{n:04}", account="U1", qty=n % 7 - 3, realized_pnl=f"{n - 2500}.25")
        for n in range(number)
    ]


def value(client: redis_py.Redis, *values: str) -> None:
    put(client, *values, name="valuations")


def many_valued(price: str = "151") -> list[str]:
    """Return the valuations of `many`; one in ten has no mark, one in ten an old one."""
    return [
        valuation(f"S{n:04}", account="U1", qty=n % 7 - 3, **_OF_TENTH.get(n % 10, known))
        for n in range(MANY)
        for known in [{"mark_price": price, "unrealized_pnl": f"{2500 - n}.5"}]
    ]


_OF_TENTH: dict[int, dict[str, Any]] = {
    3: {**NOT_KNOWN, "state": "no mark"},
    4: {"mark_timestamp": 1700000000000},
}


# --- what is sent ------------------------------------------------------------------------


def test_all_is_sent_once_then_only_what_changed(board: str, redis: redis_py.Redis) -> None:
    put(redis, position("A"), position("B"), position("C"))
    with frames(board) as events:
        next(frame for frame in events if frame.get("rows"))
    with frames(board) as events:
        first = next(events)
        assert first["all"]
        assert sorted(row["key"] for row in first["rows"]) == ["A", "B", "C"]
        put(redis, position("B", qty="0.0000000001", realized_pnl="7.5"))
        redis.hdel("positions", "C")
        changed = next(frame for frame in events if frame.get("rows"))
    [row] = changed["rows"]
    assert (row["key"], row["qty"], row["avg_price"]) == ("B", "0.0000000001", "150.25")
    assert changed["gone"] == ["C"]
    assert changed["totals"] == [
        {"currency": "USD", "open": 2, "flat": 0, "cost_basis": "3005.0", "realized_pnl": "7.5",
         "commission": "2", "net_realized_pnl": "-2", "unrealized_pnl": None, "day_pnl": None,
         "total_pnl": None, "unvalued": 0, "day_unknown": 0, "stale": 0}
    ]  # fmt: skip
    assert len(json.dumps(changed)) < 1500


def test_of_what_positions_are_worth_only_what_changed_is_sent_and_by_name(
    board: str, redis: redis_py.Redis
) -> None:
    put(redis, position("A"), position("B"))
    value(redis, valuation("A"), valuation("B"))
    exact = "7.00000000000000000001"
    with frames(board) as events:
        next(frame for frame in events if frame["state"]["valued"])
    with frames(board) as events:
        first = next(events)
        assert [worth["key"] for worth in first["worth"]] == ["A", "B"]
        value(redis, valuation("B", unrealized_pnl=exact, mark_timestamp=1700000000000))
        changed = next(frame for frame in events if frame.get("worth"))
        assert changed["worth"] == [
            {"key": "B", "mark_price": "151", "market_value": "1510", "unrealized_pnl": exact,
             "day_pnl": "2.25", "total_pnl": "6.5", "mark_timestamp": 1700000000000,
             "state": "stale"}
        ]  # fmt: skip
        assert (changed["rows"], changed["totals"][0]["stale"]) == ([], 1)
        redis.delete("valuations")
        gone = next(frame for frame in events if not frame["state"]["valued"])
    assert gone["totals"][0]["unrealized_pnl"] is None


def test_the_past_is_read_from_what_the_flow_wrote(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with FlowProcess(tmp_path, redis_url) as flow:
        for number, (side, price) in enumerate(
            [("BUY", 100), ("SELL", 110), ("BUY", 100), ("SELL", 95), ("BUY", 50)]
        ):
            for symbol in ("AAPL", "MSFT"):
                redis.xadd(
                    "executions",
                    {"symbol": symbol, "side": side, "fill_qty": "1", "fill_price": str(price),
                     "order_id": "1", "exec_id": f"e{number}",
                     "timestamp": str(1700000000000 + number * 1000)},
                )  # fmt: skip
        flow.until_committed(redis)
        with serving(redis_url, flow.data_dir) as url, frames(url) as events:
            first = next(frame for frame in events if frame.get("all") and frame["rows"])
    assert first["sparks"] == {"AAPL": [10, 5], "MSFT": [10, 5]}
    curve = first["curves"]["USD"]
    assert curve[-1] == [1700000004000, 10]
    assert [value for time, value in curve if time == 1700000001000] == [10, 20]
    assert [value for time, value in curve if time == 1700000003000] == [15, 10]


@pytest.mark.parametrize("first_is_older", [True, False])
def test_the_past_is_read_from_files_of_the_first_version_beside_newer_ones(
    tmp_path: Path, *, first_is_older: bool
) -> None:
    of_version_1 = pa.schema([f for f in POSITIONS_SCHEMA if f.name not in ("sec_type", "con_id")])
    schemas = [of_version_1, POSITIONS_SCHEMA][:: 1 if first_is_older else -1]
    day = tmp_path / "positions" / "date=2024-01-02"
    day.mkdir(parents=True)
    for number, schema in enumerate(schemas):
        row = {"symbol": "A", "stream_id": f"{number}-0", "message_timestamp": number}
        path = day / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist([row], schema), path)
        os.utime(path, (number, number))
    assert read_past(tmp_path)["ms"].to_list() == [0, 1]


def asked(url: str) -> dict[str, Any]:
    with urlopen(url) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_a_positions_lots_and_last_executions_are_told_exactly(board: str) -> None:
    told = asked(f"{board}/position?key=U1:S0001")
    assert (told["problem"], told["lots_in_all"]) == ("", 2)
    lots = [(lot["qty"], lot["price"], lot["cost_basis"], lot["dated"]) for lot in told["lots"]]
    assert lots == [("16", "50", "800", True), ("10", "55.25", "552.5", True)]
    latest = told["executions"]
    assert [(each["type"], each["side"], each["fill_qty"], each["qty"]) for each in latest] == [
        ("split", None, None, "26"), ("execution", "SELL", "2", "13"),
        ("execution", "BUY", "5", "15"), ("execution", "BUY", "10", "10"),
    ]  # fmt: skip
    assert (latest[1]["order_ref"], latest[1]["net_change"]) == ("trend", "40")


def test_what_rows_do_not_tell_is_said_and_not_guessed(board: str) -> None:
    told = asked(f"{board}/position?key=U1:S0004")
    assert told["problem"].startswith("U1:S0004: expected lots of 15 in all that cost 1550, found")
    assert told["lots"] == []
    assert len(told["executions"]) == 1
    for nobody in ("position?key=%00%2F..", "position", "position?key=U1:none"):
        told = asked(f"{board}/{nobody}")
        assert (told["problem"], told["lots"], told["executions"]) == ("", [], [])


def test_strategies_are_told_with_the_positions_that_have_rows_of_them(board: str) -> None:
    told = asked(f"{board}/strategies")
    assert (told["strategies"], told["strategies_in_all"]) == ([EVIL, "revert", "trend"], 3)
    assert asked(f"{board}/strategies?name=trend")["keys"] == ["U1:S0001", "U1:S0002"]
    assert asked(f"{board}/strategies?name=none")["keys"] == []


def test_files_that_cannot_be_read_are_said_and_nothing_else_fails(
    redis_url: str, tmp_path: Path
) -> None:
    day = tmp_path / "positions" / "date=2024-01-02"
    day.mkdir(parents=True)
    with serving(redis_url, tmp_path) as url:
        assert asked(f"{url}/strategies")["strategies"] == []
        (day / "a.parquet").write_bytes(b"PAR1 no more")
        for path in ("position?key=A", "strategies", "strategies?name=a"):
            assert asked(f"{url}/{path}")["problem"].startswith("The Parquet files cannot be read")


def test_it_only_reads(board: str) -> None:
    for path in ("/", "/events", "/board.js", "/position?key=S1", "/strategies"):
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urlopen(f"{board}{path}", data=b"x")


def test_it_answers_to_no_other_name_and_fetches_nothing_elsewhere(board: str) -> None:
    request = urllib.request.Request(board, headers={"Host": "evil.example"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urlopen(request)
    with urlopen(board) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert policy == "default-src 'self'; frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache", "an upgrade brings a new page"
    if sys.platform == "linux":  # elsewhere that is no address of this machine
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(board.rpartition(":")[2]))).close()
    for path in (ROOT / "flows" / "board" / "page").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//cdn" not in text
        assert "http" not in text, path


def test_a_page_from_elsewhere_is_told_nothing(board: str) -> None:
    for path in ("events", "position?key=U1:S0001", "strategies"):
        request = urllib.request.Request(f"{board}/{path}", headers=ELSEWHERE)  # noqa: S310
        with urlopen(request) as answer:
            # Without this header a browser gives a page of another origin nothing to read.
            assert answer.headers["Access-Control-Allow-Origin"] is None
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **ELSEWHERE,
    }  # fmt: skip
    for path in ("/", "/events"):
        connection = http.client.HTTPConnection(board.removeprefix("http://"), timeout=20)
        with closing(connection):
            connection.request("GET", path, headers=upgrade)
            assert connection.getresponse().status != 101


ELSEWHERE = {"Origin": "https://evil.example"}


# --- what is seen ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    need("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "window-size=1440,900", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


class Page:
    """The page in the browser."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def do(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def focused(self, name: str) -> Any:
        """Return a property of the element with the focus, which the page may replace any time."""
        return self.browser.execute_script("return document.activeElement[arguments[0]]", name)

    def click(self, selector: str) -> None:
        """Click an element that the page may replace meanwhile."""

        def is_clicked() -> bool:
            with suppress(StaleElementReferenceException):
                self.one(selector).click()
                return True
            return False

        until(is_clicked, f"a click on {selector}")

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        ActionChains(self.browser).send_keys(key).perform()

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        texts: list[str] = self.browser.execute_script(script, selector)
        return texts

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    def until_text(self, selector: str, part: str, deadline_s: float = 20) -> None:
        until(lambda: part in self.text(selector), f"{part!r} in {selector}", deadline_s)

    def rows(self) -> list[str]:
        return self.texts("#rows th")


@pytest.fixture
def page(chromium: webdriver.Chrome, redis: redis_py.Redis, board: str) -> Iterator[Page]:
    """The page of 5,000 positions; it must leave no error in the browser's console."""
    put(redis, *many())
    entry = redis.xadd("executions", {"a": "1"})
    assert isinstance(entry, bytes)
    commit(redis, entry.decode(), read=1)
    chromium.get_log("browser")  # type: ignore[no-untyped-call]  # what the last page left
    page = Page(chromium, board)
    page.do("localStorage.clear()")
    page.until_text("#count", "of 5,000 positions")
    yield page
    messages = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry["message"] for entry in messages] == []
    chromium.get("about:blank")


@pytest.fixture
def valued(page: Page, redis: redis_py.Redis) -> Page:
    """The page of 5,000 positions that are valued."""
    value(redis, *many_valued())
    page.until_text("#head", "Unrealized")
    return page


def test_of_5000_positions_only_those_in_sight_are_drawn(page: Page) -> None:
    page.one("input[value=all]").find_element(By.XPATH, "..").click()
    until(lambda: page.text("#count") == "5,000 positions", "all positions")
    assert len(page.rows()) < 60
    assert page.rows()[0] == "S0000"
    assert page.one("#table").get_attribute("aria-rowcount") == "5001"
    page.do("document.getElementById('scroll').scrollTop = 1e9")
    until(lambda: page.rows()[-1] == "S4999", "the last row")
    last = page.do("return document.querySelector('#rows tr:last-child').ariaRowIndex")
    assert last == "5001"
    assert len(page.rows()) < 60


def longest_frame(page: Page) -> float:
    """Scroll through the positions; return the longest time between two frames, in ms."""
    longest: float = page.browser.execute_async_script("""
        const [done] = arguments, box = document.getElementById("scroll");
        box.scrollTop = 0;
        let before = performance.now(), longest = 0, steps = 0;
        function step(now) {
            longest = Math.max(longest, now - before); before = now;
            box.scrollTop += 1500;
            if (++steps < 60) requestAnimationFrame(step); else done(longest);
        }
        requestAnimationFrame(step);""")
    return longest


def test_scrolling_through_5000_positions_takes_no_frame_long(page: Page) -> None:
    until(lambda: longest_frame(page) < 500, "no long frame, whoever uses the machine too")
    assert page.rows()[0] > "S2000"


def test_scrolling_stays_smooth_while_5000_marks_change_again_and_again(
    valued: Page, redis: redis_py.Redis
) -> None:
    over = Event()

    def run() -> None:
        sets = [many_valued(price=f"{200 + n}.5") for n in range(5)]
        for n in count():
            value(redis, *sets[n % 5])
            if over.wait(0.4):
                return

    changing = Thread(target=run)
    changing.start()
    try:
        valued.until_text("#rows .mark_price", ".50")
        until(lambda: longest_frame(valued) < 500, "no long frame, whoever uses the machine too")
        assert valued.rows()[0] > "S2000"
        assert len(valued.rows()) < 60
        before = valued.text("#rows .mark_price")
        until(lambda: valued.text("#rows .mark_price") != before, "newer marks")
    finally:
        over.set()
        changing.join()


def test_the_sum_of_all_currencies_has_a_card_that_says_what_it_leaves_out(
    valued: Page, redis: redis_py.Redis
) -> None:
    assert not valued.texts("#base")
    old = currency_total("EUR", pair="EUR.USD", rate="1.25", rate_timestamp=1, rate_state="live")
    known = base_totals(
        total_pnl="-1234.5", day_pnl=None, no_rate='{"CHF.USD": 2}', currencies=f"[{old}]"
    )
    redis.set("valuations:totals", known)
    valued.until_text("#base h3", "All in USD−1,234.50")
    assert valued.text("#base p:not(.lacks)") == "unrealized +7.50 · day unknown"
    assert valued.text("#base .lacks").startswith(
        "no rate CHF.USD: 2 positions left out · rate EUR.USD stale, "
    )
    assert valued.one("#base h3 b").get_attribute("class") == "loss"
    redis.delete("valuations:totals")
    until(lambda: not valued.texts("#base"), "a sum that nobody tells any more gone")


def test_what_a_position_is_worth_is_shown_and_what_is_not_known_is_said(
    valued: Page, redis: redis_py.Redis
) -> None:
    def cells(symbol: str, *names: str) -> list[str]:
        number = valued.rows().index(symbol) + 1
        return [valued.text(f"#rows tr:nth-child({number}) .{name}") for name in names]

    names = ("mark_price", "mark_timestamp", "unrealized_pnl", "day_pnl", "total_pnl")
    assert cells("S0001", "mark_price", *names[2:]) == ["151.00", "+2,499.50", "+2.25", "+6.50"]
    assert cells("S0001", "mark_timestamp")[0].endswith((" s", " min"))
    unknown = ["unknown"] * 3
    assert cells("S0013", *names) == ["no mark", "–", *unknown]
    assert cells("S0004", "mark_timestamp")[0].startswith("stale, ")
    value(redis, valuation("S0001", account="U1", mark_price="0.0000012344"))
    until(lambda: cells("S0001", "mark_price") == ["0.000001234"], "a small price, which is not 0")
    redis.hdel("valuations", "U1:S0001")
    until(lambda: cells("S0001", *names) == ["not valued", "–", *unknown], "a lost valuation")
    valued.until_text(".lacks", "positions without a mark left out")
    valued.until_text(".lacks", "marks stale")
    redis.delete("valuations")
    until(lambda: "Unrealized" not in valued.text("#head"), "columns that nobody fills gone")
    assert not valued.text(".lacks")
    assert valued.one("#hint").is_displayed()


def test_a_change_is_seen_within_a_second(page: Page, redis: redis_py.Redis) -> None:
    page.do("""
        window.seen = new Promise(resolve => new MutationObserver(() => {
            if (document.querySelector("#rows tr").textContent.includes("+77.70")) resolve(1);
        }).observe(document.getElementById("rows"), {subtree: true, childList: true,
            characterData: true}))""")
    delays = []
    for _ in range(2):
        start = time.monotonic()
        put(redis, position("S0000", account="U1", qty=5, realized_pnl="77.7"))
        page.browser.execute_async_script("window.seen.then(arguments[0])")
        delays.append(time.monotonic() - start)
    assert min(delays) < 1
    page.until_text(".chart p", "realized")


def test_a_click_on_a_row_opens_its_lots_and_executions(page: Page, redis: redis_py.Redis) -> None:
    page.click("#rows tr")
    assert page.one("#detail").is_displayed()
    first = page.rows()[0]
    assert page.text("#detail-name") == first == "S0000"
    page.until_text("#lots-note", "0")
    page.one("#rows tr:nth-child(2)").click()
    page.until_text("#detail-name", "S0001")
    page.until_text("#lots", "552.50")
    page.until_text("#executions", "SELL")
    page.until_text("#executions", "revert")
    assert page.text("#figures").startswith("Quantity−2")
    assert "Unrealized" not in page.text("#figures")
    put(redis, position("S0001", account="U1", qty=77))
    value(redis, valuation("S0001", account="U1", qty=77))
    page.until_text("#figures", "Quantity77")
    page.until_text("#figures", "Unrealized+7.50")
    page.one("#close").click()
    assert not page.one("#detail").is_displayed()


def test_the_keyboard_opens_a_row_and_goes_on_from_it(page: Page, redis: redis_py.Redis) -> None:
    page.one("#rows button").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert page.focused("innerText") == "S0001"
    put(redis, position("AAA", account="U1"))
    until(lambda: page.rows()[0] == "AAA", "a row above")
    assert page.focused("innerText") == "S0001", "the focus goes with the position"
    page.press(Keys.ENTER)
    page.until_text("#lots", "552.50")
    assert page.focused("ariaExpanded") == "true"
    page.press(Keys.ESCAPE)
    assert not page.one("#detail").is_displayed()
    assert page.focused("innerText") == "S0001"
    for _ in range(40):  # farther than what is in sight
        page.press(Keys.ARROW_DOWN)
    assert page.focused("innerText") > "S0040"
    assert page.do("return document.getElementById('scroll').scrollTop") > 0


def test_what_goes_wrong_is_said_beside_the_position(page: Page) -> None:
    position_of = page.rows().index("S0004") + 1
    page.one(f"#rows tr:nth-child({position_of})").click()
    page.until_text("#detail-problem", "rows are missing")
    assert page.one("#executions").is_displayed()


def test_a_strategy_shows_the_positions_that_have_rows_of_it(page: Page) -> None:
    until(lambda: page.one("#strategies").is_displayed(), "strategies")
    choice = Select(page.one("#strategy"))
    names = [option.text for option in choice.options]
    assert names == ["All strategies", EVIL, "revert", "trend"]
    choice.select_by_value("trend")
    until(lambda: page.rows() == ["S0001", "S0002"], "those of a strategy")
    choice.select_by_value("revert")
    until(lambda: page.rows() == ["S0001"], "those of another")
    choice.select_by_value("")
    page.until_text("#count", "4,286 of 5,000")


def test_what_looks_like_html_is_text(page: Page, redis: redis_py.Redis) -> None:
    evil = '<img src=x onerror="window.evil=1"><b>AAPL</b>'
    put(redis, position(evil, account="<script>evil=1</script>", currency="<i>"))
    put(redis, position("of JavaScript's own", currency="constructor"))
    redis.hset("broker", ":state", json.dumps({"accounts": {"U1": 4e12}}))
    about = {"kind": "<b>", "detail": "<img src=x>", "ours": 1, "broker": 2}
    redis.hset("broker:breaks", evil, json.dumps(about))
    until(lambda: any("onerror" in row for row in page.rows()), "the row")
    page.one("input[value=all]").find_element(By.XPATH, "..").click()
    until(lambda: "S0003" in page.rows(), "all positions")
    page.one(f"#rows tr:nth-child({page.rows().index('S0003') + 1})").click()
    page.until_text("#executions", EVIL)
    page.until_text(".chart h3", "<i>")
    page.until_text("#breaks", "onerror")
    until(lambda: "constructor" in " ".join(page.texts(".chart h3")), "a currency of that name")
    assert (
        page.do(
            "return document.querySelectorAll('img, #breaks b, #rows b, #rows i, script').length"
        )
        == 1
    )
    assert page.do("return window.evil") is None


def test_a_new_position_and_one_that_is_gone(page: Page, redis: redis_py.Redis) -> None:
    put(redis, position("AAA", account="U1", currency="SEK", realized_pnl="-1234567.891"))
    redis.hdel("positions", "U1:S0000")
    until(lambda: page.rows()[:2] == ["AAA", "S0001"], "the new row first")
    assert "−1,234,567.89" in page.text("#rows tr:first-child")
    assert "−1,234,567.89" in page.text(".chart h3")


def test_the_keyboard_sorts_filters_and_scrolls(page: Page) -> None:
    heads = page.browser.find_elements(By.CSS_SELECTOR, "#head th")
    [pnl] = [head for head in heads if head.text.startswith("Realized")]
    pnl.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    until(lambda: page.rows()[0] == "S4999", "the largest P&L first")
    assert pnl.get_attribute("aria-sort") == "descending"
    pnl.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    until(lambda: page.rows()[0] == "S0000", "the smallest P&L first")
    assert pnl.get_attribute("aria-sort") == "ascending"
    page.one("body").send_keys("/")
    active = page.browser.switch_to.active_element
    assert active.get_attribute("id") == "search"
    active.send_keys("u1 s004")
    until(lambda: page.rows() and all(r.startswith("S004") for r in page.rows()), "the filter")
    active.clear()
    active.send_keys(" " + Keys.BACKSPACE)
    page.one("input[value=open]").send_keys(Keys.ARROW_RIGHT)
    until(lambda: page.rows()[0] == "S0003", "flat positions only")
    page.one("#scroll").send_keys(Keys.END)
    until(lambda: page.rows()[-1] == "S4994", "the end")


def test_a_screen_reader_is_told_what_is_what(page: Page) -> None:
    assert page.one("table").get_attribute("aria-labelledby") == "heading"
    scopes = page.do("return [...document.querySelectorAll('th')].map(e => e.scope)")
    assert set(scopes) == {"col", "row"}
    scroll = page.one("#scroll")
    assert (scroll.get_attribute("tabindex"), scroll.get_attribute("role")) == ("0", "region")
    assert page.one("#news").get_attribute("aria-live") == "polite"
    page.until_text("#news", "flow not seen yet. Dead letters: 0.")
    nameless = page.do("""return [...document.querySelectorAll("button, input, svg, [role=region]")]
        .filter(e => !(e.ariaLabel || e.textContent.trim() || e.closest("label"))).length""")
    assert nameless == 0


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_texts_stand_out_in_both_themes(valued: Page, theme: str) -> None:
    page = valued
    page.one("#rows tr:nth-child(2)").click()
    page.until_text("#executions", "SELL")
    page.until_text(".lacks", "stale")
    page.do(f"document.documentElement.dataset.theme = '{theme}'")
    # WCAG's contrast ratio of each text against what is behind it; AA asks for 4.5.
    faint = page.do("""
        const canvas = document.createElement("canvas")
            .getContext("2d", {willReadFrequently: true});
        const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
        const behind = e => { for (; e; e = e.parentElement) {
            const color = rgb(getComputedStyle(e).backgroundColor);
            if (color[3] === 255) return color; } return [255, 255, 255]; };
        return [...document.querySelectorAll("h1,h2,.badge,#clock,button,#count,.chart b,.chart p,"
            + ".chart h3 span,.chart p b,#rows td,#rows th,fieldset span,select,"
            + ".told :is(dt,dd,td,th,h3)")].filter(e => e.checkVisibility()
                && e.textContent.trim()).filter(e => {
                const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
                return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
            }).map(e => e.textContent)""")
    assert faint == []


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    button = page.one("#theme")
    grounds = set()
    for theme in ("dark", "light"):
        button.click()
        assert button.text == f"Theme: {theme}"
        grounds.add(page.do("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    page.browser.refresh()
    until(lambda: page.text("#theme") == "Theme: light", "the theme after a reload")


@pytest.fixture(params=[390, 768, 1024, 1280, 1920])
def width(request: pytest.FixtureRequest, page: Page) -> Iterator[int]:
    """Of the window, while the test runs; a real window is never as narrow as a phone."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.do("return innerWidth") == request.param
    yield request.param
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def too_wide(page: Page) -> list[str]:
    found: list[str] = page.do("""
        return [...document.querySelectorAll("html, #scroll, .chart svg")]
            .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.id || e.tagName)""")
    return found


def put_large(redis: redis_py.Redis) -> None:
    put(
        redis,
        position("AAPL  250718C00205000", account="DU1000001", realized_pnl="-1234567.89",
                 net_realized_pnl="-0.001", cost_basis="12345678.9"),
        position("SAP", account="DU1000001", currency="EUR"),
    )  # fmt: skip


def test_nothing_is_cut_off_or_scrolls_sideways_at_any_width(
    page: Page, redis: redis_py.Redis, width: int
) -> None:
    put_large(redis)
    for currency in ("USD", "EUR"):
        page.until_text("#charts", currency)
        symbol = {"EUR": "SAP", "USD": "IBM"}[currency]
        newer = position(
            symbol, account="DU1000001", currency=currency, realized_pnl="7",
            timestamp=1700000009000, stream_id="1700000009000-0",
        )  # fmt: skip
        put(redis, newer)
    page.until_text("#charts", "+7.00")
    page.browser.refresh()  # what is there is drawn at once, and nothing changes any more
    page.until_text("#charts", "EUR")
    page.until_text("#rows", "AAPL")
    assert too_wide(page) == []
    if width > 700:  # a phone has no room for the curves of several currencies
        until(lambda: page.do("return document.querySelectorAll('.curve').length") > 0, "curves")
    drawn = "return [...document.querySelectorAll('.chart svg path.curve')].every(e => "
    inside = "e.getBBox().x + e.getBBox().width <= e.ownerSVGElement.clientWidth + 1)"
    assert page.do(drawn + inside)
    assert "−0.00" not in page.text("#rows")


def test_columns_give_way_and_what_a_position_is_worth_stays(
    page: Page, redis: redis_py.Redis, width: int
) -> None:
    put_large(redis)
    large = {"unrealized_pnl": "-1234567.89", "total_pnl": "-2345678.9", "day_pnl": "999999.5"}
    option = "AAPL  250718C00205000"
    value(redis, valuation(option, account="DU1000001", mark_timestamp=1, **large))
    page.until_text("#rows", "−1,234,567.89")
    page.until_text("#rows", "stale")
    until(lambda: not too_wide(page), "no column too many")
    heads = page.texts("#head th")
    assert {"Symbol", "Quantity", "Unrealized"} <= set(heads)
    assert ("Day" in heads) == (width > 700)
    assert ("Mark age" in heads) == (width > 800)
    assert ("Commission" in heads) == (width > 1800)


def test_badges_tell_of_flow_lag_and_dead_letters(page: Page, redis: redis_py.Redis) -> None:
    page.until_text("#badges", "flow not seen yet")
    be_heard(redis)
    page.until_text("#badges", "flow running")
    assert page.text(".badge.bad") == ""
    redis.xadd("executions", {"a": "1"})
    redis.xadd("executions:dead", {"a": "1"})
    page.until_text("#badges", "lag 1,")
    page.until_text(".badge.bad", "1 dead letter")
    page.until_text("#news", "Dead letters: 1.")


def test_it_asks_nobody_else(page: Page) -> None:
    page.until_text("#badges", "dead letters")
    names = page.do("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(names) >= 2
    assert {name.rsplit("/", 1)[0] for name in names} == {page.do("return location.origin")}


def test_what_the_real_flows_say_is_seen_and_becomes_old_when_they_are_gone(
    chromium: webdriver.Chrome, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    stale = {"MARK_STALE_S": "3"}
    with (
        FlowProcess(tmp_path / "main", redis_url) as flow,
        FlowProcess(
            tmp_path / "second", redis_url, recovery=False, flow="flows.valuation", **stale
        ) as second,
        serving(redis_url, flow.data_dir, **stale) as url,
    ):
        execution = {
            "symbol": "AAPL", "account": "U1", "side": "BUY", "fill_qty": "10",
            "fill_price": "100.5", "order_id": "1", "exec_id": "e1", "order_ref": "trend",
            "timestamp": str(time.time_ns() // 10**6),
        }  # fmt: skip
        add(redis, execution)
        page = Page(chromium, url)
        page.until_text("#rows .mark_price", "no mark")
        page.until_text(".lacks", "1 position without a mark left out")
        now = time.time_ns() // 10**6
        redis.xadd("marks", {"symbol": "AAPL", "price": "101.75", "timestamp": str(now)})
        page.until_text("#rows .unrealized_pnl", "+12.50")
        page.click("#rows tr")
        page.until_text("#lots", "100.50")
        page.until_text("#executions", "trend")
        second.kill()
        page.until_text("#rows .mark_timestamp", "stale, ")
        page.until_text(".lacks", "1 mark stale")
        add(redis, {**execution, "exec_id": "e2"})
        page.until_text("#rows .mark_price", "not valued")
        page.until_text("#lots-note", "2")
    chromium.get("about:blank")


def test_outages_are_said_and_outlived(
    chromium: webdriver.Chrome, own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True)
    with server.client() as client:
        put(client, position("A"))
    with ExitStack() as running:
        url = running.enter_context(serving(server.url, tmp_path))
        page = Page(chromium, url)
        page.until_text("#rows", "A")
        server.kill()
        page.until_text("#problem", "Redis is away: ")
        assert page.one("#problem").is_displayed()
        assert page.one("#problem").get_attribute("role") == "alert"
        assert page.rows() == ["A"]
        server.start()
        until(lambda: not page.one("#problem").is_displayed(), "Redis back")
        with server.client() as client:
            put(client, position("B"))
        page.until_text("#rows", "B")
        running.close()
        page.until_text("#problem", "The board's server is away")
        until(lambda: not page.texts(".badge.good"), "no badge that says all is well")
    chromium.get("about:blank")
