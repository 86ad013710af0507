"""Texts that anybody may have written, such as symbols and ids, on a terminal."""

from rich.text import Text


def shown(name: str) -> Text:
    """Return a name so that it cannot draw on the terminal, nor be taken for markup."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in name))
