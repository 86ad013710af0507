"""What is kept is read back as it was written, where it was written, or not at all."""

import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path

import pytest

from connectors.kept import (
    DamagedError,
    checksum_of,
    dumps,
    loads,
    read_only,
    seal,
    seal_values,
    unseal,
    unseal_values,
)


@pytest.mark.parametrize("other", [("B", 5, 0, 0), ("A", 5, 1, 0), ("A", 5, 0, 1), ("A", 5, 0)])
def test_what_belongs_to_one_thing_is_not_read_as_anothers(other: tuple[object, ...]) -> None:
    of = ("A", 5, 0, 0)
    sealed = seal(b"data", of)
    assert unseal(sealed, of) == b"data"
    with pytest.raises(DamagedError):
        unseal(sealed, other)


def test_bytes_that_were_changed_or_cut_short_are_noticed() -> None:
    sealed = seal(b"data", ("A",))
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for wrong in (changed, sealed[:at]):
            with pytest.raises(DamagedError):
                unseal(wrong, ("A",))


def test_values_that_were_changed_or_are_anothers_are_noticed() -> None:
    sealed = seal_values("A", ("5-0", 7, None))
    assert unseal_values("A", sealed) == ("5-0", 7, None)
    for of, wrong in (("B", sealed), ("A", ("5-0", 8, None, sealed[-1])), ("A", sealed[1:])):
        with pytest.raises(DamagedError):
            unseal_values(of, wrong)


def test_a_checksum_depends_on_the_values_alone_and_is_what_it_was() -> None:
    # Later versions of marshal note which values are one object, which says nothing.
    text, name = "executions", "exec"
    for values in ((text, text), (text, f"{name}utions"), (f"{name}utions", f"{name}utions")):
        assert seal_values("A", values) == (*values, 3546333392)
    assert seal(b"data", ("A", 5, 0, True)) == bytes.fromhex("120b9e26") + b"data"


def test_values_that_cannot_be_read_are_damage_whatever_is_wrong_with_them() -> None:
    data = dumps(("executions", 2**70, [None, 1.5])) + dumps(("more",))
    assert list(loads(data)) == [("executions", 2**70, [None, 1.5]), ("more",)]
    changed = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for wrong in [*changed, *(data[:end] for end in range(1, len(data)))]:
        with suppress(DamagedError):
            list(loads(wrong))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_files_checksum_is_over_all_of_it(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path.write_bytes(content)
    assert checksum_of(path) == f"{zlib.crc32(content):08x}"
    assert len(checksum_of(path)) == 8


@pytest.mark.parametrize("name", ["a?mode=rw", "50%25#1", "a b&c"])
def test_a_store_is_read_whatever_its_directory_is_named_and_never_written(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name / "store.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE kept (a)")
        db.execute("INSERT INTO kept VALUES (5)")
    with read_only(path) as db:
        assert db.execute("SELECT a FROM kept").fetchall() == [(5,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM kept")
    with pytest.raises(sqlite3.OperationalError), read_only(path.with_name("absent")) as db:
        pass
    assert not path.with_name("absent").exists()
