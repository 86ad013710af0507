"""What a flow is given before its parts are wired, in this process: nothing is started."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py

from connectors.parquet import files as parquet_files
from connectors.parquet.files import StreamFiles, own_dir
from connectors.redis.link import RedisLink
from connectors.redis.names import count_key
from flows.common.settings import Settings, load_settings
from flows.job import launch as module
from flows.job import recovery
from flows.job.launch import Launched, agree_on_partitions, check_data_dir, launch, tell_start
from flows.job.names import SOURCE_ID
from tests.support.servers import free_port

Configure = Callable[..., Settings]
ALONE = Launched(Event(), None, together=False, shared=False, recovery_directory=None)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Return settings, as the environment gives them."""

    def made(**settings: str) -> Settings:
        for name, value in {"DATA_DIR": f"{tmp_path}/data", **settings}.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return made


class Start:
    """A start by `python -m bytewax.run`, without what it does to the whole process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.at_signal: dict[int, Callable[..., None]] = {}
        self.at_exit: list[Callable[[], None]] = []
        monkeypatch.setattr("signal.signal", self.at_signal.__setitem__)
        monkeypatch.setattr("atexit.register", lambda act, *words: self.at_exit.append(
            lambda: act(*words)))  # fmt: skip
        monkeypatch.setattr("gc.set_threshold", lambda *_: None)
        monkeypatch.setattr("pyarrow.set_memory_pool", lambda _: None)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # is put back
        monkeypatch.setattr(module, "_locks", [])
        self.runner = SimpleNamespace(__spec__=SimpleNamespace(name="bytewax.run"))

    def __call__(self, settings: Settings, *words: str, **more: bool) -> Launched:
        self._monkeypatch.setitem(sys.modules, "__main__", self.runner)
        words = (*words, "-s", "1", "-b", "0") if "-r" in words else words
        self._monkeypatch.setattr(sys, "argv", ["run", "flows.positions", *words])
        return launch(settings, **more)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(monkeypatch)


# --- the options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "together", "shared"),
    [
        ("", False, False), ("-w 1", False, False), ("-w 2", True, False),
        ("-i 0 -a localhost:1", False, False), ("-i 0 -a localhost:1;localhost:2", True, True),
        ("-i 0 -w 2 -a localhost:1;localhost:2", True, True),
    ],
)  # fmt: skip
def test_who_else_takes_part_is_read_from_the_engines_options(
    configure: Configure, start: Start, words: str, together: bool, shared: bool
) -> None:
    run = start(configure(), *words.split())
    assert (run.together, run.shared, run.stores, run.recovery_directory) == (
        together, shared, None, None
    )  # fmt: skip


def test_the_options_of_another_program_are_not_the_engines(
    configure: Configure, start: Start, tmp_path: Path
) -> None:
    for runner in (SimpleNamespace(__spec__=SimpleNamespace(name="pytest")), SimpleNamespace()):
        start.runner = runner
        run = start(configure(), "-r", str(tmp_path / "r"), "-w", "2")
        assert run == ALONE._replace(stop=run.stop)


def test_a_recovery_directory_of_other_streams_is_refused_in_one_line(
    configure: Configure, start: Start, tmp_path: Path
) -> None:
    of_both = [(SOURCE_ID, f"executions:{part}", ("5-0", 3)) for part in (0, 1)]
    with recovery.new_store(tmp_path / "r", of_both):
        pass
    settings = configure(STREAM_PARTITIONS="2", OWN_PARTITIONS="1")
    with pytest.raises(SystemExit, match=r"executions:1 alone, found .*, which has executions:0"):
        start(settings, "-r", str(tmp_path / "r"))


def test_a_recovery_directory_is_made_held_and_goes_on_where_it_was(
    configure: Configure, start: Start, tmp_path: Path
) -> None:
    directory = tmp_path / "r"
    with recovery.new_store(directory, [(SOURCE_ID, "executions", ("5-0", 3))]):
        pass
    run = start(configure(), "-r", str(directory))
    assert (run.recovery_directory, run.stores and run.stores.resumed_at) == (
        directory, {"executions": "5-0"}
    )  # fmt: skip
    assert run.stores is not None
    run.stores.mine()
    assert (directory / "books-0.db").exists()
    [held] = module._locks
    held.close()


def test_a_recovery_directory_that_cannot_be_used_is_one_line(
    configure: Configure, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "r").touch()
    with pytest.raises(SystemExit, match=r"^lotstream: cannot use the recovery directory "):
        start(configure(), "-r", str(tmp_path / "r"))


def test_a_flow_that_trims_its_stream_must_keep_its_state(
    configure: Configure, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure(STREAM_RETENTION_HOURS="24")
    with pytest.raises(SystemExit, match=r"^lotstream: STREAM_RETENTION_HOURS: expected"):
        start(settings)
    start(settings, retains=False)
    monkeypatch.setenv("BYTEWAX_RECOVERY_DIRECTORY", str(tmp_path / "r"))
    assert start(settings, "-s", "1", "-b", "0").recovery_directory == tmp_path / "r"
    module._locks[0].close()


# --- its begin and its end ------------------------------------------------------------------


def test_a_signal_ends_it_and_only_then_it_says_so(
    configure: Configure, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lotstream.flow")
    run = start(configure())
    start.at_exit[0]()
    assert caplog.messages == []
    for handler in start.at_signal.values():
        run.stop.clear()
        handler(15, None)
        assert run.stop.is_set()
    start.at_exit[0]()
    assert (len(start.at_signal), caplog.messages) == (2, ["stopped, as told to"])


@pytest.mark.parametrize(
    ("partitions", "own", "after", "said"),
    [
        ("1", "", {}, "stream executions, 1 partition, from its beginning"),
        ("1", "", {"executions": "5-0"}, "stream executions, 1 partition, from after 5-0"),
        ("4", "2", {}, "stream executions, partition 2 of 4, from its beginning"),
        (
            "4", "1,2", {"executions:2": "7-0"},
            "stream executions, partitions 1, 2 of 4, from its beginning, after 7-0",
        ),
    ],
)  # fmt: skip
def test_the_first_line_says_what_is_read_and_where_it_goes(
    configure: Configure, caplog: pytest.LogCaptureFixture, tmp_path: Path, partitions: str,
    own: str, after: dict[str, str], said: str,
) -> None:  # fmt: skip
    caplog.set_level("INFO", logger="lotstream.flow")
    settings = configure(STREAM_PARTITIONS=partitions, OWN_PARTITIONS=own)
    stores: Any = SimpleNamespace(resumed_at=after) if after else None
    place = Path("r") if after else None
    tell_start(settings, ALONE._replace(stores=stores, recovery_directory=place))
    where = f"recovery directory {Path.cwd() / 'r'}" if after else "no recovery directory"
    assert caplog.messages == [f"started: {said}; DATA_DIR {tmp_path}/data, {where}"]


# --- where it writes ------------------------------------------------------------------------


def test_a_data_directory_is_made_and_nothing_is_left_in_it(
    configure: Configure, tmp_path: Path
) -> None:
    settings = configure()
    check_data_dir(settings, ALONE._replace(shared=True))
    check_data_dir(settings, ALONE)
    with closing(StreamFiles(settings.data_dir, "executions")) as files:
        files.lock()  # is free
    left = {path.name for path in own_dir(settings.data_dir).rglob("*")}
    assert left == {"executions", "lock"}


def test_a_data_directory_that_another_process_uses_is_told_unless_it_is_of_this_run(
    configure: Configure, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "_LOCK_WAIT_S", 0)
    settings = configure()
    with closing(StreamFiles(settings.data_dir, "executions")) as files:
        files.lock()
        check_data_dir(settings, ALONE._replace(shared=True))
        assert caplog.messages == []
        with pytest.raises(SystemExit) as ended:
            check_data_dir(settings, ALONE)
    assert ended.value.code == 1
    assert caplog.messages[0].startswith(f"stopped: DATA_DIR is in use: {settings.data_dir}")


@pytest.mark.parametrize("shared", [True, False])
def test_a_data_directory_that_cannot_be_written_is_told(
    configure: Configure, caplog: pytest.LogCaptureFixture, shared: bool
) -> None:
    settings = configure()
    settings.data_dir.mkdir()
    own_dir(settings.data_dir).touch()
    with pytest.raises(SystemExit) as ended:
        check_data_dir(settings, ALONE._replace(shared=shared))
    assert ended.value.code == 1
    assert caplog.messages[0].startswith("stopped: cannot write to DATA_DIR: ")


# --- how many partitions --------------------------------------------------------------------


def test_another_number_of_partitions_is_one_line(
    configure: Configure, redis: redis_py.Redis, redis_url: str
) -> None:
    link = RedisLink(redis_url, Event())
    with closing(link.client):
        agree_on_partitions(link, configure(STREAM_PARTITIONS="2"))
        assert redis.get(count_key("executions")) == b"2"
        with pytest.raises(SystemExit, match=r"^lotstream: STREAM_PARTITIONS: expected 2, "):
            agree_on_partitions(link, configure(STREAM_PARTITIONS="4"))


def test_a_stop_before_redis_is_there_is_a_good_end(configure: Configure) -> None:
    stop = Event()
    stop.set()
    link = RedisLink(f"redis://127.0.0.1:{free_port()}", stop)
    with pytest.raises(SystemExit) as ended:
        agree_on_partitions(link, configure())
    assert ended.value.code == 0
