"""The benchmarks: `make bench`, or `python -m flows.bench` (Linux).

The sections run one after the other, on a server of their own and with the real flow
as a process. What has a scale in the same run is shown beside it, as a ratio: a bare
loop, a bare round trip, the same work on less. See the sections' modules for what
exactly is measured: catchup, live, marks, flat, parts, book.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows.bench import book, catchup, flat, live, marks, parts
from flows.bench.peers import has_nautilus
from flows.bench.report import Figure, Report
from flows.bench.sizes import FULL, QUICK, TINY, Sizes
from flows.common.doors import app_of, enter
from flows.common.process import ProcessError
from flows.demo.stage import end_on_signals


class _Section(NamedTuple):
    title: str
    steps: int
    measure: Callable[[Sizes, Callable[[str], None]], list[Figure]]


SECTIONS = {
    name: _Section(module.TITLE, module.STEPS, module.measure)
    for name, module in (
        ("catchup", catchup),
        ("live", live),
        ("marks", marks),
        ("flat", flat),
        ("parts", parts),
        ("book", book),
    )
}

_BUSY = 0.3
"""Load per core from which the machine is not quiet."""


def main(
    only: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help=f"Some sections only, of {','.join(SECTIONS)}."),
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and rougher.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Up to 10 million executions; needs 8 GiB of memory.")
    ] = False,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table, for docs/speed.md.")
    ] = False,
) -> None:
    """Measure speed and memory, and print them as ratios."""
    names = _chosen(only)
    if quick + full + tiny > 1 or (as_json and as_markdown):
        raise typer.BadParameter("expected one size and one form at most")
    if sys.platform != "linux":
        raise SystemExit("lotstream: expected Linux, whose /proc tells processor time and memory")
    end_on_signals()
    notes = _notes(names)
    report = Report.of(_measure(names, _sizes(quick=quick, full=full, tiny=tiny)), notes)
    titles = {name: section.title for name, section in SECTIONS.items()}
    if as_json:
        print(report.to_json())
    elif as_markdown:
        print(report.to_markdown(titles))
    else:
        report.show(titles, Console(highlight=False))


def _chosen(only: str | None) -> list[str]:
    if only is None:
        return list(SECTIONS)
    wanted = {name.strip() for name in only.split(",")}
    if unknown := wanted - SECTIONS.keys():
        expected, found = ", ".join(SECTIONS), ", ".join(map(repr, sorted(unknown)))
        raise typer.BadParameter(f"expected some of {expected}, found {found}", param_hint="--only")
    return [name for name in SECTIONS if name in wanted]


def _sizes(*, quick: bool, full: bool, tiny: bool) -> Sizes:
    if full:
        return FULL
    if quick:
        return QUICK
    return TINY if tiny else Sizes()


def _notes(names: list[str]) -> list[str]:
    """Say what the figures lack, before there is anything but others' load."""
    notes = []
    load = os.getloadavg()[0]
    if load > _BUSY * len(os.sched_getaffinity(0)):
        notes.append(f"The machine was not quiet: its load was {load:.1f} before the start.")
    if "book" in names and not has_nautilus():
        notes.append("nautilus_trader is not installed, so its Position.apply is not among these.")
    return notes


def _measure(names: list[str], sizes: Sizes) -> list[Figure]:
    figures: list[Figure] = []
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Drawn between measurements only: a thread that draws would disturb them.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        total = sum(SECTIONS[name].steps for name in names)
        task = bar.add_task("", total=total, completed=-1)

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what, refresh=True)

        try:
            for name in names:
                figures += SECTIONS[name].measure(sizes, step)
        except ProcessError as error:
            raise SystemExit(f"lotstream: {error}") from None
    return figures


app = app_of(main)

if __name__ == "__main__":
    enter(app, "bench")
