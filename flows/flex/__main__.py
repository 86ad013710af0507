"""Flex statements: import, audit, fetch: `python -m flows.flex`.

`import` brings what TWS lists no more, or never did, to the stream; `audit` holds the
broker's own figures against ours; `fetch` gets a statement from the Flex web service.
"""

import typer

from flows.flex.audit import audit
from flows.flex.fetch import fetch
from flows.flex.importing import import_files

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False
)
app.command("import")(import_files)
app.command()(audit)
app.command()(fetch)

if __name__ == "__main__":
    app()
