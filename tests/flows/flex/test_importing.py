"""An import as a person calls it, in this process: what is asked for, refused and shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from typer.testing import CliRunner, Result

from flows.flex import importing
from flows.flex.__main__ import app
from tests.support.flex_files import action, element, flex, trade

SPUN = action(
    "SNPX", 22, "NTRP(US1) SPINOFF  1 FOR 5 (SNPX, S, US2)", "20240103;202500",
    type="SO", transactionID="801",
)  # fmt: skip

INTEREST = element("CashTransaction", type="Broker Interest Paid")


class Desk:
    """A user's place: a stream, settings, and a file."""

    def __init__(self, directory: Path, redis: redis_py.Redis) -> None:
        self._file, self.redis = directory / "a.xml", redis

    def call(self, rows: list[str], *words: str, actions: tuple[str, ...] = ()) -> Result:
        self._file.write_text(flex(rows, actions, CashTransactions=[INTEREST]))
        return CliRunner().invoke(app, ["import", *words, str(self._file)])

    def told(self, rows: list[str], *words: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.call(rows, "--json", *words).stdout)
        return told

    def prices(self) -> list[str]:
        entries: Any = self.redis.xrange("executions")
        return [fields[b"fill_price"].decode() for _, fields in entries]


@pytest.fixture
def desk(
    tmp_path: Path, redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    settings = {"REDIS_URL": redis_url, "DATA_DIR": f"{tmp_path}/data", "IBKR_TIMEZONE": "UTC"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return Desk(tmp_path, redis)


def rows(*times: str) -> list[str]:
    """Return a trade at each time, at the prices 1, 2 and so on."""
    return [trade("A", 1, price, time) for price, time in enumerate(times, start=1)]


THREE = ("20240102;100000", "20240103;100000", "20240104;100000")


def test_days_go_from_the_begin_of_the_first_to_the_end_of_the_last(desk: Desk) -> None:
    made = rows("20240101;235959", "20240102;000000", "20240103;235959", "20240104;000000")
    desk.call(made, "--since", "2024-01-02", "--until", "2024-01-03")
    assert desk.prices() == ["2", "3"]
    desk.redis.flushall()
    desk.call(made, "--since", "2024-01-02", "--until", "2024-01-02", "--timezone", "Etc/GMT+1")
    assert desk.prices() == ["2"], "the day of the zone that is named"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--since 2024-01-03 --until 2024-01-02", "expected 2024-01-03 or later, as --since says"),
        ("--since tomorrow", "expected a day such as 2024-01-31, found 'tomorrow'"),
        ("--ratio 801", "--ratio: expected ROW=SHARE with a share from 0 to 1, found '801'"),
        ("--ratio =1", "found '=1'"), ("--ratio 801=1.01", "found '801=1.01'"),
        ("--ratio 801=-1/6", "found '801=-1/6'"), ("--ratio 801=1/0", "found '801=1/0'"),
        ("--ratio 802=1", "a corporate action in the files, found '802'; nothing was published"),
        ("--timezone Moon", "--timezone: expected a time zone's name such as America/New_York"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_told_and_nothing_is_published(
    desk: Desk, words: str, said: str
) -> None:
    done = desk.call(rows(*THREE), *words.split(), actions=(SPUN,))
    assert done.exit_code != 0
    assert said in str(done.exception) + " ".join(done.stderr.replace("│", "").split())
    assert not desk.redis.exists("executions", "instruments")


@pytest.mark.parametrize("share", ["0", "1", "0.04238", "1/6"])
def test_a_share_may_be_all_nothing_and_any_part_between(desk: Desk, share: str) -> None:
    made = [trade("NTRP", 110, "4.74", "20240102;122344", isin="US1")]
    assert desk.call(made, actions=(SPUN,)).exit_code == 1
    done = desk.call(made, "--ratio", f"801={share}", actions=(SPUN,))
    assert done.exit_code == 0, done.output


def test_what_is_published_is_said_and_what_was_known_before(desk: Desk) -> None:
    made = rows(*THREE)
    assert desk.call(made[:2]).stdout.splitlines() == [
        "rows of sections that change no position: CashTransactions 1",
        "published 2 of 2 executions; 0 rows known before; 0 left out",
    ]
    assert desk.call(made).stdout.endswith(
        "published 1 of 1 execution; 2 rows known before; 0 left out\n"
    )
    assert desk.call(made).stdout.endswith(
        "published 0 of nothing new; 3 rows known before; 0 left out\n"
    )


def test_a_cancellation_is_kept_for_its_trade_unless_the_run_is_dry(desk: Desk) -> None:
    gone = trade("A", 1, 1, THREE[0], tradeID="17")
    cancel = trade("A", -1, 1, THREE[0], tradeID="", origTradeID="17", ibExecID="",
                   buySell="BUY (Ca.)", transactionType="TradeCancel",
                   transactionID="")  # fmt: skip
    desk.call([cancel], "--dry-run")
    assert "would publish 1 execution;" in desk.call([gone], "--dry-run").stdout
    desk.call([cancel])
    assert "published 2 of 2 executions" in desk.call([gone]).stdout, "the trade and its end"


def test_messages_go_in_batches_of_which_the_last_may_be_smaller(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    for times, published in ((THREE, 3), (THREE[:2], 2)):
        desk.redis.flushall()
        done = desk.call(rows(*times))
        assert f"published {published} of {published} executions" in done.stdout
        assert desk.prices() == ["1", "2", "3"][:published]


def test_of_many_rows_some_are_shown_and_how_many_more_there_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MOST_SHOWN", 2)
    bad = [trade("B", 1, "?", time, exchange="") for time in THREE]
    lines = desk.call([*rows(*THREE), *bad], "--dry-run").stdout.splitlines()
    assert [line.partition(" account=")[0] for line in lines[:2]] == ["symbol=A"] * 2
    assert lines[2] == "… and 1 more (--json prints all)"
    assert lines[3] == lines[5] == "left out: tradePrice: expected a number, found '?'"
    assert lines[6].startswith("  section=Trades ")
    assert "exchange=" not in lines[6], "what is empty is not shown"
    assert lines[7] == "… and 1 more left out (--json prints all)"
    assert lines[-1] == "would publish 3 executions; 0 rows known before; 3 left out"
    all_of_two = desk.call([*rows(*THREE[:2]), *bad[:2]], "--dry-run").stdout
    assert "more" not in all_of_two


def test_json_tells_all_and_of_what_was_published_only_how_much(desk: Desk) -> None:
    made = [*rows(THREE[0]), trade("B", 1, "?", THREE[1])]
    dry, done = desk.told(made, "--dry-run"), desk.told(made)
    [message] = dry["messages"]
    [problem] = dry["left_out"]
    assert (message["symbol"], message["fill_price"]) == ("A", "1")
    assert (problem["reason"], problem["row"]["symbol"]) == (
        "tradePrice: expected a number, found '?'", "B"
    )  # fmt: skip
    same = {
        "known": 0, "counts": {"execution": 1}, "left_out": [problem], "notes": [],
        "sections_passed_over": {"CashTransactions": 1},
    }  # fmt: skip
    assert dry == {"published": None, "messages": [message], **same}
    assert done == {"published": 1, "messages": None, **same}


@pytest.mark.parametrize(
    ("zone", "time", "words", "noted"),
    [
        ("", THREE[0], [], True), ("UTC", THREE[0], [], False),
        ("", THREE[0], ["--timezone", "UTC"], False), ("", f"{THREE[0]} UTC", [], False),
    ],
)  # fmt: skip
def test_that_times_name_no_zone_is_noted_unless_someone_has_named_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, zone: str, time: str, words: list[str], noted: bool
) -> None:
    monkeypatch.delenv("IBKR_TIMEZONE")
    if zone:
        monkeypatch.setenv("IBKR_TIMEZONE", zone)
    done = desk.call(rows(time), "--dry-run", *words)
    assert ("note: times that name no zone are taken as " in done.stdout) == noted
