"""A Flex file's rows, one after the other: the file is never held as a whole.

A row is an element with attributes inside a section of a statement. Which section it
stands in and whose statement it is goes with it; that a section is there, though empty,
is a row too. A file that is not a Flex statement,
that breaks off, or that declares entities (which could blow up to any size) is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler

from defusedxml.common import DefusedXmlException
from defusedxml.sax import make_parser

CHUNK = 1 << 18
ROOT, STATEMENT = "FlexQueryResponse", "FlexStatement"


class FlexFileError(Exception):
    """The file cannot be used; the text says what was expected, what was found, where."""


class Statement(NamedTuple):
    """What a row's statement says of itself; all texts are the file's, "" for none."""

    account: str = ""
    first_day: str = ""
    last_day: str = ""
    generated: str = ""


class Row(NamedTuple):
    """One element of a section, or the section itself, which has no fields."""

    section: str
    """The statement's element, of a section itself."""
    tag: str
    fields: Mapping[str, str]
    """Those that say anything, without space around."""
    statement: Statement


class _Handler(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.root = ""
        self.has_statement = False
        self._path: list[str] = []
        self._statement = Statement()

    @property
    def instead(self) -> str:
        """What a file without a statement is."""
        return f"<{self.root}> without one" if self.root else "an empty file"

    def startElement(self, name: str, attrs: Any) -> None:  # noqa: N802
        if not self._path:
            self.root = name
        elif name == STATEMENT:
            self.has_statement = True
            self._statement = Statement(
                *(
                    attrs.get(key, "")
                    for key in ("accountId", "fromDate", "toDate", "whenGenerated")
                )
            )
        elif len(self._path) > 1 and (len(attrs) or self._path[-1] == STATEMENT):
            fields = {key: text for key, value in attrs.items() if (text := value.strip())}
            self.rows.append(Row(self._path[-1], name, fields, self._statement))
        self._path.append(name)

    def endElement(self, name: str) -> None:  # noqa: N802
        self._path.pop()
        if name == STATEMENT:
            self._statement = Statement()


def read_rows(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[Row]:
    """Yield a Flex file's rows in their order.

    on_bytes: called with how many bytes were read since the last call.
    Raises FlexFileError; rows yielded before it must then not be used.
    """
    handler = _Handler()
    parser = make_parser()
    parser.setContentHandler(handler)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                parser.feed(chunk)
                if handler.root not in ("", ROOT):
                    raise FlexFileError(f"{path}: expected <{ROOT}>, found <{handler.root}>")
                yield from handler.rows
                handler.rows.clear()
                on_bytes(len(chunk))
            if file.tell():
                parser.close()
            if not handler.has_statement:
                raise FlexFileError(f"{path}: expected a <{STATEMENT}>, found {handler.instead}")
    except DefusedXmlException as error:
        raise FlexFileError(f"{path}: expected no declared entities, found {error}") from None
    except SAXParseException as error:
        raise FlexFileError(
            f"{path}: expected a whole XML file, found {error.getMessage()} in line "
            f"{error.getLineNumber()}"
        ) from None
    except (SAXException, OSError) as error:
        raise FlexFileError(f"{path}: {error}") from None
    yield from handler.rows
