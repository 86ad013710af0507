"""What is a mark and what is none, and what becomes news because time passes."""

import pytest

from connectors.redis.news import News, Passing, read_mark
from state.exact import ONE
from state.valuation import Calendar, Mark

ARRIVED = 1_764_000_000_000
GOOD = {b"symbol": b"AAPL", b"price": b"191.20", b"timestamp": b"1764000000000"}


def read(**changed: bytes | None) -> tuple[str, Mark]:
    said = GOOD | {name.encode(): text for name, text in changed.items()}
    fields = [word for pair in said.items() if pair[1] is not None for word in pair]
    return read_mark(b"%d-0" % ARRIVED, fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("price", [b"191.2", b"-3", b"0", b"1e-10"])
def test_a_price_may_be_any_decimal(price: bytes) -> None:
    symbol, mark = read(price=price, source=b"ibkr last")
    assert symbol == "AAPL"
    assert mark.price == round(float(price) * ONE)


def test_a_mark_may_be_a_minute_ahead_or_long_ago() -> None:
    assert read(timestamp=b"%d" % (ARRIVED + 60_000))[1].timestamp == ARRIVED + 60_000
    assert read(timestamp=b"31536000000")[1].timestamp == 31_536_000_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("symbol", None), ("symbol", b""), ("symbol", b"x" * 65), ("symbol", b"\xff"),
        ("price", None), ("price", b"NaN"), ("price", b"inf"), ("price", b"1e9"),
        ("price", b"1_0"), ("price", b"0.00000000001"), ("price", b"\xff"),
        ("timestamp", None), ("timestamp", b"soon"), ("timestamp", b"-5"),
        ("timestamp", b"1764000000"), ("timestamp", b"9" * 30),
        ("timestamp", b"%d" % (ARRIVED + 60_001)),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_refused(name: str, text: bytes | None) -> None:
    with pytest.raises(ValueError, match="decode" if text == b"\xff" else f"^{name}: expected"):
        read(**{name: text})


def marked(at: int) -> News:
    return News(Mark(ONE, at), {}, {}, begins=False)


def test_a_mark_that_becomes_stale_is_news_once() -> None:
    passing = Passing(Calendar("UTC"), 60_000)
    assert passing.due(ARRIVED) == []
    passing.take({"A": marked(ARRIVED), "B": marked(ARRIVED + 5000)})
    passing.take({"A": marked(ARRIVED - 9000), "B": News(None, {}, {}, begins=False)})
    assert passing.due(ARRIVED + 60_000) == []
    assert passing.due(ARRIVED + 61_000) == ["A"]
    assert passing.due(ARRIVED + 62_000) == []
    passing.take({"A": marked(ARRIVED + 62_000)})
    assert passing.due(ARRIVED + 70_000) == ["B"]
    assert passing.due(ARRIVED + 130_000) == ["A"]
