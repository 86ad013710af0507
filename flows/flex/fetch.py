"""`flows.flex fetch`: a statement from the Flex web service into a file."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from connectors.flex.service import ADDRESS, FlexServiceError, Patience, fetch_statement
from flows.common.logs import set_up_logging
from flows.common.settings import load_settings
from flows.flex.importing import give_up

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def fetch(
    into: Annotated[
        Path | None, typer.Argument(help="The file to write [flex-QUERY-TIME.xml].")
    ] = None,
    *,
    address: Annotated[str, typer.Option(help="The service's address.")] = ADDRESS,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the statement.")] = 900,
    first_wait: Annotated[
        float, typer.Option(min=0.01, help="Seconds before the second try; then twice as long.")
    ] = 5,
    answer: Annotated[float, typer.Option(min=0.1, help="Seconds an answer may take.")] = 60,
) -> None:
    """Get a statement (FLEX_TOKEN, FLEX_QUERY_ID), and print the file's name. Exit code 2: no."""
    settings = load_settings()
    set_up_logging(settings)
    if settings.flex_token is None or settings.flex_query_id is None:
        missing = "FLEX_TOKEN" if settings.flex_token is None else "FLEX_QUERY_ID"
        give_up(f"{missing}: expected it to be set, found nothing (both stand in Client Portal "
                f"under Flex Queries)")  # fmt: skip
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        give_up("--address: expected https, as the token goes with it")
    now = datetime.now(UTC)
    file = into or Path(f"flex-{settings.flex_query_id}-{now:%Y%m%dT%H%M%SZ}.xml")
    if file.is_dir() or not file.parent.is_dir():  # known before the service is asked
        give_up(f"expected a file in a directory that is there, found {file}")
    try:
        fetch_statement(
            settings.flex_token.get_secret_value(), settings.flex_query_id, file,
            address=address, patience=Patience(first=first_wait, total=wait, answer=answer),
            on_wait=lambda reason: print(f"waiting: {reason}", file=sys.stderr),
        )  # fmt: skip
    except FlexServiceError as error:
        give_up(str(error))
    except OSError as error:
        give_up(f"{file}: {error.strerror}")
    print(file)
