"""`flows.flex audit`: says what of the broker's figures differs from ours."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from connectors.flex.contents import Problem
from connectors.flex.draft import Asked, Draft
from connectors.flex.lots import exact_text
from connectors.redis.link import RedisLink
from flows.common.doors import flows_directory
from flows.common.overview import counted
from flows.common.texts import print_table, shown
from flows.flex.comparing import Books, Comparer, Comparison, Finding, shown_time
from flows.flex.history import Cancels, History, remembered
from flows.flex.importing import (
    MOST_SHOWN,
    Files,
    Zone,
    instruments_of,
    prepare,
    read_files,
    show_problems,
)

_KINDS = {"close": "closes", "closed lot": "closed lots", "open lot": "open lots"}


def audit(
    files: Files,
    *,
    zone: Zone = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Compare the broker's figures with ours. Exit code 1: a difference; 2: no answer."""
    settings, tz = prepare(zone)
    flows_directory(settings.data_dir)
    contents = read_files(files, tz)
    link = RedisLink(settings.redis_url.get_secret_value(), stop=None)
    history = History(link, settings.streams, settings.data_dir, booked=True)
    names = remembered(instruments_of(settings, link), history)
    draft = Draft(contents, Asked(), cancelled=Cancels(settings, link).known())
    found = Comparer(draft, Books(draft, history, names)).compare()
    (_show_json if as_json else _show)(found, draft.plan.problems, history.behind)
    if found.differences:
        raise typer.Exit(1)


def summary(found: Comparison) -> list[str]:
    """Return the lines a user wants each morning, such as `312 of 312 closes equal`."""
    lines = []
    for kind, name in _KINDS.items():
        differ = sum(finding.what == kind for finding in found.differences)
        if differ or found.equal[kind]:
            lines.append(f"{found.equal[kind]:,} of {found.equal[kind] + differ:,} {name} equal")
    return lines or ["nothing to compare"]


def _show(found: Comparison, problems: Sequence[Problem], behind: int) -> None:
    if found.differences:
        _table("Differences", found.differences)
    if found.explained:
        _table("Not compared, or explained", found.explained)
    show_problems(problems)
    if behind:
        waiting = counted(behind, "entry")
        print(f"note: the flow has {waiting} to book yet; what is there is not compared")
    for line in summary(found):
        print(line)
    differences = counted(len(found.differences), "difference")
    print(f"{differences}, {len(found.explained):,} explained or without a figure")


def _table(title: str, findings: Sequence[Finding]) -> None:
    table = Table("", "account", "contract", "time (UTC)", "id", title=title)
    for name in ("ours", "broker's", "difference"):
        table.add_column(name, justify="right")
    table.add_column("")
    for finding in findings[:MOST_SHOWN]:
        table.add_row(
            finding.what, shown(finding.account), shown(finding.symbol), shown_time(finding.time),
            shown(finding.id), *(_figures(finding)), shown(finding.why),
        )  # fmt: skip
    print_table(table)
    if len(findings) > MOST_SHOWN:
        print(f"… and {len(findings) - MOST_SHOWN} more (--json prints all)")


def _figures(finding: Finding) -> list[str]:
    off = None
    if finding.ours is not None and finding.brokers is not None:
        off = finding.ours - finding.brokers
    return [
        "" if each is None else exact_text(each, 6) for each in (finding.ours, finding.brokers, off)
    ]


def _show_json(found: Comparison, problems: Sequence[Problem], behind: int) -> None:
    told = {
        "equal": {name: found.equal[kind] for kind, name in _KINDS.items()},
        "differences": [_plain(finding) for finding in found.differences],
        "explained": [_plain(finding) for finding in found.explained],
        "left_out": [{"reason": each.reason, "row": dict(each.row)} for each in problems],
        "not_booked_yet": behind,
    }
    print(json.dumps(told, indent=2))


def _plain(finding: Finding) -> dict[str, Any]:
    ours, brokers, difference = _figures(finding)
    return {
        "what": finding.what, "account": finding.account, "symbol": finding.symbol,
        "id": finding.id, "timestamp": finding.time, "ours": ours or None,
        "broker": brokers or None, "difference": difference or None, "why": finding.why,
    }  # fmt: skip
