"""The settings are the contract's; a wrong one gives one line that names its variable."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.common.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _environment_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_the_defaults_are_the_contracts() -> None:
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == "redis://localhost:6379/0"
    assert settings.model_dump(exclude={"redis_url"}) == {
        "executions_stream": "executions",
        "stream_partitions": 1,
        "own_partitions": (),
        "positions_hash": "positions",
        "changes_stream": "positions:changes",
        "changes_kept": 100_000,
        "dead_letter_stream": "executions:dead",
        "data_dir": Path("data"),
        "stream_retention_hours": None,
        "accept_gap": (),
        "ibkr_host": "127.0.0.1",
        "ibkr_port": 7497,
        "ibkr_client_id": 1,
        "ibkr_timezone": "UTC",
        "ibkr_accounts": (),
        "instruments_hash": "instruments",
        "broker_hash": "broker",
        "ibkr_marks": "off",
        "marks_stream": "marks",
        "marks_kept": 100_000,
        "valuations_hash": "valuations",
        "mark_stale_s": 60,
        "day_zone": "America/New_York",
        "base_currency": None,
        "flex_token": None,
        "flex_query_id": None,
        "metrics_port": None,
        "log_level": "INFO",
        "log_format": "text",
    }
    assert settings.own_streams == settings.streams == ["executions"]


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        REDIS_URL="rediss://user:pw@redis.example:6380/2",
        EXECUTIONS_STREAM="fills",
        STREAM_PARTITIONS="3",
        OWN_PARTITIONS="2, 0,2",
        POSITIONS_HASH="book",
        CHANGES_STREAM="book:moves",
        CHANGES_KEPT="0",
        DEAD_LETTER_STREAM="fills:dead",
        DATA_DIR="/srv/my data",
        STREAM_RETENTION_HOURS="0.5",
        ACCEPT_GAP="1700000000000-3, 1700000000001-0",
        IBKR_HOST="tws.example",
        IBKR_PORT="4002",
        IBKR_CLIENT_ID="0",
        IBKR_TIMEZONE="America/New_York",
        IBKR_ACCOUNTS="U1, U2",
        INSTRUMENTS_HASH="contracts",
        BROKER_HASH="ibkr",
        IBKR_MARKS="delayed",
        MARKS_STREAM="prices",
        MARKS_KEPT="1000",
        VALUATIONS_HASH="worth",
        MARK_STALE_S="2.5",
        DAY_ZONE="Europe/Berlin",
        BASE_CURRENCY="EUR",
        FLEX_TOKEN="a-token",
        FLEX_QUERY_ID="987654",
        METRICS_PORT="9100",
        LOG_LEVEL="debug",
        LOG_FORMAT="json",
    )
    assert settings.redis_url.get_secret_value() == "rediss://user:pw@redis.example:6380/2"
    assert settings.flex_token is not None
    assert settings.flex_token.get_secret_value() == "a-token"
    assert "a-token" not in repr(settings)
    assert settings.model_dump(exclude={"redis_url", "flex_token"}) == {
        "executions_stream": "fills",
        "stream_partitions": 3,
        "own_partitions": (0, 2),
        "positions_hash": "book",
        "changes_stream": "book:moves",
        "changes_kept": 0,
        "dead_letter_stream": "fills:dead",
        "data_dir": Path("/srv/my data"),
        "stream_retention_hours": 0.5,
        "accept_gap": ("1700000000000-3", "1700000000001-0"),
        "ibkr_host": "tws.example",
        "ibkr_port": 4002,
        "ibkr_client_id": 0,
        "ibkr_timezone": "America/New_York",
        "ibkr_accounts": ("U1", "U2"),
        "instruments_hash": "contracts",
        "broker_hash": "ibkr",
        "ibkr_marks": "delayed",
        "marks_stream": "prices",
        "marks_kept": 1000,
        "valuations_hash": "worth",
        "mark_stale_s": 2.5,
        "day_zone": "Europe/Berlin",
        "base_currency": "EUR",
        "flex_query_id": "987654",
        "metrics_port": 9100,
        "log_level": "DEBUG",
        "log_format": "json",
    }
    assert settings.streams == ["fills:0", "fills:1", "fills:2"]
    assert settings.own_streams == ["fills:0", "fills:2"]


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [field.upper() for field in Settings.model_fields]
    assert load(monkeypatch, **dict.fromkeys(names, "")) == Settings()


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://u:p@h:6380/1", "unix:///run/redis.sock?db=1"]
)
def test_an_address_may_be_any_that_redis_py_takes(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert load(monkeypatch, REDIS_URL=url).redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("STREAM_PARTITIONS", "many", "a whole number"),
        ("STREAM_PARTITIONS", "0", "1 or more"),
        ("STREAM_PARTITIONS", "1.5", "a whole number"),
        ("STREAM_PARTITIONS", "1001", "1000 or less"),
        ("OWN_PARTITIONS", "first", "numbers such as 0,2"),
        ("OWN_PARTITIONS", "0,,1", "numbers such as 0,2"),
        ("OWN_PARTITIONS", "1", "from 0 to STREAM_PARTITIONS - 1 = 0"),
        ("OWN_PARTITIONS", "-1", "from 0 to STREAM_PARTITIONS - 1 = 0"),
        ("STREAM_RETENTION_HOURS", "a day", "a number"),
        ("STREAM_RETENTION_HOURS", "0", "more than 0"),
        ("STREAM_RETENTION_HOURS", "-1", "more than 0"),
        ("STREAM_RETENTION_HOURS", "nan", "a number that is not infinite"),
        ("STREAM_RETENTION_HOURS", "inf", "a number that is not infinite"),
        ("ACCEPT_GAP", "yes", "an entry's id such as"),
        ("ACCEPT_GAP", "17-0 or so", "an entry's id such as"),
        ("ACCEPT_GAP", "from 17-0", "an entry's id such as"),
        ("DEAD_LETTER_STREAM", "executions", "another name than EXECUTIONS_STREAM has"),
        ("DATA_DIR", __file__, "a directory, which is made if there is none"),
        ("IBKR_PORT", "tws", "a whole number"),
        ("IBKR_PORT", "70000", "65535 or less"),
        ("IBKR_CLIENT_ID", "-1", "0 or more"),
        ("IBKR_CLIENT_ID", "2147483648", "2147483647 or less"),
        ("IBKR_TIMEZONE", "Mars/Olympus", "a time zone's name"),
        ("IBKR_TIMEZONE", "../UTC", "a time zone's name"),
        ("IBKR_TIMEZONE", "America", "a time zone's name"),  # a directory
        ("IBKR_MARKS", "on", "'off', 'live' or 'delayed'"),
        ("CHANGES_KEPT", "-1", "0 or more"),
        ("CHANGES_KEPT", "10000000000", "1000000000 or less"),
        ("MARK_STALE_S", "0", "more than 0"),
        ("MARK_STALE_S", "inf", "a number that is not infinite"),
        ("DAY_ZONE", "Nowhere", "a time zone's name"),
        ("BASE_CURRENCY", "eur", "a currency such as EUR"),
        ("BASE_CURRENCY", "EURO", "a currency such as EUR"),
        ("BASE_CURRENCY", "REUR", "a currency such as EUR"),
        ("BASE_CURRENCY", "€EUR", "a currency such as EUR"),
        ("MARKS_KEPT", "0", "1 or more"),
        ("MARKS_KEPT", "10000000000", "1000000000 or less"),
        ("IBKR_ACCOUNTS", "U1,,U2", "account numbers such as"),
        ("IBKR_ACCOUNTS", "U1:AAPL", "account numbers such as"),
        ("FLEX_QUERY_ID", "mine", "a number such as"),
        ("FLEX_QUERY_ID", "7 of mine", "a number such as"),
        ("FLEX_QUERY_ID", "my 7", "a number such as"),
        ("METRICS_PORT", "0", "1 or more"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("LOG_FORMAT", "xml", "text or json"),
    ],
)
def test_a_wrong_value_gives_one_line_with_its_variable_what_was_expected_and_what_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, **{name: value})
    line = str(stop.value)
    assert line.startswith(f"lotstream: {name}: ")
    assert expected in line
    assert value in line.split("found", 1)[1]
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://u:hush@h",
        "REDIS://:hush@h",
        "redis://:hush/hush@h",  # a slash in a password must be written %2F
        "redis://:hush@h:port",
        "redis://:hush@h?db=one",
        "redis://:hush@h/one",
        "redis://:hush@h?nonsense=1",
        "redis://:hush@h?protocol=9",
        "rediss://:hush@h?ssl_cert_reqs=CERT_NONE",
        "redis://:hush@h?decode_responses=true",
    ],
)
def test_a_wrong_redis_url_is_named_but_never_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, REDIS_URL=url)
    line = str(stop.value)
    assert line.startswith("lotstream: REDIS_URL: expected")
    assert "\n" not in line
    assert "hush" not in line
    assert url not in line


def test_the_redis_url_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, REDIS_URL="redis://:hush@localhost")
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump()} {vars(settings)}"


def test_of_several_wrong_values_one_line_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as stop:
        load(monkeypatch, IBKR_PORT="x", REDIS_URL="y", LOG_LEVEL="z")
    assert str(stop.value).startswith("lotstream: REDIS_URL: ")
    assert "\n" not in str(stop.value)


def test_a_variable_that_is_nearly_a_setting_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    near = {"EXECUTIONS_STREM": "EXECUTIONS_STREAM", "LOGLEVEL": "LOG_LEVEL",
            "LOTSTREAM_METRICS_PORT": "METRICS_PORT"}  # fmt: skip
    others = ("REDIS_HOST", "LOG_DIR", "METRICS_HOST", "log_level")
    load(monkeypatch, **dict.fromkeys((*near, *others), "INFO"))
    said = [f"lotstream: {found} is no setting; {meant} is one, was it meant?"
            for found, meant in near.items()]  # fmt: skip
    assert capsys.readouterr().err.splitlines() == said


def test_what_is_nearly_a_setting_is_said_also_where_a_wrong_value_ends_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IBKR_PRT", "4002")
    load_settings(warn=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SystemExit, match="LOG_LEVEL"):
        load_settings(warn=False)
    assert capsys.readouterr().err.count("IBKR_PRT is no setting") == 1


def test_settings_that_were_read_stay_as_they_are() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().stream_partitions = 2


def test_no_error_of_the_settings_shows_what_was_given() -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings(redis_url="redis://:hush@h:port")  # type: ignore[arg-type]
    assert "hush" not in f"{wrong.value} {wrong.value.__cause__}"


def test_a_directory_that_may_not_be_looked_at_is_not_said_to_be_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    too_long = "x" * 5000  # as a look into it fails, also for root
    assert load(monkeypatch, DATA_DIR=too_long).data_dir == Path(too_long)
