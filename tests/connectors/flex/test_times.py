"""Every form in which a Flex query may write a time."""

from datetime import UTC, time
from zoneinfo import ZoneInfo

import pytest

from connectors.flex.times import names_zone, read_time

NEW_YORK = ZoneInfo("America/New_York")
MOMENT = 1704205800000
"""Half past nine on 2 January 2024 in New York."""


@pytest.mark.parametrize(
    "text",
    [
        "20240102;093000", "20240102 093000", "20240102,093000", "2024-01-02;09:30:00",
        "2024-01-02, 09:30:00", "2024-01-02T09:30:00", "2024-01-02 09:30:00.250",
        "02-Jan-24;093000", "02-JAN-2024 09:30:00", "20240102;0930", "20240102;093000 EST",
        "20240102;093000 America/New_York", "2024-01-02T09:30:00-05:00", "2024-01-02T14:30:00Z",
        "20240102;143000 UTC", "20240103;013000 AEDT", "20240102;063000 PST",
        " 20240102;093000 ", "20240102093000", "20240102093000 EST",
        "2024-01-02093000", "2024-01-0209:30:00 EST", "02-Jan-24093000", "2-JAN-202409:30:00",
    ],
)  # fmt: skip
def test_a_moment_in_every_form(text: str) -> None:
    assert read_time(text, NEW_YORK) == MOMENT


@pytest.mark.parametrize("text", ["20240102;093007", "2024-01-02 09:30:07 EST"])
def test_seconds_count(text: str) -> None:
    assert read_time(text, NEW_YORK) == MOMENT + 7000


@pytest.mark.parametrize(
    ("names", "place"),
    [
        ("EST EDT", "America/New_York"), ("CDT", "America/Chicago"), ("MST MDT", "America/Denver"),
        ("PST PDT", "America/Los_Angeles"), ("GMT BST", "Europe/London"), ("WEST", "Europe/Lisbon"),
        ("CET CEST", "Europe/Berlin"), ("EET EEST", "Europe/Athens"), ("MSK", "Europe/Moscow"),
        ("HKT", "Asia/Hong_Kong"), ("JST", "Asia/Tokyo"), ("KST", "Asia/Seoul"),
        ("SGT", "Asia/Singapore"), ("AEST AEDT", "Australia/Sydney"),
        ("NZST NZDT", "Pacific/Auckland"),
    ],
)  # fmt: skip
def test_a_short_name_is_the_offset_that_it_has_where_it_is_used(names: str, place: str) -> None:
    zone = ZoneInfo(place)
    days = ("20240102", "20240702")
    for name in names.split():
        told = {read_time(f"{day};120000 {name}", UTC) for day in days}
        assert told & {read_time(f"{day};120000", zone) for day in days}


@pytest.mark.parametrize("text", ["01/13/2024;093000", "13/01/24;09:30:00", "1/13/24093000"])
def test_a_date_with_one_reading_is_read(text: str) -> None:
    assert read_time(text, NEW_YORK) == MOMENT + 11 * 24 * 3600 * 1000


@pytest.mark.parametrize(
    "text",
    ["", "x", "2024", "2024010209", "2024010209300", "202401020930", "02-Jan-240930", "2024-01",
     "2024-1-2", "20241302", "20240102;250000", "05/06/2024;093000", "20240102;093000 CST",
     "20240102;093000 MOON", "99-Foo-24"],
)  # fmt: skip
def test_what_has_no_or_two_readings_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|no time zone is known"):
        read_time(text, NEW_YORK)


def test_a_date_alone_has_the_time_that_is_asked_for() -> None:
    assert read_time("20240102", UTC) == 1704153600000
    assert read_time("20240102", UTC, without_time=time(16)) == 1704153600000 + 16 * 3600 * 1000


def test_an_hour_that_comes_twice_is_the_first() -> None:
    assert read_time("20241103;013000", NEW_YORK) == read_time("20241103;013000 EDT", NEW_YORK)
    assert read_time("20241103;013000 EST", NEW_YORK) == 1730615400000


def test_whether_it_names_a_zone() -> None:
    assert names_zone(" 20240102;093000 EST ")
    assert not names_zone("20240102;093000")
