"""The pictures of the documentation: those that are stored, and that they can be made again."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.needs import need

ROOT = Path(__file__).parents[3]
MOST_BYTES = 150_000


def test_the_page_of_pictures_shows_all_that_are_stored_and_they_are_small() -> None:
    named = re.findall(r"\]\(\.\./\.assets/([^)]+)\)", (ROOT / "docs" / "pictures.md").read_text())
    stored = {path.name: path for path in (ROOT / ".assets").iterdir()}
    assert sorted(named) == sorted(stored)
    assert all(path.stat().st_size < MOST_BYTES for path in stored.values())
    # What is drawn is drawn without anybody's server.
    assert "url(http" not in stored["watch.svg"].read_text()


def test_they_can_be_made_again(tmp_path: Path) -> None:
    need("chromium", "chromedriver")
    done = subprocess.run(
        [sys.executable, "-m", "flows.demo.pictures", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (ROOT / ".assets").iterdir():
        made = (tmp_path / path.name).read_bytes()
        assert made[:4] == path.read_bytes()[:4]
        assert 10_000 < len(made) < MOST_BYTES
    drawn = (tmp_path / "watch.svg").read_text().replace("&#160;", " ")
    assert "no mark" in drawn
    assert "stale" in drawn
