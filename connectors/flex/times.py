"""The one door for all forms in which a Flex file writes times.

A Flex query's owner chooses the form of dates, of times and what stands between, and
whether the zone's name follows. A date that can be read in two ways is refused.
"""

import re
from datetime import datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from state.exact import milliseconds

_MONTHS = dict(
    zip(
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
        range(1, 13),
        strict=True,
    )
)
# Short names that mean one offset; CST and IST, say, do not.
_HOURS_OF = {
    "UTC": 0, "GMT": 0, "EST": -5, "EDT": -4, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
    "BST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "WEST": 1, "MSK": 3,
    "HKT": 8, "SGT": 8, "JST": 9, "KST": 9, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
_DATES = (
    re.compile(r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)"),
    re.compile(r"(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)"),
    re.compile(r"(?P<d>\d\d?)-(?P<name>[A-Za-z]{3})-(?P<y>\d{4}|\d\d)"),
    re.compile(r"(?P<a>\d\d?)/(?P<b>\d\d?)/(?P<y>\d{4}|\d\d)"),
)
# Where nothing stands between, a time has six digits or colons.
_WHEN = re.compile(
    r"(?P<date>\d{8}|\d{4}-\d\d-\d\d|\d\d?(?:-[A-Za-z]{3}-|/\d\d?/)(?:\d{4}|\d\d))"
    r"(?=\d{6}(?!\d)|\d\d:|\D|$)"
    r"(?:[;,T ]?[; ]*(?P<h>\d\d):?(?P<min>\d\d)(?::?(?P<s>\d\d))?(?:\.\d+)?"
    r"(?: *(?P<zone>Z|[+-]\d\d:?\d\d|[A-Za-z][\w/+-]*))?)?"
)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


def read_time(text: str, zone: tzinfo, *, without_time: time = time(0)) -> int:
    """Return milliseconds since 1970, UTC.

    zone: that of a time which names none. An hour that a zone has twice counts as the
    first of the two. without_time: the time of day of a date alone.
    Raises ValueError, saying what was expected, if the text has no or two readings.

    >>> read_time("20240102;093000", ZoneInfo("America/New_York"))
    1704205800000
    >>> read_time("2024-01-02 09:30:00 EST", UTC)
    1704205800000
    """
    match = _WHEN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a time such as 20240102;093000, found {text!r}")
    try:
        year, month, day = _date(match["date"])
        of_day = (
            time(int(match["h"]), int(match["min"]), int(match["s"] or 0))
            if match["h"]
            else without_time
        )
        naive = datetime.combine(datetime(year, month, day), of_day)  # noqa: DTZ001
    except ValueError as error:
        raise ValueError(
            f"expected a time such as 20240102;093000, found {text!r} ({error})"
        ) from None
    if match["zone"]:
        zone = _named_zone(match["zone"], naive, zone)
    return milliseconds(naive.replace(tzinfo=zone))


def names_zone(text: str) -> bool:
    """Tell whether a time says itself which zone it is of."""
    match = _WHEN.fullmatch(text.strip())
    return match is not None and match["zone"] is not None


def _date(text: str) -> tuple[int, int, int]:
    match = next(found for form in _DATES if (found := form.fullmatch(text)))
    year = int(match["y"]) + (2000 if len(match["y"]) == 2 else 0)  # noqa: PLR2004
    said = match.groupdict()
    if "m" in said:
        return year, int(said["m"]), int(said["d"])
    if "name" in said:
        return year, _MONTHS.get(said["name"].upper(), 0), int(said["d"])
    first, second = int(said["a"]), int(said["b"])
    readings = {(m, d) for m, d in ((first, second), (second, first)) if m <= 12}  # noqa: PLR2004
    if len(readings) != 1:
        raise ValueError("day and month cannot be told apart; let the query write yyyyMMdd")
    [(month, day)] = readings
    return year, month, day


def _named_zone(name: str, naive: datetime, zone: tzinfo) -> tzinfo:
    if offset := _OFFSET.fullmatch(name):
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    # A short name such as EDT is no zone to Python, but may be that of the user's zone.
    for local in (naive.replace(tzinfo=zone), naive.replace(tzinfo=zone, fold=1)):
        own = local.utcoffset()
        if local.tzname() == name and own is not None:
            return timezone(own)
    if name == "Z" or name in _HOURS_OF:
        return timezone(timedelta(hours=_HOURS_OF.get(name, 0)))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"no time zone is known by the name {name!r}; let the query leave it out, and say "
            f"the zone with --timezone"
        ) from None
