"""`flows.flex fetch` against a service that does what the real one's documents say."""

import re
import socket
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.flex.__main__ import app
from tests.support.commands import run_apart
from tests.support.flex_files import flex, trade
from tests.support.flex_service import QUERY, REFERENCE, TOKEN, FlexService, refusal

STATEMENT = flex([trade("A", 1, 1, "20240102;100000")])
BUSY = refusal(1019, "Statement generation in progress. Please try again shortly.")


def fetch(
    service: str, into: Path, *words: str, token: str = TOKEN, query: str = QUERY
) -> "subprocess.CompletedProcess[str]":
    """Run the command; it waits for hundredths of seconds where the real one waits for seconds."""
    quick = ("--address", service, "--first-wait", "0.01")
    done = run_apart("flex", "fetch", into, *quick, *words, FLEX_TOKEN=token, FLEX_QUERY_ID=query)
    assert token not in done.stdout + done.stderr
    return done


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """Run the command in this process."""
    for name, value in (("FLEX_TOKEN", TOKEN), ("FLEX_QUERY_ID", QUERY)):
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, ["fetch", *words])


def test_a_statement_is_asked_for_and_fetched(tmp_path: Path) -> None:
    with FlexService(STATEMENT, gets=[BUSY]) as service:
        done = fetch(service.address, tmp_path / "a.xml")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.xml'}\n")
    assert done.stderr.startswith("waiting: the service says 1019: ")
    assert (tmp_path / "a.xml").read_text() == STATEMENT
    assert service.asked == [
        ("SendRequest", {"t": TOKEN, "q": QUERY, "v": "3"}),
        *[("GetStatement", {"t": TOKEN, "q": REFERENCE, "v": "3"})] * 2,
    ]


@pytest.mark.parametrize(
    ("token", "query", "said"),
    [("1" * 24, QUERY, "1015: Token is invalid."), (TOKEN, "1", "1014: Query is invalid.")],
)
def test_what_the_service_refuses_ends_at_once(
    tmp_path: Path, token: str, query: str, said: str
) -> None:
    with FlexService(STATEMENT) as service:
        done = fetch(service.address, tmp_path / "a.xml", token=token, query=query)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(service.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    with FlexService(STATEMENT, gets=[BUSY] * 1000) as service:
        done = fetch(service.address, tmp_path / "a.xml", "--wait", "0.3")
    assert done.returncode == 2
    assert "within 0.3 s" in done.stderr
    assert "1019" in done.stderr


def test_the_token_goes_to_no_other_place(tmp_path: Path) -> None:
    with FlexService(STATEMENT, url="http://127.0.0.2:1/GetStatement") as service:
        done = fetch(service.address, tmp_path / "a.xml")
        assert (done.returncode, len(service.asked)) == (2, 1)
    done = fetch("http://example.org/FlexWebService", tmp_path / "a.xml")
    assert "--address: expected https" in done.stderr


@pytest.mark.parametrize("missing", ["FLEX_TOKEN", "FLEX_QUERY_ID"])
def test_a_setting_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    settings = {"FLEX_TOKEN": TOKEN, "FLEX_QUERY_ID": QUERY, missing: ""}
    done = run_apart("flex", "fetch", tmp_path / "a.xml", **settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"lotstream: {missing}: expected it to be set")


def test_a_file_without_a_name_is_called_by_the_query_and_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FlexService(STATEMENT) as service:
        done = called(monkeypatch, "--address", service.address)
    [file] = tmp_path.iterdir()
    assert (done.exit_code, done.stdout) == (0, f"{file.name}\n")
    assert re.fullmatch(rf"flex-{QUERY}-\d{{8}}T\d{{6}}Z\.xml", file.name)
    assert file.read_text() == STATEMENT


def test_a_place_that_cannot_be_written_is_told_before_the_service_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlexService(STATEMENT) as service:
        for place in (tmp_path, tmp_path / "none" / "a.xml"):
            done = called(monkeypatch, str(place), "--address", service.address)
            said = f"lotstream: expected a file in a directory that is there, found {place}"
            assert (done.exit_code, str(done.exception)) == (1, said)
    assert service.asked == []


def test_a_disk_that_fails_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.xml.part").mkdir()
    with FlexService(STATEMENT) as service:
        done = called(monkeypatch, f"{tmp_path / 'a.xml'}", "--address", service.address)
    assert str(done.exception) == f"lotstream: {tmp_path / 'a.xml'}: Is a directory"


@pytest.mark.parametrize(
    ("address", "goes"),
    [
        ("https://127.0.0.1:1", True), ("http://localhost:1", True), ("http://[::1]:1", True),
        ("http://127.0.0.1.example.org", False), ("ftp://127.0.0.1", False),
        ("127.0.0.1:1", False),
    ],
)  # fmt: skip
def test_the_token_goes_over_https_or_stays_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, goes: bool
) -> None:
    done = called(monkeypatch, str(tmp_path / "a.xml"), "--address", address, "--wait", "0")
    said = "within 0 s" if goes else "--address: expected https, as the token goes with it"
    assert said in str(done.exception)


def test_an_answer_is_waited_for_as_long_as_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        words = ("--address", address, "--wait", "0", "--answer", "0.1")
        done = called(monkeypatch, str(tmp_path / "a.xml"), *words)
    assert "no answer from the service: timed out" in str(done.exception)
