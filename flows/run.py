"""Start the main job with the options that it wants: `python -m flows run`.

It becomes `python -m bytewax.run flows.positions`, so signals and exit code are that
program's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows.common.doors import app_of, become_flow, enter, wrong_words
from flows.common.settings import load_settings


def run(
    *,
    recovery: Annotated[
        Path | None,
        typer.Option(
            "-r", "--recovery-directory", envvar="BYTEWAX_RECOVERY_DIRECTORY", file_okay=False,
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
    workers: Annotated[
        int,
        typer.Option(
            "-w", "--workers-per-process", min=1, envvar="BYTEWAX_WORKERS_PER_PROCESS",
            help="Threads; more than one gain nothing.",
        ),
    ] = 1,
    process: Annotated[
        int | None,
        typer.Option(
            "-i", "--process-id", min=0, envvar="BYTEWAX_PROCESS_ID",
            help="Which process of a cluster this is.",
        ),
    ] = None,
    addresses: Annotated[
        str,
        typer.Option(
            "-a", "--addresses", metavar="HOST:PORT;...", envvar="BYTEWAX_ADDRESSES",
            help="Where each process of the cluster listens, in order.",
        ),
    ] = "",
) -> NoReturn:  # fmt: skip
    """Run the main job: executions from the stream become positions. Ctrl-C ends it."""
    cluster = [address for address in addresses.split(";") if address]
    _check_cluster(cluster, process)
    # Of what is nearly a setting the job itself warns.
    directory = recovery or load_settings(warn=False).data_dir / "recovery"
    options = ["-r", str(directory), "-s", str(snapshot), "-b", str(backup), "-w", str(workers)]
    if process is not None:
        options += ["-i", str(process), "-a", ";".join(cluster)]
    become_flow("flows.positions", options)


def _check_cluster(addresses: Sequence[str], process: int | None) -> None:
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or int(port) not in _PORTS:
            raise wrong_words("--addresses", "HOST:PORT;HOST:PORT, one for each process", address)
    if process is None and addresses:
        raise wrong_words("--process-id", "a number from 0 with --addresses")
    if process is not None and process >= len(addresses):
        expected = f"an address for process {process} too, {process + 1} or more"
        raise wrong_words("--addresses", expected, len(addresses))


_PORTS = range(1, 65536)

app = app_of(run)

if __name__ == "__main__":
    enter(app, "run")
