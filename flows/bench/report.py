"""What a benchmark found, and the ways to show it.

A figure stands beside another of the same run wherever there is one that gives it a
scale: what a machine does in a second says little, their ratio says the same on most.
"""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Figure(NamedTuple):
    """One thing measured."""

    name: str
    """For machines: its section, a dot, and what it is in the section."""
    what: str
    value: float
    unit: str
    beside: float | None = None
    """Another value in the same unit, to judge it by, and what that is in `of`."""
    of: str = ""

    @property
    def section(self) -> str:
        """The part of the benchmark that it belongs to."""
        return self.name.partition(".")[0]

    @property
    def ratio(self) -> float | None:
        """The value over the one beside it; None if it stands alone."""
        return None if self.beside is None else self.value / self.beside


class Report(NamedTuple):
    """All that one run found, and where and when."""

    machine: dict[str, str]
    date: str
    figures: list[Figure]
    notes: list[str]

    @classmethod
    def of(cls, figures: list[Figure], notes: list[str]) -> "Report":
        """Return a report with this machine and this day on it."""
        return cls(this_machine(), datetime.now(UTC).date().isoformat(), figures, notes)

    def to_json(self) -> str:
        """Return all of it for a program to read."""
        figures = [{**figure._asdict(), "ratio": figure.ratio} for figure in self.figures]
        return json.dumps({**self._asdict(), "figures": figures}, indent=2, ensure_ascii=False)

    def to_markdown(self, titles: dict[str, str]) -> str:
        """Return it as a table for docs/speed.md."""
        lines = [f"{self._where_and_when}", ""]
        lines += ["| measured | figure | beside | ratio |", "| --- | ---: | :--- | ---: |"]
        for section, rows in self._sections():
            lines.append(f"| **{titles[section]}** | | | |")
            lines += [f"| {' | '.join(_cells(figure))} |" for figure in rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def show(self, titles: dict[str, str], console: Console) -> None:
        """Print it as tables."""
        console.print(self._where_and_when)
        for section, rows in self._sections():
            table = Table("", "figure", "beside", "ratio", title=titles[section])
            table.title_justify = "left"
            table.columns[1].justify = table.columns[3].justify = "right"
            table.columns[1].no_wrap = table.columns[3].no_wrap = True
            for figure in rows:
                table.add_row(*_cells(figure))
            console.print()
            console.print(table)
        for note in self.notes:
            console.print(f"\n{note}")

    def _sections(self) -> list[tuple[str, list[Figure]]]:
        grouped = groupby(self.figures, key=lambda figure: figure.section)
        return [(section, list(rows)) for section, rows in grouped]

    @property
    def _where_and_when(self) -> str:
        return f"Measured on {self.date}: {', '.join(self.machine.values())}."


def this_machine() -> dict[str, str]:
    """Describe the machine and its Python."""
    cores = len(os.sched_getaffinity(0))
    return {
        "cores": f"{cores} core{'s' if cores > 1 else ''}",
        "cpu": _cpu_model(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cells(figure: Figure) -> Sequence[str]:
    if figure.beside is None or figure.ratio is None:
        return figure.what, with_unit(figure.value, figure.unit), "", ""
    beside = f"{with_unit(figure.beside, figure.unit)} {figure.of}"
    return figure.what, with_unit(figure.value, figure.unit), beside, plain(figure.ratio)


def with_unit(value: float, unit: str) -> str:
    """Write a value with its unit as people do.

    >>> with_unit(183_402.7, "/s"), with_unit(0.01234, "ms"), with_unit(38.0, "%")
    ('183,403/s', '0.0123 ms', '38 %')
    """
    return f"{plain(value)}{'' if unit.startswith('/') else ' '}{unit}"


def plain(value: float) -> str:
    """Write a number to three digits, or whole if it has more before the point."""
    if abs(value) >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")
