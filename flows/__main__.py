"""The one door: `python -m flows` lists all commands, `python -m flows NAME` is one.

A command is a file here, or a package with a `__main__`, that does something when it is
run; its docstring's first line is what the list says of it. So a new one needs no entry.
"""

import ast
import os
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from flows.common.doors import enter, group

_HERE = Path(__file__).parent
_COMPLETE = "_LOTSTREAM_COMPLETE"
"""Set by a shell that asks what may come next; what was typed so far is in one of these."""
_TYPED = ("_TYPER_COMPLETE_ARGS", "COMP_WORDS")

app = group(
    help="Exact FIFO positions from IBKR executions. NAME --help says more of each command.",
    completes=True,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001  # typer gives it so
    if asked:
        project = tomllib.loads((_HERE.parent / "pyproject.toml").read_text())["project"]
        print(f"lotstream {project['version']}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _doors(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command's name and what it is, in one line."""
    found = {path.stem: path for path in _HERE.glob("*.py") if path.stem != "__main__"}
    found |= {path.parent.name: path for path in _HERE.glob("*/__main__.py")}
    for name, path in sorted(found.items()):
        text = path.read_text()
        if '\nif __name__ == "__main__":' in text:
            line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            yield name, re.sub(r":? *`(make|python) .*", "", line).rstrip(".")


def _door(name: str) -> Callable[[typer.Context], None]:
    def enter_it(context: typer.Context) -> None:
        sys.argv[1:] = context.args
        runpy.run_module(f"flows.{name}", run_name="__main__", alter_sys=True)

    return enter_it


_AS_GIVEN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

for _name, _line in commands():
    app.command(_name, help=_line, context_settings=_AS_GIVEN, add_help_option=False)(_door(_name))


def _complete() -> None:
    """Tell a shell what may come next; of a command's options that command itself knows."""
    typed = next((os.environ[name].split() for name in _TYPED if name in os.environ), [])
    door: Any = get_command(app)
    for name in set(typed[1:2]) & door.commands.keys():
        if its_app := runpy.run_module(f"flows.{name}").get("app"):
            door.commands[name] = get_command(its_app)
    door.main(prog_name="lotstream", complete_var=_COMPLETE)


if __name__ == "__main__":
    # A shell completes a program's name, such as that of deploy/lotstream.
    if _COMPLETE in os.environ or any(word.endswith("-completion") for word in sys.argv):
        _complete()
    else:
        enter(app, "")
