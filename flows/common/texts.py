"""Tables for a terminal or a pipe, and texts in them that anybody may have written."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 200
"""Columns where no terminal tells how many there are."""


def shown(name: str) -> Text:
    """Return a name so that it cannot draw on the terminal, nor be taken for markup."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in name))


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal is; into a pipe, wide enough for whole names."""
    console = Console()
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)
