"""The pictures of docs/pictures.md: `make pictures`, or `python -m flows.demo.pictures DIR`.

The real flows run on the demo's invented history, the real page is opened in Chromium, and
`watch` draws into an SVG. A notebook's chart is taken from the notebook as it is stored.
"""

import base64
import json
import os
import re
import shutil
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from connectors.redis.overview import OverviewReader
from flows.common.overview import overview_reader
from flows.common.process import Program, until
from flows.demo.balance import before_last_day, last_prices
from flows.demo.sample import history
from flows.demo.stage import Flows, Stage, set_stage
from flows.watch import View, page

ROOT = Path(__file__).parents[2]
DAYS = 40
WIDTH, HEIGHT = 1360, 850
UNMARKED = "SHEL"
"""A symbol that nobody sends a mark of."""
OLD_S = 400
"""How old the mark of another is."""
COLOURS = 256


def main(directory: Path) -> None:
    """Make all pictures anew."""
    with set_stage() as stage, stage.flows(valued=True) as flows:
        messages = history(DAYS).messages
        end = before_last_day(messages)
        # What comes after the valuing has begun has a day's P&L; this one comes again.
        stage.publish([next(each for each in messages if each["symbol"] == UNMARKED)])
        flows.until_booked()
        flows.value({})
        stage.publish(messages[:end])
        flows.until_booked()
        for name, picture in shown(stage, flows, messages, end).items():
            (directory / name).write_bytes(picture)
    (directory / "equity.png").write_bytes(stored_chart("01_positions", "01-20"))
    for path in sorted(directory.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")


def shown(stage: Stage, flows: Flows, messages: list[dict[str, str]], end: int) -> dict[str, bytes]:
    """Open the page, let the last day come while it looks; return the pictures by name."""
    prices = moved({name: at for name, at in last_prices(messages).items() if name != UNMARKED})
    old = prices.pop("EUR.USD")
    stage.client.xadd(
        stage.settings.marks_stream,
        {"symbol": "EUR.USD", "price": old, "timestamp": int((time.time() - OLD_S) * 1000)},
    )
    program = [sys.executable, "-m", "flows.board", "--port", str(port := free_port())]
    environment = {**stage.environment, "LOG_LEVEL": "WARNING"}
    with Program(program, stage.work_dir / "board.log", environment):
        browser = opened(f"http://127.0.0.1:{port}")
        flows.value(prices)
        for start in range(end, len(messages), 8):
            stage.publish(messages[start : start + 8])
            flows.until_booked()
        flows.value(prices)
        browser.execute_script(
            "document.documentElement.dataset.theme = 'dark';"
            "[...document.querySelectorAll('#rows button')].find(e => e.textContent === 'NVDA')"
            ".click()"
        )
        time.sleep(3)  # until the lots are read, and what has flashed is calm
        board = smaller(browser, browser.get_screenshot_as_png())
        browser.quit()
    reader = overview_reader(stage.settings, valued=True)
    watch = watched(reader)
    reader.close()
    return {"board.png": board, "watch.svg": watch.encode()}


def moved(prices: dict[str, str]) -> dict[str, str]:
    """Return prices a little off, as the market goes on when nobody trades."""
    rng = Random(1)  # noqa: S311  # chance, not secrecy
    return {name: f"{float(at) * rng.uniform(0.99, 1.01):.2f}" for name, at in prices.items()}


def opened(url: str) -> webdriver.Chrome:
    """Open the page in a browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-lcd-text", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
    )
    until(lambda: answers(url), "the page", 30)
    browser.get(url)
    return browser


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Tell whether the page's server is there."""
    with suppress(OSError), urlopen(url):  # noqa: S310  # our own
        return True
    return False


def smaller(browser: webdriver.Chrome, png: bytes) -> bytes:
    """Return a PNG with its most frequent colours only, each pixel the nearest of them."""
    browser.get("about:blank")  # the page itself may load nothing from elsewhere
    pixels = browser.execute_async_script(
        """
        const [data, done] = arguments, image = new Image();
        image.onload = () => {
            const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const bytes = canvas.getImageData(0, 0, image.width, image.height).data;
            let text = "";
            for (let n = 0; n < bytes.length; n += 4096)
                text += String.fromCharCode(...bytes.subarray(n, n + 4096));
            done([image.width, image.height, btoa(text)]);
        };
        image.src = "data:image/png;base64," + data;""",
        base64.b64encode(png).decode(),
    )
    width, height, data = pixels
    rgba = base64.b64decode(data)
    colours = [rgba[start : start + 3] for start in range(0, len(rgba), 4)]
    found = Counter(colours)
    kept = [colour for colour, _ in found.most_common(COLOURS)]
    places = {colour: place for place, colour in enumerate(kept)}
    nearest = {colour: places.get(colour) or _nearest(colour, kept) for colour in found}
    lines = bytes(nearest[colour] for colour in colours)
    rows = b"".join(b"\0" + lines[start : start + width] for start in range(0, len(lines), width))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = b"".join(kept)
    chunks = [
        (b"IHDR", head),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _nearest(colour: bytes, kept: list[bytes]) -> int:
    distances = [sum((a - b) ** 2 for a, b in zip(colour, each, strict=True)) for each in kept]
    return distances.index(min(distances))


def watched(reader: OverviewReader) -> str:
    """Draw what `watch` shows in a terminal of 110 columns."""
    view = View()
    view.look(reader)
    time.sleep(1)
    view.look(reader)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        console = Console(record=True, width=110, file=nowhere, force_terminal=True)
        console.print(page(view, 30, 110))
    drawn = console.export_svg(title="python -m flows.watch")
    # It would name a font on somebody's server.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def stored_chart(name: str, cell_id: str) -> bytes:
    """Return the picture that a notebook's cell shows, as it is stored."""
    notebook: Any = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
    [cell] = [cell for cell in notebook["cells"] if cell["id"] == cell_id]
    return base64.b64decode(cell["outputs"][0]["data"]["image/png"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".assets")
