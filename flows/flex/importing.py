"""`flows.flex import`: Flex files to the stream, each row once.

Reads all files, asks the history and the stream what is known, and publishes what is
new in order of time. What cannot be said in messages is listed with its row.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Annotated, NoReturn, Self
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from connectors.flex.contents import Contents, Problem
from connectors.flex.draft import Asked, Draft, Plan, Planned
from connectors.flex.plan import Planner
from connectors.flex.xml import FlexFileError, read_rows
from connectors.redis.instruments import InstrumentHash
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError
from connectors.redis.publisher import BATCH, Once, Publisher
from flows.common.logs import set_up_logging
from flows.common.settings import Settings, load_settings
from flows.flex.history import Cancels, History, remember, remembered

MOST_SHOWN = 200
"""Rows listed in full; --json lists all."""

Files = Annotated[list[Path], typer.Argument(help="Flex query XML files.", exists=True,
                                             dir_okay=False)]  # fmt: skip
Zone = Annotated[
    str, typer.Option("--timezone", help="The zone of times that name none [IBKR_TIMEZONE].")
]


def import_files(
    files: Files,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all, publish nothing.")] = False,
    since: Annotated[str, typer.Option(help="First day to take, as 2024-01-31.")] = "",
    until: Annotated[str, typer.Option(help="Last day to take.")] = "",
    openings: Annotated[
        bool, typer.Option("--openings", help="Take what was held before the first trade too.")
    ] = False,
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW=SHARE",
            help="The share of the cost that goes to a row of a spin-off or merger, such as "
            "0.04238 or 1/6; ROW is its transaction id, con_id or symbol.",
        ),
    ] = None,
    zone: Zone = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Publish what Flex files hold, each row once. Exit code 1: a row was left out."""
    settings, tz = prepare(zone)
    asked = Asked(_ratios(ratio or []), _day(since, tz), _day(until, tz, after=1))
    contents = read_files(files, tz)
    link = impatient_link(settings)
    try:
        with Outbox(settings, link) as outbox:
            cancels = Cancels(settings, link)
            draft = Draft(contents, asked, openings=openings, cancelled=cancels.known())
            if not dry_run:
                cancels.keep(draft.unmatched)
            contents.trades.clear()  # the draft has what counts of them
            plan = _take(settings, link, draft, None if dry_run else outbox)
    except StoppedError as error:
        give_up(f"no answer from Redis: {error.__cause__}")
    except RedisRefusedError as error:
        give_up(str(error))
    if contents.zoneless and not zone and "ibkr_timezone" not in settings.model_fields_set:
        plan.notes.insert(0, f"times that name no zone are taken as {settings.ibkr_timezone}; "
                          f"Flex itself writes America/New_York: see --timezone")  # fmt: skip
    (_show_json if as_json else _show)(plan, contents, None if dry_run else outbox.published)
    if plan.problems:
        raise typer.Exit(1)


def prepare(zone: str) -> tuple[Settings, ZoneInfo]:
    """Read the settings and the zone of times that name none."""
    try:
        settings = load_settings()
    except SystemExit as error:  # its own code would read as a row that was left out
        give_up(str(error.code).removeprefix("lotstream: "))
    set_up_logging(settings)
    try:
        return settings, ZoneInfo(zone or settings.ibkr_timezone)
    except (KeyError, ValueError, OSError):
        give_up(f"--timezone: expected a time zone's name such as America/New_York, found {zone!r}")


def impatient_link(settings: Settings) -> RedisLink:
    """Return a link that does not wait for an outage to end."""
    impatient = Event()
    impatient.set()
    return RedisLink(settings.redis_url.get_secret_value(), impatient)


def instruments_of(settings: Settings, link: RedisLink) -> InstrumentHash:
    """Return the hash that remembers instruments."""
    return InstrumentHash(link, settings.instruments_hash, settings.positions_hash)


def read_files(files: Sequence[Path], zone: ZoneInfo) -> Contents:
    """Read files, showing how far that is; one that cannot be read ends the program with 2."""
    contents = Contents(zone)
    with progress_bar() as progress:
        task = progress.add_task("reading", total=sum(file.stat().st_size for file in files))
        for file in files:
            try:
                contents.add_file(read_rows(file, lambda size: progress.advance(task, size)))
            except FlexFileError as error:
                give_up(f"{error}; nothing was published")
    return contents


def give_up(reason: str) -> NoReturn:
    """End the program with 2 and one line."""
    print(f"lotstream: {reason}", file=sys.stderr)
    raise typer.Exit(2) from None


def progress_bar() -> Progress:
    """Return a bar that shows on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class Outbox:
    """Publishes messages in batches as they come, showing how far that is."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        self._publisher = Publisher(link, settings.streams)
        self._waiting: list[Once] = []
        self._progress = progress_bar()
        self._task = self._progress.add_task("publishing", total=None, visible=False)
        self.published = 0

    def expect(self, messages: int) -> None:
        """Begin to show; messages: about how many will come."""
        self._progress.update(self._task, total=messages, visible=True)

    def put(self, message: Planned) -> None:
        """Publish a message with the next batch."""
        self._waiting.append(Once(message.once_id, message.fields, message.version))
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self.published += sum(self._publisher.publish_once(*self._waiting))
        self._progress.advance(self._task, len(self._waiting))
        self._waiting.clear()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._waiting:
                self._flush()
        finally:
            self._progress.stop()


def _take(settings: Settings, link: RedisLink, draft: Draft, outbox: Outbox | None) -> Plan:
    history = History(link, settings.streams, settings.data_dir)
    instruments = instruments_of(settings, link)
    names = remembered(instruments, history)
    watched = draft.watched(names)
    known = history.known(draft.identities, watched)
    if outbox is None:
        return Planner(draft, known, names, watched).plan()
    if other := remember(instruments, names):
        give_up(f"con_id {', '.join(other)} got a name from another program meanwhile; nothing "
                f"was published: import again")  # fmt: skip
    outbox.expect(len(draft.fills))
    return Planner(draft, known, names, watched, outbox.put).plan()


def _ratios(texts: Iterable[str]) -> dict[str, Fraction]:
    ratios: dict[str, Fraction] = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        try:
            ratios[name] = Fraction(share)
        except (ValueError, ZeroDivisionError):
            name = ""
        if not name or not 0 <= ratios[name] <= 1:
            give_up(f"--ratio: expected ROW=SHARE with a share from 0 to 1, found {text!r}")
    return ratios


def _day(text: str, zone: ZoneInfo, after: int = 0) -> int | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text) + timedelta(days=after)
    except ValueError:
        give_up(f"expected a day such as 2024-01-31, found {text!r}")
    return int(datetime.combine(day, datetime.min.time(), zone).timestamp() * 1000)


# --- showing ---------------------------------------------------------------------------------


def _show(plan: Plan, contents: Contents, published: int | None) -> None:
    if published is None:
        for message in plan.messages[:MOST_SHOWN]:
            print(" ".join(f"{name}={value}" for name, value in message.fields.items()))
        if len(plan.messages) > MOST_SHOWN:
            print(f"… and {len(plan.messages) - MOST_SHOWN} more (--json prints all)")
    show_problems(plan.problems)
    for note in plan.notes:
        print(f"note: {note}")
    skipped = ", ".join(f"{name} {rows}" for name, rows in sorted(contents.passed_over.items()))
    if skipped:
        print(f"rows of sections that change no position: {skipped}")
    counted = ", ".join(f"{count:,} {kind}{'s' if count > 1 else ''}"
                        for kind, count in plan.counts.items()) or "nothing new"  # fmt: skip
    done = "would publish" if published is None else f"published {published:,} of"
    print(f"{done} {counted}; {plan.known:,} rows known before; {len(plan.problems):,} left out")


def show_problems(problems: Sequence[Problem]) -> None:
    """List rows that were left out, by reason."""
    for reason, row in problems[:MOST_SHOWN]:
        facts = " ".join(f"{name}={value}" for name, value in row.items() if value)
        print(f"left out: {reason}\n  {facts}")
    if len(problems) > MOST_SHOWN:
        print(f"… and {len(problems) - MOST_SHOWN} more left out (--json prints all)")


def _show_json(plan: Plan, contents: Contents, published: int | None) -> None:
    told = {
        "published": published, "known": plan.known,
        "messages": [message.fields for message in plan.messages] if published is None else None,
        "counts": dict(plan.counts),
        "left_out": [{"reason": problem.reason, "row": dict(problem.row)}
                     for problem in plan.problems],
        "notes": plan.notes, "sections_passed_over": dict(contents.passed_over),
    }  # fmt: skip
    print(json.dumps(told, indent=2))
