"""How every command is entered, and what is said at a door that does not open.

Whatever a person gets wrong, be it a word, a setting or a Redis that is away, comes to one
line on standard error that says what was expected and what was found, and an exit code: 2
for words that no command has, else 1 (a command may say otherwise). A traceback is a fault
of ours.
"""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from typer.main import get_command

from connectors.redis.link import RedisRefusedError, StoppedError
from flows.common.settings import problem_text

_HELP = {"help_option_names": ["-h", "--help"]}


def app_of(main: Callable[..., object]) -> typer.Typer:
    """Return the command that a function is."""
    app = group()
    app.command(context_settings=_HELP)(main)
    return app


def group(*, completes: bool = False, **options: Any) -> typer.Typer:
    """Return a command that is to have others below it; completes: it can tell a shell."""
    return typer.Typer(add_completion=completes, context_settings=_HELP, **options)


def enter(app: typer.Typer, name: str, *, failure: int = 1) -> NoReturn:
    """Run a command by the words that were given, and end the program.

    name: what the door is called, such as `watch`. failure: the exit code if it cannot do
    what it is for; not 1 where that says what was found.
    """
    raise SystemExit(_run(get_command(app), f"python -m flows {name}".strip(), failure))


def _run(command: Any, name: str, failure: int) -> int:
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SystemExit as end:
        if isinstance(end.code, str):
            return _say(end.code.removeprefix("lotstream: "), failure)
        raise
    except Exception as error:
        # The library's own kinds of wrong words have no public name in common.
        if hasattr(error, "format_message"):
            return _say_wrong_words(error, name)
        text = _explained(error)
        if text is None:
            raise
        return _say(text, failure)
    return code if isinstance(code, int) else 0


def _explained(error: Exception) -> str | None:
    """Say what the world around has done; None for a fault of ours."""
    if isinstance(error, StoppedError):
        return f"Redis is away: {error.__cause__}"
    if isinstance(error, RedisRefusedError):
        return str(error)
    if type(error).__module__ == "polars.exceptions":
        first = str(error).partition("\n")[0]
        return (f"DATA_DIR: expected the flow's Parquet files, found one that cannot be read: "
                f"{first}; python -m flows verify names it")  # fmt: skip
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None


def _say_wrong_words(error: Any, name: str) -> int:
    text = error.format_message()
    if not text.strip():  # no command was given, so the help was shown
        return int(error.exit_code)
    if getattr(error, "param", None) is not None and error.message:
        wrong = error.__cause__
        told = problem_text(wrong) if isinstance(wrong, ValidationError) else error.message
        text = f"{error.param.opts[-1]}: {told}"
    path = getattr(error.ctx, "command_path", name)
    return _say(f"{text.removeprefix('Invalid value for ').rstrip('.')} (see {path} --help)", 2)


def _say(text: str, code: int) -> int:
    print(f"lotstream: {' '.join(text.split())}", file=sys.stderr)
    return code


def wrong_words(option: str, expected: str, found: object = None) -> typer.BadParameter:
    """Return the error of an option or argument that has not the value that it should have."""
    what = "none" if found is None else repr(found)
    return typer.BadParameter(f"expected {expected}, found {what}", param_hint=option)


def a_day(text: str) -> date:
    """Read a day that a person has typed."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"expected a day such as 2024-01-31, found {text!r}") from None


def flows_directory(data_dir: Path) -> Path:
    """Return DATA_DIR; end the program with one line if no flow has written there."""
    # A sample has the rows alone, a flow that has booked nothing its own directory alone.
    if any((data_dir / name).is_dir() for name in ("positions", ".lotstream")):
        return data_dir
    found = "no flow's" if data_dir.is_dir() else "no directory" if data_dir.exists() else "none"
    raise SystemExit(f"lotstream: DATA_DIR: expected the flow's directory, found {found} at "
                     f"{data_dir}")  # fmt: skip


def become_flow(flow: str, options: Sequence[str]) -> NoReturn:
    """Become the engine's own program, which runs a flow."""
    # What the options said stands in them; said twice it would go by the variable.
    for name in [name for name in os.environ if name.startswith("BYTEWAX_")]:
        del os.environ[name]
    command = [sys.executable, "-m", "bytewax.run", flow, *options]
    os.execv(command[0], command)  # noqa: S606  # our own program, without a shell
