"""Exact figures as whole numbers of a fixed, small unit.

A quantity, price, multiplier or commission is an `int` that counts units of
10^-10; an amount of money (quantity x price x multiplier) counts units of 10^-20.
Sums, differences and products of such numbers are exact, whatever the size and
whatever the thread's Decimal context says. Only `divide_half_even` rounds. A time is an
`int` too: milliseconds since 1970, UTC.
"""

import re
from datetime import UTC, datetime, timedelta

PLACES = 10
ONE: int = 10**PLACES
"""1 as a quantity, price, multiplier or commission."""

MONEY_PLACES = 20
MONEY: int = 10**MONEY_PLACES
"""1 as an amount of money."""

_WHOLE_DIGITS, _MONEY_DIGITS = 9, 17

LIMIT: int = 10**_MONEY_DIGITS
"""No figure of a position may reach this."""


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide and round to the nearest whole number, ties to the even one.

    Raises ZeroDivisionError for a denominator of 0.

    >>> [divide_half_even(n, 2) for n in (1, 3, -1, -3)]
    [0, 2, 0, -2]
    """
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2):
        quotient += 1
    return quotient


_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?", re.ASCII)

_UNITS: list[int] = [10**places for places in range(MONEY_PLACES + 1)]
"""What the last digit counts, with so many decimal places to come."""

_EXPONENT_DIGITS = 12
"""As many tell that an exponent is beyond what any text's own digits can make up for."""


def from_text(text: str, places: int = PLACES, whole_digits: int = _WHOLE_DIGITS) -> int:
    """Read a decimal, plain or with an exponent, as a number of units of 10^-places.

    whole_digits: as many may stand before the point.
    It costs no more than the text is long, whatever the number.
    Raises ValueError, saying what was expected, for anything that is not a decimal of
    so many digits and places at most (zeros before and behind them do not count).

    >>> from_text("150.25"), from_text("-1e-10"), from_text("15.0E1")
    (1502500000000, -1, 1500000000000)
    """
    # What nearly all texts are: digits with at most a point among them.
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    plain = digits.isdecimal() and digits.isascii()
    if plain and len(whole) <= whole_digits and len(fraction) <= places:
        return int(digits) * _UNITS[places - len(fraction)]
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise ValueError("a decimal")
    sign, whole, fraction = match[1], match[2], match[3] or ""
    exponent = _exponent(match[4]) if match[4] else 0
    digits = (whole + fraction).lstrip("0")
    if len(digits) - len(fraction) + exponent > whole_digits and digits:
        raise ValueError(f"a decimal below 1e{whole_digits} in magnitude")
    shift = places - len(fraction) + exponent
    if shift < 0:
        digits, lost = digits[:shift], digits[shift:]
        if lost.strip("0"):
            raise ValueError(f"a decimal of at most {places} decimal places")
    value = int(digits) * 10 ** max(shift, 0) if digits else 0
    return -value if sign == "-" else value


def money_from_text(text: str) -> int:
    """Read an amount of money below `LIMIT`; raises ValueError as `from_text` does.

    >>> money_from_text("12.5") == MONEY * 25 // 2
    True
    """
    return from_text(text, MONEY_PLACES, _MONEY_DIGITS)


def _exponent(text: str) -> int:
    value = int(text.lstrip("+-0")[:_EXPONENT_DIGITS] or "0")
    return -value if text.startswith("-") else value


def decimal_places(value: int) -> int:
    """Count the decimal places that a number of units of 10^-10 needs.

    >>> decimal_places(ONE // 4)
    2
    """
    places = PLACES
    while places and value % 10 == 0:
        value //= 10
        places -= 1
    return places


def to_text(value: int, places: int = PLACES) -> str:
    """Write a number of units of 10^-places as a plain decimal, no zeros behind.

    >>> to_text(150_2500000000), to_text(-5, places=1), to_text(0)
    ('150.25', '-0.5', '0')
    """
    digits = str(abs(value)).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Return a moment, which names its zone, as milliseconds since 1970; the rest is cut off.

    >>> milliseconds(datetime.fromisoformat("2026-07-06T14:30:00.001+00:00"))
    1783348200001
    """
    return (moment - _EPOCH) // _MILLISECOND  # timestamp() is a float, often just below


def share(whole: int, units: int, of: int) -> int:
    """Return what falls to some of the units that bear a whole evenly, rounded half-even.

    >>> share(10, 1, 4), share(10, 3, 4), share(10, 4, 4)
    (2, 8, 10)
    """
    if not whole or not units:
        return 0
    product = whole * units
    part = product // of  # faster than divmod
    if rest := product - part * of:
        part += 2 * rest > of or (2 * rest == of and part & 1)
    return part
