"""The Flex web service: a statement is asked for, then fetched once it is made.

Two steps: SendRequest answers with a reference code and an address, GetStatement with
the statement, or with a code that says to wait. The token goes with every request, so
no address is ever shown. What the service refuses for good ends at once, what passes is
tried again, waiting longer each time.
"""

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

ADDRESS = "https://ndcdyn.interactivebrokers.com/AccountManagement/FlexWebService"
WAIT_CODES = frozenset({"1001", "1004", "1005", "1006", "1007", "1008", "1009", "1018", "1019",
                        "1021"})  # fmt: skip
"""Codes that say: not now. 1018 is too many requests, 1019 a statement that is being made."""
ANSWER_S = 60.0
"""How long one answer may take, in seconds."""
_ANSWER_BYTES = 1 << 16
"""An answer that is no statement is smaller."""
_CHUNK = 1 << 18


class FlexServiceError(Exception):
    """The service does not give the statement; the text says why, without the token."""


class _LaterError(Exception):
    """The service, or the way to it, may do it later."""


class Patience(NamedTuple):
    """How long to wait, in seconds."""

    first: float = 5.0
    """Before the second try; it doubles from then on."""
    longest: float = 60.0
    """Between two tries."""
    total: float = 900.0
    """For each of the two steps."""
    answer: float = ANSWER_S


def fetch_statement(
    token: str,
    query_id: str,
    into: Path,
    *,
    address: str = ADDRESS,
    patience: Patience = Patience(),  # noqa: B008  # immutable
    on_wait: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a query's statement to a file; there is none until it is whole.

    on_wait: called with the reason before each wait. Raises FlexServiceError.
    """
    service, address = _Service(token, patience, on_wait), address.rstrip("/")
    reference, place = service.try_until_done(
        lambda: service.request(f"{address}/SendRequest", query_id)
    )
    service.try_until_done(lambda: service.get(place or f"{address}/GetStatement", reference, into))


class _Service:
    def __init__(self, token: str, patience: Patience, on_wait: Callable[[str], None]) -> None:
        self._token, self._patience, self._on_wait = token, patience, on_wait

    def try_until_done(self, step: Callable[[], tuple[str, str]]) -> tuple[str, str]:
        retrying = Retrying(
            retry=retry_if_exception_type(_LaterError),
            wait=wait_exponential(multiplier=self._patience.first, max=self._patience.longest),
            stop=stop_after_delay(self._patience.total),
            before_sleep=self._tell,
        )
        try:
            return retrying(step)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise FlexServiceError(
                f"expected the statement within {self._patience.total:g} s, found: {last}"
            ) from None

    def request(self, address: str, query_id: str) -> tuple[str, str]:
        """Return the reference code and where the statement will be."""
        with self._open(address, query_id) as answer:
            root = self._parsed(self._read(answer, _ANSWER_BYTES))
        if root.tag != "FlexStatementResponse" or _text(root, "Status").lower() != "success":
            self._refuse(root)
        reference = _text(root, "ReferenceCode")
        if not reference:
            raise FlexServiceError("expected a reference code in the service's answer, found none")
        return reference, self._same_service(address, _text(root, "Url"))

    def get(self, address: str, reference: str, into: Path) -> tuple[str, str]:
        """Write the statement, by way of a file beside it."""
        part = into.with_name(f"{into.name}.part")
        try:
            with self._open(address, reference) as answer, part.open("wb") as file:
                head = tail = self._read(answer, _ANSWER_BYTES)
                if b"<FlexQueryResponse" not in head:
                    self._refuse(self._parsed(head))
                while head:
                    file.write(head)
                    tail = (tail + head)[-4 * len(_END) :]
                    head = self._read(answer, _CHUNK)
            if _END not in tail:
                raise _LaterError("the statement broke off")
            part.replace(into)
        finally:
            part.unlink(missing_ok=True)
        return "", ""

    def _read(self, answer: http.client.HTTPResponse, most: int) -> bytes:
        try:
            return answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            raise _LaterError(self._safe(f"the connection broke off: {error}")) from None

    def _open(self, address: str, query: str) -> http.client.HTTPResponse:
        words = urllib.parse.urlencode({"t": self._token, "q": query, "v": "3"})
        # It asks for a name; without one it refuses.
        request = urllib.request.Request(  # noqa: S310  # checked by the command
            f"{address}?{words}", headers={"User-Agent": "lotstream"}
        )
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
                request, timeout=self._patience.answer
            )
        except urllib.error.HTTPError as error:
            error.close()
            text = f"the service answers with HTTP {error.code}"
            if error.code in (408, 429) or error.code >= 500:  # noqa: PLR2004
                raise _LaterError(text) from None
            raise FlexServiceError(text) from None
        except (OSError, http.client.HTTPException) as error:
            raise _LaterError(self._safe(f"no answer from the service: {error}")) from None
        return answer

    def _parsed(self, text: bytes) -> Element:
        try:
            root: Element = fromstring(text)
        except (ParseError, DefusedXmlException):
            raise _LaterError("the service's answer is no XML") from None
        return root

    def _refuse(self, root: Element) -> None:
        code, message = _text(root, "ErrorCode"), _text(root, "ErrorMessage")
        reason = self._safe(f"the service says {code or root.tag}: {message or 'no reason'}")
        if code in WAIT_CODES or root.tag != "FlexStatementResponse":
            raise _LaterError(reason)
        raise FlexServiceError(reason)

    def _same_service(self, asked: str, told: str) -> str:
        """Take the address that the service names, if the token may go there."""
        of_ours, of_theirs = urllib.parse.urlsplit(asked), urllib.parse.urlsplit(told)
        trusted = of_theirs.scheme == of_ours.scheme and (
            of_theirs.netloc == of_ours.netloc
            or (of_theirs.hostname or "").endswith(".interactivebrokers.com")
        )
        if told and not trusted:
            raise FlexServiceError(
                f"expected the statement's address at {of_ours.hostname}, found "
                f"{self._safe(told)}: the token does not go there"
            )
        return told

    def _tell(self, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        seconds = attempt.next_action.sleep if attempt.next_action else 0
        self._on_wait(f"{error}; again in {seconds:.0f} s")

    def _safe(self, text: str) -> str:
        hidden = re.escape(self._token) + "|" + re.escape(urllib.parse.quote(self._token))
        return re.sub(hidden, "…", text)


_END = b"</FlexQueryResponse>"


def _text(root: Element, name: str) -> str:
    return (root.findtext(name) or "").strip()
