"""Every order of events of a small model of the flow, and each of its rules taken out in turn."""

from pathlib import Path

import pytest

from tests.support.explorer import explore, without
from tests.support.model import RULES, Setting

PAGE = Path(__file__).parents[3] / "docs" / "exactly-once.md"

ONE = Setting("aba")
ONE_KEY = Setting("aaa")
TRIMS = Setting("ab", trims=True)
TWO_WORKERS = Setting("ab", workers=2)
TWO_WORKERS_LONGER = Setting("aba", workers=2, crashes=1)
FORGETS = Setting("aba", crashes=1, forgets=1)
SUITE = {
    "one worker": ONE,
    "one key": ONE_KEY,
    "trimming": TRIMS,
    "the recovery directory lost": Setting("ab", loses_store=True),
    "two workers": TWO_WORKERS,
    "two workers, longer": TWO_WORKERS_LONGER,
    "Redis forgets": FORGETS,
    "two workers, Redis forgets": Setting("ab", workers=2, crashes=1, forgets=1),
}
SHOWN_BY = {
    "slowest": TWO_WORKERS, "barrier": TWO_WORKERS, "by id": ONE_KEY, "hold": TWO_WORKERS_LONGER,
    "hold first": FORGETS, "show again": FORGETS, "after outage": FORGETS, "how far": FORGETS,
    "group after": TRIMS, "anchor": TRIMS,
}  # fmt: skip
"""What shows a rule's worth, where it is not the simplest setting."""


def test_a_stale_snapshot_of_the_engine_needs_two_crashes_and_is_found() -> None:
    found = explore(without(Setting("ab"), "scrub"))
    assert found.violation == "the book of b was offered 2, which it has"
    assert sum(step.startswith("crash") for step in found.way) == 2
    assert explore(without(Setting("ab", crashes=1), "scrub")).violation is None


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_something_goes_wrong(rule: str) -> None:
    assert explore(without(SHOWN_BY.get(rule, ONE), rule)).violation is not None


@pytest.mark.long
def test_with_all_rules_nothing_does_and_the_page_says_how_many_states_that_are() -> None:
    found = {name: explore(setting) for name, setting in SUITE.items()}
    assert {name: (one.violation, one.way) for name, one in found.items()} == dict.fromkeys(
        SUITE, (None, [])
    )
    assert f"{sum(one.states for one in found.values()):,} states" in PAGE.read_text()


def test_the_page_names_each_rule() -> None:
    page = PAGE.read_text()
    assert [rule for rule, what in RULES.items() if f"| {rule} | {what} |" not in page] == []
