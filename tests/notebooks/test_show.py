"""Tables and charts of the notebooks say exactly what the frames say."""

import zlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import altair as alt
import polars as pl
import pytest

from notebooks import show
from notebooks.history import MONEY, QUANTITY


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("realized_pnl", Decimal("-1234567.895"), "-1,234,567.90"),
        ("realized_pnl", Decimal("-0.001"), "0.00"),
        ("qty", Decimal("1200.0000000000"), "1,200"),
        ("qty", Decimal("-0.0500000000"), "-0.05"),
        ("avg_price", Decimal("187.3333333333"), "187.3333"),
        ("fill_price", Decimal("187.5000000000"), "187.50"),
        ("win_rate", 0.4567, "45.7%"),
        ("profit_factor", 2.5, "2.50"),
        ("lots", 12345, "12,345"),
        ("year", 2024, "2024"),
        ("corrects", True, "yes"),
        ("account", None, "–"),
        ("timestamp", datetime(2024, 1, 2, 15, 4, 5, tzinfo=UTC), "2024-01-02 15:04:05"),
        ("acquired", date(2024, 1, 2), "2024-01-02"),
        ("held", timedelta(days=1234, hours=5), "1,234 d 5 h"),
        ("held", timedelta(hours=1, minutes=2), "1 h 2 min"),
        ("held", timedelta(seconds=61), "1 min 1 s"),
    ],
)
def test_values_are_written_as_they_are_printed(name: str, value: object, text: str) -> None:
    shown = show.table(pl.DataFrame({name: pl.Series([value], dtype=_type(value))}))
    assert repr(shown).splitlines()[1].strip() == text


def _type(value: object) -> pl.DataType | None:
    return MONEY if isinstance(value, Decimal) else None


def test_a_table_puts_numbers_right_and_escapes_text() -> None:
    frame = pl.DataFrame({"symbol": ["A<B", "LONGER"], "net_realized_pnl": [1, 20]})
    table = show.table(frame)
    assert repr(table).splitlines() == [
        "symbol  net realized P&L",
        "A<B                    1",
        "LONGER                20",
    ]
    assert '<td style="text-align: left">A&lt;B</td>' in table._repr_html_()  # type: ignore[union-attr]
    assert '<td style="text-align: right">20</td>' in table._repr_html_()  # type: ignore[union-attr]


def test_an_empty_table_says_so_in_words() -> None:
    nothing = show.table(pl.LazyFrame({"x": []}), "Nothing here.")
    assert (repr(nothing), nothing._repr_markdown_()) == ("Nothing here.", "*Nothing here.*")  # type: ignore[union-attr]


def test_a_value_that_no_table_can_show_is_refused() -> None:
    with pytest.raises(TypeError, match="x: expected a value that a table can show, found b'1'"):
        show.table(pl.DataFrame({"x": [b"1"]}))


def steps(*qty: int) -> pl.DataFrame:
    start = datetime(2024, 1, 2, tzinfo=UTC)
    return pl.DataFrame(
        {
            "key": ["A"] * len(qty),
            "time": [start + timedelta(hours=n) for n in range(len(qty))],
            "qty": pl.Series(qty, dtype=QUANTITY),
        }
    )


def test_lines_begin_at_nothing_and_go_on_to_the_end() -> None:
    other = steps(7).with_columns(key=pl.lit("B"), time=pl.col("time") + timedelta(hours=1))
    lines = show.lines(pl.concat([steps(5, 3, 4), other]), "key", "qty")
    hours = [(key, time.hour, qty) for key, time, qty in lines.rows()]
    assert [point for point in hours if point[0] == "A"] == [
        ("A", 0, 0), ("A", 0, 5), ("A", 1, 3), ("A", 2, 4), ("A", 2, 4),
    ]  # fmt: skip
    assert [point for point in hours if point[0] == "B"] == [("B", 0, 0), ("B", 1, 7), ("B", 2, 7)]


def test_lines_between_two_times_begin_with_what_was_before() -> None:
    start = datetime(2024, 1, 2, 0, 30, tzinfo=UTC)
    lines = show.lines(steps(5, 3, 4), "key", "qty", between=(start, start + timedelta(hours=1)))
    assert [(f"{time:%H:%M}", qty) for _, time, qty in lines.rows()] == [
        ("00:30", 5), ("01:00", 3), ("01:30", 3),
    ]  # fmt: skip


def test_long_lines_are_thinned_and_keep_their_last_value() -> None:
    lines = show.lines(steps(*range(10_000)), "key", "qty")
    assert len(lines) <= show.DRAWN_POINTS + 3
    assert lines["qty"].to_list()[-1] == 9999


def test_currencies_get_a_chart_each() -> None:
    frame = pl.LazyFrame({"currency": ["USD", "EUR", "USD"], "x": [1, 2, 3]})
    drawn: list[tuple[str, int]] = []

    def draw(rows: pl.DataFrame, currency: str) -> alt.Chart:
        drawn.append((currency, len(rows)))
        return alt.Chart(rows, mark="bar")

    assert isinstance(show.per_currency(frame, draw, "Nothing."), alt.VConcatChart)
    assert drawn == [("EUR", 1), ("USD", 2)]
    assert repr(show.per_currency(frame.clear(), draw, "Nothing.")) == "Nothing."


def test_a_picture_keeps_its_pixels_when_it_is_pressed() -> None:
    chart = alt.Chart(show.drawable(steps(1, 2))).mark_bar().encode(x="qty:Q")
    show.set_up()
    bundle, size = chart._repr_mimebundle_()
    png = bundle["image/png"]
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    at = png.index(b"IDAT")
    pixels = zlib.decompress(png[at + 4 : at + 4 + int.from_bytes(png[at - 4 : at])])
    assert len(pixels) == height * (1 + 4 * width)
    assert size["image/png"] == {"width": width, "height": height}
    assert bundle.keys() == {"image/png", "text/plain"}
