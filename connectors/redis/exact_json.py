"""JSON whose numbers keep every digit, as the hash's values need: read, and written."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def from_json(text: str | bytes) -> Any:
    """Read JSON; every number becomes a Decimal. Raises ValueError if it is none.

    >>> from_json('{"qty": 100, "pnl": 0.10}')
    {'qty': Decimal('100'), 'pnl': Decimal('0.10')}
    """
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def to_json(value: Any) -> str:
    """Write a value as JSON, decimals exactly and plainly, records as objects.

    >>> to_json({"qty": Decimal("1E+2"), "why": None})
    '{"qty": 100, "why": null}'
    """
    if isinstance(value, Decimal):
        return format(value, "f")
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(k)}: {to_json(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_json, value))}]"
    return json.dumps(value)
