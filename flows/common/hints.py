"""What is said to a person who cannot run a program so, or not with what is installed.

Apart from `doors`, since the main job needs it too, and carries no command line.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def tell_how_to_run(how: str) -> NoReturn:
    """End a file that was run as a command, and is none, with how it is run.

    Exit code 0 if that was asked for by --help, else 2.
    """
    asked = {"-h", "--help"} & set(sys.argv[1:])
    print(how, file=sys.stdout if asked else sys.stderr)
    raise SystemExit(0 if asked else 2)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import what an extra brings; end the program with one line if it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"state", "connectors", "flows"}:
            raise
        raise SystemExit(
            f"lotstream: expected the package {error.name}, which comes with the extra {name!r}; "
            f"found none: run `make setup`, or pip install '.[{name}]' in the checkout"
        ) from None
