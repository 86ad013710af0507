"""JSON whose numbers keep every digit."""

from decimal import Decimal

from connectors.redis.exact_json import from_json, to_json
from connectors.redis.overview import Overview


def test_every_number_is_read_as_it_was_written() -> None:
    text = '{"qty": 3, "pnl": 12345678901234567.00000000000000000001, "why": null, "ok": true}'
    read = from_json(text)
    assert read == {
        "qty": 3,
        "pnl": Decimal("12345678901234567.00000000000000000001"),
        "why": None,
        "ok": True,
    }
    assert isinstance(read["qty"], Decimal)
    assert to_json(read) == text


def test_json_keeps_figures_exact() -> None:
    overview = Overview(1, {}, [], 0)
    assert to_json(overview) == (
        '{"at_ms": 1, "positions": {}, "streams": [], "dead_letters": 0, '
        '"broker": {"accounts": null, "breaks": {}, "figures": {}}, "worth": {}, "base": null}'
    )
    assert to_json([Decimal("1.00000000000000000001"), "a", True, 1.5]) == (
        '[1.00000000000000000001, "a", true, 1.5]'
    )
    assert to_json((Decimal("1E+2"), Decimal("1E-10"))) == "[100, 0.0000000001]"
