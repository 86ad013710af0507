"""What an instrument is called on the stream, so that no two share a name.

A stock is called by its symbol, all else by the broker's local symbol. The second
contract of a name gets its exchange behind it, or else its number.
"""

from collections.abc import Container


def base_name(
    *, sec_type: str, symbol: str, local_symbol: str, currency: str, con_id: str
) -> str:
    """Return what an instrument is called if nothing else has this name.

    >>> base_name(sec_type="STK", symbol="SHOP", local_symbol="SHOP", currency="USD", con_id="1")
    'SHOP'
    """
    if sec_type == "STK" and symbol:
        return symbol
    if local_symbol:
        return local_symbol
    if sec_type == "CASH":
        return f"{symbol}.{currency}"
    return f"{symbol}#{con_id}"


def free_name(base: str, con_id: str, primary_exchange: str, taken: Container[str]) -> str:
    """Return the name of one more contract.

    taken: the names of all other contracts.

    >>> free_name("SHOP", "17", "TSE", {"SHOP"}), free_name("SHOP", "17", "", {"SHOP"})
    ('SHOP@TSE', 'SHOP#17')
    """
    if base not in taken:
        return base
    named = f"{base}@{primary_exchange}"
    return named if primary_exchange and named not in taken else f"{base}#{con_id}"
