"""What lasts through a power cut: files and names that the disk has confirmed."""

from pathlib import Path

import pytest

from connectors.disk import made_whole, make_dir, sync
from tests.support.happened import Happened


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> Happened:
    return Happened(monkeypatch)


def test_a_directory_is_made_with_the_names_of_all_above_it(
    tmp_path: Path, happened: Happened
) -> None:
    make_dir(tmp_path / "a" / "b" / "c")
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert happened == [("synced", path.stat().st_ino) for path in above]
    make_dir(tmp_path / "a" / "b" / "c")
    assert len(happened) == 3
    sync(tmp_path / "a")
    assert happened[3:] == [("synced", above[1].stat().st_ino)]


def cut_off(directory: Path) -> None:
    with made_whole(directory, "store") as new:
        (new / "part-0").touch()
        (new / "absent" / "part-1").touch()


def test_what_is_made_whole_is_not_there_before_all_of_it_is(
    tmp_path: Path, happened: Happened
) -> None:
    left = tmp_path / ".store.making"
    left.mkdir()
    (left / "left by a crash").touch()
    with pytest.raises(FileNotFoundError):
        cut_off(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [left.name]
    with made_whole(tmp_path, "store") as new:
        for name in ("part-1", "part-0", "part-2"):
            (new / name).touch()
    made = [tmp_path / f"part-{number}" for number in range(3)]
    assert sorted(tmp_path.iterdir()) == made
    # The first name comes last: where it is, all are.
    assert happened == [
        *(("renamed", path.stat().st_ino) for path in reversed(made)),
        ("synced", tmp_path.stat().st_ino),
    ]
