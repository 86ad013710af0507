"""Columns of 128-bit whole numbers: exact money, many rows at once.

Amounts of money in units of 10^-20 need more than 64 bits. A `Wide` column has them as
two's complement in two halves, which is also how Arrow lays out its decimals. Sums and
differences wrap around as those of 64 bits do: whatever happens on the way, a result is
exact if it fits in 128 bits.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from state.exact import divide_half_even

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_HALF = 32
_LOW_HALF = np.int64(2**_HALF - 1)


class Wide(NamedTuple):
    """A column of numbers: high x 2^64 + low."""

    high: Ints
    low: NDArray[np.uint64]

    @classmethod
    def of(cls, numbers: Ints) -> "Wide":
        """Widen 64-bit numbers."""
        return cls(numbers >> 63, numbers.view(np.uint64))

    @classmethod
    def of_ints(cls, numbers: Sequence[int]) -> "Wide":
        """Take Python's whole numbers, each within 128 bits."""
        data = b"".join([number.to_bytes(16, "little", signed=True) for number in numbers])
        halves = np.frombuffer(data, "<u8")
        return cls(halves[1::2].view(np.int64), halves[0::2])

    @classmethod
    def product(cls, a: Ints, b: Ints) -> "Wide":
        """Multiply 64-bit numbers."""
        a_low, a_high, b_low, b_high = a & _LOW_HALF, a >> _HALF, b & _LOW_HALF, b >> _HALF
        lowest = a_low.view(np.uint64) * b_low.view(np.uint64)
        middle = a_low * b_high + (lowest >> np.uint64(_HALF)).view(np.int64)
        other = a_high * b_low + (middle & _LOW_HALF)
        high = a_high * b_high + (middle >> _HALF) + (other >> _HALF)
        return cls(high, a.view(np.uint64) * b.view(np.uint64))

    def __add__(self, other: "Wide") -> "Wide":  # type: ignore[override]
        low = self.low + other.low
        return Wide(self.high + other.high + (low < self.low), low)

    def __sub__(self, other: "Wide") -> "Wide":
        borrow = self.low < other.low
        return Wide(self.high - other.high - borrow, self.low - other.low)

    def take(self, places: Ints) -> "Wide":
        """Return the numbers at some places."""
        return Wide(self.high[places], self.low[places])

    def sums(self) -> "Wide":
        """Return 0 and the sum after each number: one more than there are numbers."""
        lowest = _sums((self.low & np.uint64(_LOW_HALF)).view(np.int64))
        middle = _sums((self.low >> np.uint64(_HALF)).view(np.int64)) + (lowest >> _HALF)
        high = _sums(self.high) + (middle >> _HALF)
        return Wide(high, ((middle << _HALF) | (lowest & _LOW_HALF)).view(np.uint64))

    def narrow(self) -> Ints:
        """Return them in 64 bits, where they must fit."""
        return self.low.view(np.int64)

    def to_decimals(self, of_type: pa.DataType, known: Bools | None = None) -> pa.Array:
        """Return them as decimals that count the type's smallest unit; null if not known."""
        halves = np.empty((len(self.low), 2), "<u8")
        halves[:, 0], halves[:, 1] = self.low, self.high.view(np.uint64)
        bits: Any = None
        if known is not None and not known.all():
            bits = pa.py_buffer(np.packbits(known, bitorder="little"))
        return pa.Array.from_buffers(of_type, len(halves), [bits, pa.py_buffer(halves)])

    def scattered(self, places: Ints, length: int) -> "Wide":
        """Return as many numbers, these at their places and 0 between them."""
        high, low = np.zeros(length, np.int64), np.zeros(length, np.uint64)
        high[places], low[places] = self.high, self.low
        return Wide(high, low)


def _sums(numbers: Ints) -> Ints:
    sums = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(numbers, out=sums[1:])
    return sums


def quotients(numerators: Wide, denominators: Ints) -> Wide:
    """Divide and round half-even; 0 where the denominator is 0."""
    known = denominators != 0
    by = np.where(known, denominators, 1)
    estimate = np.where(known, numerators.high * 2.0**64 + numerators.low, 0) / by
    # A float has 53 bits. What it is wrong by times the denominator must stay in 63, so
    # that the last 64 bits alone tell the remainder.
    wrong_by = np.abs(estimate) * 2.0**-50 + 2
    if (np.abs(estimate) < 2.0**62).all() and (wrong_by * np.abs(by * 1.0) < 2.0**62).all():
        quotient = estimate.astype(np.int64)
        rest = (numerators.low - (quotient * by).view(np.uint64)).view(np.int64)
        more, rest = np.divmod(rest, by)
        quotient += more
        twice, whole = 2 * np.abs(rest), np.abs(by)
        quotient += (twice > whole) | ((twice == whole) & (quotient & 1 == 1))
        return Wide.of(np.where(known, quotient, 0))
    exact = [
        divide_half_even(high * 2**64 + low, denominator) if denominator else 0
        for high, low, denominator in zip(
            numerators.high.tolist(), numerators.low.tolist(), denominators.tolist(), strict=True
        )
    ]
    return Wide.of_ints(exact)
