"""Files: what is a row, what is refused, and that large ones are never held whole."""

from pathlib import Path

import pytest

from connectors.flex.xml import CHUNK, FlexFileError, Row, Statement, read_rows
from tests.support.flex_files import flex, trade


def _rows(directory: Path, text: str) -> list[Row]:
    path = directory / "a.xml"
    path.write_text(text)
    return list(read_rows(path))


def test_a_row_goes_with_its_section_and_its_statement(tmp_path: Path) -> None:
    text = """<FlexQueryResponse queryName="x" type="AF"><FlexStatements count="2">
      <FlexStatement accountId="U1" fromDate="20240101" toDate="20240102" whenGenerated="now">
        <Trades><Trade symbol=" A " notes="" /></Trades><OpenPositions/></FlexStatement>
      <FlexStatement accountId="U2"><OptionEAE><OptionEAE symbol="B" /></OptionEAE></FlexStatement>
      </FlexStatements></FlexQueryResponse>"""
    first, second = Statement("U1", "20240101", "20240102", "now"), Statement("U2")
    assert _rows(tmp_path, text) == [
        Row("FlexStatement", "Trades", {}, first),
        Row("Trades", "Trade", {"symbol": "A"}, first),
        Row("FlexStatement", "OpenPositions", {}, first),
        Row("FlexStatement", "OptionEAE", {}, second),
        Row("OptionEAE", "OptionEAE", {"symbol": "B"}, second),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found an empty file"),
        ("<html></html>", "expected <FlexQueryResponse>, found <html>"),
        ("<FlexQueryResponse><a></FlexQueryResponse>", "mismatched tag in line 1"),
        ("<FlexQueryResponse><Trades>", "no element found in line 1"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><FlexQueryResponse/>', "expected no declared entities"),
        (
            '<!DOCTYPE x [<!ENTITY a "a"><!ENTITY b "&a;&a;&a;">]><FlexQueryResponse q="&b;"/>',
            "expected no declared entities",
        ),
        (
            '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///b">]><FlexQueryResponse>&a;</FlexQueryResponse>',
            "expected no declared entities",
        ),
    ],
)
def test_what_is_no_whole_statement_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FlexFileError, match=said):
        _rows(tmp_path, text)


def test_rows_come_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(flex([trade("A", 1, 1, "20240102") for _ in range(4_000)]))
    read: list[int] = []
    rows = read_rows(path, read.append)
    next(rows)
    assert read == []
    assert sum(1 for _ in rows) == 4_000  # the section and all trades but the first row
    assert sum(read) == path.stat().st_size > 4 * CHUNK
