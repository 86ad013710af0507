"""Flex statements: import, audit, fetch: `python -m flows.flex`.

`import` brings what TWS lists no more, or never did, to the stream; `audit` holds the
broker's own figures against ours; `fetch` gets a statement from the Flex web service.
"""

from flows.common.doors import enter, group
from flows.flex.audit import audit
from flows.flex.fetch import fetch
from flows.flex.importing import import_files

app = group(help=__doc__, no_args_is_help=True)
app.command("import")(import_files)
app.command()(audit)
app.command()(fetch)

if __name__ == "__main__":
    enter(app, "flex", failure=2)
