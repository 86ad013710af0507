"""A Flex web service of the tests' own, which behaves as the real one's documents say."""

from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

TOKEN, QUERY, REFERENCE = "123456789012345678901234", "987654", "1234567890"


def refusal(code: int, message: str) -> str:
    """Return the answer to a request that is not done, or not yet."""
    return (
        '<FlexStatementResponse timestamp="28 August, 2024 10:37 AM EDT"><Status>Warn</Status>'
        f"<ErrorCode>{code}</ErrorCode><ErrorMessage>{message}</ErrorMessage>"
        "</FlexStatementResponse>"
    )


class FlexService:
    """Answers SendRequest and GetStatement, each time with the next of its answers.

    sends, gets: answers before the right one: a text, an HTTP status, or None to hang up.
    """

    def __init__(
        self,
        statement: str,
        *,
        sends: Sequence[str | int | None] = (),
        gets: Sequence[str | int | None] = (),
        url: str = "",
    ) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.paths: list[str] = []
        self._statement, self._sends, self._gets = statement, list(sends), list(gets)
        self._url = url
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/FlexWebService"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        parts = urlsplit(request.path)
        step = parts.path.rpartition("/")[2]
        words = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append((step, words))
        self.paths.append(parts.path)
        waiting = self._sends if step == "SendRequest" else self._gets
        reply = waiting.pop(0) if waiting else self._right(step, words)
        if request.headers["User-Agent"] != "lotstream":
            reply = 403
        if reply is None:
            request.close_connection = True
            return
        text = reply.encode() if isinstance(reply, str) else b"no"
        request.send_response(reply if isinstance(reply, int) else 200)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def _right(self, step: str, words: dict[str, str]) -> str:
        if words.get("t") != TOKEN or words.get("v") != "3":
            return refusal(1015, "Token is invalid.")
        if step == "SendRequest":
            if words["q"] != QUERY:
                return refusal(1014, "Query is invalid.")
            url = self._url or f"{self.address}/GetStatement"
            return (
                "<FlexStatementResponse timestamp='x'><Status>Success</Status>"
                f"<ReferenceCode>{REFERENCE}</ReferenceCode><Url>{url}</Url>"
                "</FlexStatementResponse>"
            )
        if words["q"] != REFERENCE:
            return refusal(1017, "Reference code is invalid.")
        return self._statement

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
