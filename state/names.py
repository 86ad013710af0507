"""What an instrument is called on the stream, so that no two share a name.

A stock is called by its symbol, all else by the broker's local symbol, which tells apart
what shares a symbol: the series of a derivative, currency pairs, an issuer's bonds. The
second contract of a name gets its exchange behind it, or else its number.
"""


def plain_name(
    *, sec_type: str, symbol: str, local_symbol: str, currency: str, con_id: int | str
) -> str:
    """Return what an instrument is called if nothing else has this name.

    >>> plain_name(sec_type="STK", symbol="SHOP", local_symbol="SHOP", currency="USD", con_id="1")
    'SHOP'
    """
    if sec_type == "STK" and symbol:
        return symbol
    if local_symbol:
        return local_symbol
    if sec_type == "CASH":
        return f"{symbol}.{currency}"
    return f"{symbol}#{con_id}"


def possible_names(plain: str, con_id: int | str, primary_exchange: str) -> list[str]:
    """Return what a contract may be called, the best first; the last one is its own for sure.

    >>> possible_names("SHOP", "17", "TSE"), possible_names("SHOP", "17", "")
    (['SHOP', 'SHOP@TSE', 'SHOP#17'], ['SHOP', 'SHOP#17'])
    """
    own = plain if plain.endswith(f"#{con_id}") else f"{plain}#{con_id}"
    return [plain, *([f"{plain}@{primary_exchange}"] if primary_exchange else []), own]
