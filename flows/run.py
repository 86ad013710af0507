"""Start the main job with the options that it wants: `python -m flows run`.

It becomes `python -m bytewax.run flows.positions`, so signals, exit code and all other
options are that program's.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows.common.settings import load_settings


def run(
    context: typer.Context,
    recovery: Annotated[
        Path | None,
        typer.Option(
            "-r", "--recovery-directory", envvar="BYTEWAX_RECOVERY_DIRECTORY",
            help="Where the flow remembers how far it is; made if it is not there.",
            show_default="DATA_DIR/recovery",
        ),
    ] = None,
    snapshot: Annotated[
        int,
        typer.Option(
            "-s", "--snapshot-interval", min=0, envvar="BYTEWAX_SNAPSHOT_INTERVAL",
            help="Seconds between two commits.",
        ),
    ] = 1,
    backup: Annotated[
        int,
        typer.Option(
            "-b", "--backup-interval", min=0, envvar="BYTEWAX_RECOVERY_BACKUP_INTERVAL",
            help="Seconds for which old recovery snapshots are kept; leave it.",
        ),
    ] = 0,
) -> NoReturn:  # fmt: skip
    """Run the main job: executions from the stream become positions. Ctrl-C ends it.

    Bytewax's other options (-w, -i, -a) are passed on.
    """
    # Of what is nearly a setting the job itself warns.
    directory = recovery or load_settings(warn=False).data_dir / "recovery"
    options = ["-r", str(directory), "-s", str(snapshot), "-b", str(backup), *context.args]
    command = [sys.executable, "-m", "bytewax.run", "flows.positions", *options]
    os.execv(command[0], command)  # noqa: S606  # our own program, without a shell


app = typer.Typer(add_completion=False)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run)

if __name__ == "__main__":
    app()
