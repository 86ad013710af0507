"""`flows.flex import`: Flex files to the stream, each row once.

Reads all files, asks the history and the stream what is known, and publishes what is
new in order of time. What cannot be said in messages is listed with its row.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NoReturn, Self
from zoneinfo import ZoneInfo

import typer

from connectors.flex.actions import names_of
from connectors.flex.contents import Contents, Problem
from connectors.flex.draft import Asked, Draft, Plan, Planned
from connectors.flex.plan import Planner
from connectors.flex.xml import FlexFileError, read_rows
from connectors.redis.instruments import InstrumentHash
from connectors.redis.link import RedisLink
from connectors.redis.publisher import BATCH, Once, Publisher
from flows.common.doors import a_day, wrong_words
from flows.common.logs import set_up_logging
from flows.common.overview import counted
from flows.common.progress import Work
from flows.common.settings import Settings, load_settings
from flows.flex.history import Cancels, History, remember, remembered
from state.exact import milliseconds

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
    since: Annotated[
        date | None, typer.Option(parser=a_day, help="First day to take, as 2024-01-31.")
    ] = None,
    until: Annotated[date | None, typer.Option(parser=a_day, help="Last day to take.")] = None,
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
    if since and until and since > until:
        raise wrong_words("--until", f"{since} or later, as --since says", f"{until}")
    settings, tz = prepare(zone)
    asked = Asked(_ratios(ratio or []), _begin(since, tz), _begin(until, tz, after=1))
    contents = read_files(files, tz)
    named = {name for row in contents.actions.values() for name in names_of(row)}
    for name in sorted(asked.ratios.keys() - named):
        give_up(f"--ratio: expected the transaction id, con_id or symbol of a corporate action in "
                f"the files, found {name!r}; nothing was published")  # fmt: skip
    link = RedisLink(settings.redis_url.get_secret_value(), stop=None)
    with Outbox(settings, link) as outbox:
        cancels = Cancels(settings, link)
        draft = Draft(contents, asked, openings=openings, cancelled=cancels.known())
        if not dry_run:
            cancels.keep(draft.unmatched)
        contents.trades.clear()  # the draft has what counts of them
        plan = _take(settings, link, draft, None if dry_run else outbox)
    if contents.zoneless and not zone and "ibkr_timezone" not in settings.model_fields_set:
        plan.notes.insert(0, f"times that name no zone are taken as {settings.ibkr_timezone}; "
                          f"Flex itself writes America/New_York: see --timezone")  # fmt: skip
    (_show_json if as_json else _show)(plan, contents, None if dry_run else outbox.published)
    if plan.problems:
        raise typer.Exit(1)


def prepare(zone: str) -> tuple[Settings, ZoneInfo]:
    """Read the settings and the zone of times that name none."""
    settings = load_settings()
    set_up_logging(settings)
    try:
        return settings, ZoneInfo(zone or settings.ibkr_timezone)
    except (KeyError, ValueError, OSError):
        give_up(f"--timezone: expected a time zone's name such as America/New_York, found {zone!r}")


def instruments_of(settings: Settings, link: RedisLink) -> InstrumentHash:
    """Return the hash that remembers instruments."""
    return InstrumentHash(link, settings.instruments_hash, settings.positions_hash)


def read_files(files: Sequence[Path], zone: ZoneInfo) -> Contents:
    """Read files, showing how far that is; one that cannot be read ends the program with 2."""
    contents = Contents(zone)
    with Work("reading", "bytes", sum(file.stat().st_size for file in files)) as work:
        for file in files:
            try:
                contents.add_file(read_rows(file, work.advance))
            except FlexFileError as error:
                give_up(f"{error}; nothing was published")
    return contents


def give_up(reason: str) -> NoReturn:
    """End the program with one line; its door gives the exit code."""
    raise SystemExit(f"lotstream: {reason}") from None


class Outbox:
    """Publishes messages in batches as they come, showing how far that is."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        self._publisher = Publisher(link, settings.streams)
        self._waiting: list[Once] = []
        self._work = Work("publishing", "messages")
        self.published = 0

    def expect(self, messages: int) -> None:
        """Begin to show; messages: about how many will come."""
        self._work.expect(messages)

    def put(self, message: Planned) -> None:
        """Publish a message with the next batch."""
        self._waiting.append(Once(message.once_id, message.fields, message.version))
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self.published += sum(self._publisher.publish_once(*self._waiting))
        self._work.advance(len(self._waiting))
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._work:
            if kind is None and self._waiting:
                self._flush()


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


def _begin(day: date | None, zone: ZoneInfo, after: int = 0) -> int | None:
    if day is None:
        return None
    return milliseconds(datetime.combine(day + timedelta(days=after), time(), zone))


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
    kinds = [counted(count, kind) for kind, count in plan.counts.items()]
    done = "would publish" if published is None else f"published {published:,} of"
    known = counted(plan.known, "row")
    print(f"{done} {', '.join(kinds) or 'nothing new'}; {known} known before; "
          f"{len(plan.problems):,} left out")  # fmt: skip


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
