"""How the notebooks show things: tables and charts that can be printed as they are.

A chart leaves a PNG and nothing else: that shows on any page, such as a repository's, and
in git a chart's data would be many times as long. Money of different currencies never
shares an axis. Colours are told apart by the colour-blind too, and never say more than a
label says. Figures are exact until here; only charts turn them into floats.
"""

import zlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from html import escape
from typing import Any

import altair as alt
import polars as pl
from altair.typing import ChartType
from altair.utils.mimebundle import spec_to_mimebundle

# From Okabe and Ito, "Color Universal Design".
BLUE, VERMILLION, SKY, GREY = "#0072B2", "#D55E00", "#56B4E9", "#767676"

WIDTH = 680
DRAWN_POINTS = 300
"""Points to which a line is thinned: as many as a printed line can show."""

AMOUNT, AXIS = ",.2f", ",.2~f"
"""Number formats: to the cent; and for axes, with no more places than they need."""

NO_DATA = (
    "No data here yet. `python -m flows.demo --keep data`, run in the repository's root, makes "
    "some to look at; for your own, set DATA_DIR as for the flow."
)


Drawing = Callable[[pl.DataFrame, str], ChartType]
"""Draws the rows of one currency, whose name is the second argument."""


def set_up() -> None:
    """Make Altair draw for the screen and for paper."""
    alt.theme.register("lotstream", enable=True)(_theme)
    alt.renderers.register("lotstream", _picture)
    alt.renderers.enable("lotstream")
    alt.data_transformers.disable_max_rows()  # `lines` sees to it that there are few


def _picture(spec: dict[str, Any], **_: Any) -> Any:
    made, size = spec_to_mimebundle(spec, "png", mode="vega-lite", scale_factor=2)
    return {"image/png": _compressed(made["image/png"]), "text/plain": "a chart"}, size


def _compressed(png: bytes) -> bytes:
    """Press a PNG's pixels as small as zlib can."""
    chunks, rest = [], png[8:]
    while rest:
        end = 8 + int.from_bytes(rest[:4])
        chunks.append((rest[4:8], rest[8:end]))
        rest = rest[end + 4 :]
    pixels = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    kept = [chunk for chunk in chunks if chunk[0] not in {b"IDAT", b"IEND"}]
    kept += [(b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return png[:8] + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in kept
    )


def _theme() -> alt.theme.ThemeConfig:
    return {
        "background": "white",
        "config": {
            "view": {"stroke": None},
            "axis": {"gridColor": "#e6e6e6", "domainColor": "#999", "tickColor": "#999",
                     "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
            "axisX": {"grid": False},
            "axisXQuantitative": {"tickCount": 6, "labelFlush": False},
            "axisXTemporal": {
                "format": {"hours": "%H:%M", "minutes": "%H:%M", "seconds": "%H:%M:%S"},
                "tickCount": 8, "labelSeparation": 8, "labelFlush": False,
            },
            "axisY": {"minExtent": 50},
            "title": {"anchor": "start", "fontSize": 14, "subtitleColor": "#555", "offset": 8},
            "legend": {"orient": "top", "title": None, "labelFontSize": 11},
            "header": {"labelFontSize": 11, "labelAnchor": "start", "title": None},
        },
    }  # fmt: skip


class Note:
    """A sentence in place of a chart or table that would be empty."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_markdown_(self) -> str:
        return f"*{self._text}*"


# --- charts ----------------------------------------------------------------------------


def per_currency(frame: pl.LazyFrame, draw: Drawing, nothing: str) -> alt.VConcatChart | Note:
    """Stack one chart for each currency; say `nothing` if there are no rows."""
    parts = frame.collect().partition_by("currency", as_dict=True, maintain_order=True)
    if not parts:
        return Note(nothing)
    charts = [draw(rows, str(currency)) for (currency,), rows in sorted(parts.items())]
    stacked: alt.VConcatChart = alt.vconcat(*charts, spacing=24).resolve_scale(color="independent")
    return stacked


def drawable(rows: pl.DataFrame) -> pl.DataFrame:
    """Turn decimals into floats, and times into what a wall clock in UTC shows."""
    return rows.with_columns(
        pl.selectors.decimal().cast(pl.Float64).round(6),
        pl.selectors.datetime(time_zone="*").dt.replace_time_zone(None),
    )


def gain_or_loss(field: str) -> Any:
    """Colour bars by the sign of a field."""
    return alt.condition(alt.datum[field] < 0, alt.value(VERMILLION), alt.value(BLUE))


def lines(
    rows: pl.DataFrame, by: str, *values: str, between: tuple[datetime, datetime] | None = None
) -> pl.DataFrame:
    """Make values drawable as one step line for each `by`, over their `time`.

    between: from when to when; from the first to the last time of all if not given.
    A line begins with what it was before (0 if nothing was), keeps the last row of each
    of `DRAWN_POINTS` equal stretches of time, and goes on to the end.
    """
    time = pl.col("time")
    first, last = between or rows.select(time.min(), time.max().alias("last")).row(0)
    stretch = max(last - first, timedelta(milliseconds=1)) / DRAWN_POINTS
    place = ((time - first) / stretch).floor().alias("place")
    inside = rows.filter(time.is_between(first, last)).group_by(by, place, maintain_order=True)
    parts = [
        _held(rows, by, values, time < first, first),
        inside.last(),
        _held(rows, by, values, time <= last, last),
    ]
    return drawable(pl.concat([part.select(by, "time", *values) for part in parts]))


def _held(
    rows: pl.DataFrame, by: str, values: Sequence[str], by_then: pl.Expr, then: datetime
) -> pl.DataFrame:
    """Return what each line was at a time."""
    newest = rows.filter(by_then).group_by(by).last().select(by, *values)
    lines = rows.select(by).unique(maintain_order=True)
    held = lines.join(newest, on=by, how="left", maintain_order="left")
    time = pl.lit(then).cast(rows.schema["time"])
    return held.with_columns(pl.col(values).fill_null(0), time=time)


def title(text: str, rows: pl.DataFrame, time: str = "time") -> alt.TitleParams:
    """Title a chart, and say below what stretch of time its rows are from."""
    first, last = rows.select(first=pl.col(time).min(), last=pl.col(time).max()).row(0)
    return alt.Title(text, subtitle=f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, UTC")


# --- tables ----------------------------------------------------------------------------


class Printed:
    """A table of texts: numbers to the right, the rest to the left."""

    def __init__(self, names: list[str], rows: list[list[str]], right: list[bool]) -> None:
        self._names, self._rows, self._right = names, rows, right

    def __repr__(self) -> str:
        lines = [self._names, *self._rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(self._aligned(line, widths)).rstrip() for line in lines)

    def _aligned(self, line: list[str], widths: list[int]) -> list[str]:
        return [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, self._right, strict=True)
        ]

    def _repr_html_(self) -> str:
        head = self._html("th", self._names)
        body = "\n".join(self._html("td", row) for row in self._rows)
        return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def _html(self, tag: str, texts: list[str]) -> str:
        sides = ("right" if right else "left" for right in self._right)
        cells = (
            f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'
            for text, side in zip(texts, sides, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"


def table(frame: pl.LazyFrame | pl.DataFrame, nothing: str = "Nothing yet.") -> Printed | Note:
    """Show a frame as a printed table, amounts to the cent; say `nothing` if it is empty."""
    rows = frame.lazy().collect()
    if rows.is_empty():
        return Note(nothing)
    columns = [[_text(name, value) for value in rows[name]] for name in rows.columns]
    return Printed(
        [name.replace("_", " ").replace("pnl", "P&L") for name in rows.columns],
        [list(row) for row in zip(*columns, strict=True)],
        [kind.is_numeric() or kind == pl.Duration for kind in rows.dtypes],
    )


_AS_IS = {"year", "order_id"}
_SHARES = {"win_rate", "commission_share"}


def _text(name: str, value: object) -> str:
    if value is None:
        return "–"
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(name, value)
    raise TypeError(f"{name}: expected a value that a table can show, found {value!r}")


def _decimal_text(name: str, value: Decimal) -> str:
    """Write quantities in full, prices to at most 4 places, all other amounts to the cent."""
    if "qty" in name or name == "multiplier":
        return f"{value:,f}".rstrip("0").rstrip(".")
    if "price" in name:
        whole, _, places = f"{value:z,.4f}".partition(".")
        return f"{whole}.{places.rstrip('0'):0<2}"
    return f"{value:z,.2f}"


def _float_text(name: str, value: float) -> str:
    return f"{value:.1%}" if name in _SHARES else f"{value:z,.2f}"


def _int_text(name: str, value: int) -> str:
    return str(value) if name in _AS_IS else f"{value:,}"


def _duration_text(_: str, value: timedelta) -> str:
    minutes, seconds = divmod(int(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


_WRITERS: tuple[tuple[type, Callable[[str, Any], str]], ...] = (
    (Decimal, _decimal_text),
    (float, _float_text),
    (bool, lambda _, value: "yes" if value else "no"),
    (int, _int_text),
    (str, lambda _, value: value),
    (datetime, lambda _, value: f"{value:%Y-%m-%d %H:%M:%S}"),
    (date, lambda _, value: value.isoformat()),
    (timedelta, _duration_text),
)
"""How each type of value is written; the first that fits, as a bool is an int too."""
