"""What names a position and an execution."""

import pytest

from state.keys import parse_exec_id, partition_of, position_key

LEG = "0000e0d5.6596b0d2.01"


def test_a_correction_shares_its_identity_with_the_original() -> None:
    first, second = parse_exec_id(f"{LEG}.01"), parse_exec_id(f"{LEG}.02")
    assert first.identity == second.identity
    assert (first.revision, second.revision) == (1, 2)
    assert parse_exec_id("0000E0D5.6596B0D2.01.99").revision == 99


def test_an_id_of_letters_beyond_hexadecimal_ones_is_of_the_brokers_shape_too() -> None:
    first, second = (parse_exec_id(f"FXSMLCUS.6596b0d2.01.{last}") for last in ("01", "02"))
    assert first.identity == second.identity
    assert (first.revision, second.revision) == (1, 2)


def test_another_leg_of_a_combo_is_another_execution() -> None:
    other = parse_exec_id("0000e0d5.6596b0d2.02.01")
    assert other.identity != parse_exec_id(f"{LEG}.01").identity


@pytest.mark.parametrize(
    "text",
    [
        LEG,  # what all revisions have in common is itself an id of another shape
        f"{LEG}.",
        f"{LEG}.1",
        f"{LEG}.001",
        f"{LEG}.0x",
        f"{LEG}.01\n",
        f"{LEG}.01.01",
        f" {LEG}.01",
        f"{LEG}.٠١",
        "0000e0d5.6596b0d2.1.01",
        "0000e0d.6596b0d2.01.01",
        "0000e0d_.6596b0d2.01.01",
        "0000e0dé.6596b0d2.01.01",
        "FXSMLCU.6596b0d2.01.01",
        "FXSMLCUS.6596b0d2.AB.01",
        "0000e0d5-6596b0d2-01-01",
        "0000e0d5-6596b0d2.01.01",
        "0000e0d5.6596b0d2-01.01",
        "0000e0d5.6596b0d2.01-01",
        "my-fill-17",
        "x",
    ],
)
def test_an_id_of_any_other_shape_is_an_identity_of_its_own(text: str) -> None:
    assert parse_exec_id(text) == (text, None)
    assert text != parse_exec_id(f"{LEG}.01").identity


def test_keys_of_two_positions_never_meet() -> None:
    # An account holds no colon, and a symbol without account none either.
    names = [("B:C", "A"), ("C", "AB"), ("C", "A"), ("AC", None), ("A", None), ("C", None)]
    keys = {position_key(symbol, account) for symbol, account in names}
    assert keys == {"A:B:C", "AB:C", "A:C", "AC", "A", "C"}


def test_a_key_lives_where_crc32_of_its_utf_8_text_says() -> None:
    # The checksum of "123456789" is the one that CRC-32 is specified with.
    assert partition_of("123456789", 2**32) == 0xCBF43926
    assert partition_of("123456789", 7) == 0xCBF43926 % 7
    assert partition_of("Ü", 2**32) == 0x58B7491D
    assert {partition_of(f"S{n}", 4) for n in range(50)} == {0, 1, 2, 3}
