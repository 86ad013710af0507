"""The Flex web service: what is waited for, what ends it at once, where the token goes."""

import socket
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from connectors.flex.service import ADDRESS, FlexServiceError, Patience, _Service, fetch_statement
from tests.support.flex_files import flex, trade
from tests.support.flex_service import QUERY, TOKEN, FlexService, refusal

STATEMENT = flex([trade("A", 1, 1, "20240102;100000")])
BUSY = refusal(1019, "Statement generation in progress. Please try again shortly.")
OFTEN = refusal(1018, "Too many requests have been made from this token.")
BOMB = '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
IMPATIENT = Patience(0.001, 0.001, 0.05)


def fetch(
    address: str, into: Path, *, token: str = TOKEN, patience: Patience = IMPATIENT
) -> list[str]:
    """Return why it waited, each time; nothing is left but the statement."""
    waited: list[str] = []
    try:
        fetch_statement(
            token, QUERY, into, address=address, patience=patience, on_wait=waited.append
        )
    finally:
        assert token not in "".join(waited)
        assert {*into.parent.iterdir()} <= {into}
    return waited


def refused(service: FlexService, into: Path, *, token: str = TOKEN) -> str:
    """Return why there is no statement."""
    with service, pytest.raises(FlexServiceError) as error:
        fetch(service.address, into, token=token)
    assert token not in str(error.value)
    assert not into.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (BUSY, "the service says 1019: Statement generation in progress."),
        (OFTEN, "the service says 1018: Too many requests"),
        (408, "the service answers with HTTP 408"), (429, "the service answers with HTTP 429"),
        (500, "the service answers with HTTP 500"), (503, "the service answers with HTTP 503"),
        (None, "no answer from the service: "), ("", "the service's answer is no XML"),
        (BOMB, "the service's answer is no XML"),
        ("<html>busy</html>", "the service says html: no reason"),
        (STATEMENT[:-60], "the statement broke off"),
    ],
)  # fmt: skip
def test_what_passes_is_waited_for(tmp_path: Path, later: str | int | None, why: str) -> None:
    sends = [] if later == STATEMENT[:-60] else [later]
    with FlexService(STATEMENT, sends=sends, gets=[later, later]) as service:
        waited = fetch(service.address, tmp_path / "a.xml")
    assert len(waited) == 2 + len(sends)
    assert all(each.startswith(why) and each.endswith("; again in 0 s") for each in waited)
    assert (tmp_path / "a.xml").read_text() == STATEMENT


def test_each_wait_is_twice_as_long_up_to_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    with FlexService(STATEMENT, sends=[BUSY] * 4, gets=[BUSY]) as service:
        waited = fetch(service.address, tmp_path / "a.xml", patience=Patience(5, 15, 900))
    assert slept == [5, 10, 15, 15, 5]
    assert waited[1].endswith("; again in 10 s")


def test_the_last_reason_is_told_when_it_waits_no_longer(tmp_path: Path) -> None:
    said = refused(FlexService(STATEMENT, gets=[BUSY] * 1000), tmp_path / "a.xml")
    assert said.startswith("expected the statement within 0.05 s, found: the service says 1019: ")


def test_a_service_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    patience = IMPATIENT._replace(answer=0.02)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(FlexServiceError, match=r"no answer from the service: .*timed out"):
            fetch(address, tmp_path / "a.xml", patience=patience)


def test_an_answer_that_does_not_go_on_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with ExitStack() as open_ones:
        server = open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))

        def begin() -> None:
            open_ones.enter_context(server.accept()[0]).sendall(b"HTTP/1.0 200 OK\r\n\r\n<Flex")

        Thread(target=begin, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FlexServiceError, match="found: the connection broke off: timed out"):
            fetch(address, tmp_path / "a.xml", patience=Patience(total=0, answer=0.05))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusal(1014, "Query is invalid."), "the service says 1014: Query is invalid."),
        (refusal(1012, f"{TOKEN} has expired."), "the service says 1012: … has expired."),
        (403, "the service answers with HTTP 403"), (499, "the service answers with HTTP 499"),
    ],
)  # fmt: skip
def test_what_the_service_refuses_ends_at_once(tmp_path: Path, answer: str | int, why: str) -> None:
    for sends, gets, asked in (([answer], [], 1), ([], [answer], 2)):
        service = FlexService(STATEMENT, sends=sends, gets=gets)
        assert refused(service, tmp_path / "a.xml") == why
        assert len(service.asked) == asked


def test_a_token_is_hidden_as_it_is_and_as_an_address_has_it(tmp_path: Path) -> None:
    answer = refusal(1012, "a+b/c d, that is a%2Bb/c%20d.")
    service = FlexService(STATEMENT, sends=[answer])
    assert "1012: …, that is …." in refused(service, tmp_path / "a.xml", token="a+b/c d")


def test_an_answer_without_reference_is_told(tmp_path: Path) -> None:
    answer = "<FlexStatementResponse><Status>Success</Status></FlexStatementResponse>"
    said = refused(FlexService(STATEMENT, sends=[answer]), tmp_path / "a.xml")
    assert said == "expected a reference code in the service's answer, found none"


def test_an_answer_without_address_means_the_one_that_was_asked(tmp_path: Path) -> None:
    answer = (
        "<FlexStatementResponse><Status>SUCCESS</Status><ReferenceCode>1234567890</ReferenceCode>"
        "</FlexStatementResponse>"
    )
    for end in ("", "/"):
        with FlexService(STATEMENT, sends=[answer]) as service:
            assert fetch(f"{service.address}{end}", tmp_path / "a.xml") == []
        assert service.paths == [
            "/FlexWebService/SendRequest", "/FlexWebService/GetStatement"
        ]  # fmt: skip


@pytest.mark.parametrize("beyond", [0, 1, 20, 21, (1 << 18) + 1])
def test_a_statement_of_any_length_is_known_to_be_whole(tmp_path: Path, beyond: int) -> None:
    """Its last word may be in two of the pieces that are read, the first of 64 KiB."""
    end = "</FlexQueryResponse>\n"
    long = STATEMENT.removesuffix(end[:-1]).ljust((1 << 16) - len(end) + beyond) + end
    assert len(long) == (1 << 16) + beyond
    with FlexService(long) as service:
        assert fetch(service.address, tmp_path / "a.xml") == []
    assert (tmp_path / "a.xml").read_text() == long


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    into = tmp_path / "a.xml"
    into.write_text("before")
    with FlexService(STATEMENT, gets=[STATEMENT[:-60]] * 1000) as service:
        with pytest.raises(FlexServiceError, match="found: the statement broke off"):
            fetch(service.address, into)
        assert into.read_text() == "before"


HOME = "https://ndcdyn.interactivebrokers.com"


@pytest.mark.parametrize(
    ("told", "trusted"),
    [
        ("", True), (f"{HOME}/x", True), ("https://gdcdyn.interactivebrokers.com/x", True),
        ("http://ndcdyn.interactivebrokers.com/x", False), (f"{HOME}@example.org/x", False),
        (f"{HOME}.example.org/x", False), ("https://aninteractivebrokers.com/x", False),
        ("https:///x", False), ("x", False),
    ],
)  # fmt: skip
def test_the_token_goes_to_the_broker_alone_and_only_over_https(told: str, trusted: bool) -> None:
    service = _Service(TOKEN, IMPATIENT, print)
    if trusted:
        assert service._same_service(f"{ADDRESS}/SendRequest", told) == told
        return
    with pytest.raises(FlexServiceError, match="the token does not go there"):
        service._same_service(f"{ADDRESS}/SendRequest", told)
