"""The live page: `python -m flows.board`, then http://127.0.0.1:8765.

One loop looks at Redis a few times a second and tells every open page what changed, as
server-sent events; a page that comes (back) is told everything once. The page itself is
three static files in flows/board/page.
"""

from typing import Annotated

import typer

from flows.board.frames import Board
from flows.common.doors import app_of, enter
from flows.common.hints import extra
from flows.common.logs import set_up_logging
from flows.common.overview import overview_reader
from flows.common.settings import load_settings

with extra("board"):
    from flows.board.server import serve

PORT = 8765


def main(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = PORT,
) -> None:
    """Serve the live page on 127.0.0.1 until told to stop."""
    settings = load_settings()
    set_up_logging(settings)
    serve(Board(overview_reader(settings, valued=True), settings.data_dir), port)


app = app_of(main)

if __name__ == "__main__":
    enter(app, "board")
