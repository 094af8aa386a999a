"""Rows keyed by names of many alphabets, through a crash.

Keys of test tables are usually numbers or short ASCII words. Names are not: they share long prefixes, have accents and
letters of two to four bytes, and sort by their bytes, not by any alphabet. A key encoding that cuts or reorders them
would lose rows only for people with such names. Faker makes the names, from a seed.
"""

from __future__ import annotations

from pathlib import Path

from faker import Faker

from tests.support.engine_rig import SMALL, Rig

LOCALES = ["en_GB", "de_DE", "cs_CZ", "el_GR", "ru_RU", "ar_EG", "hi_IN", "ja_JP", "th_TH", "zh_CN"]
NAMES = 400


def made_up_names() -> list[str]:
    faker = Faker(LOCALES)
    faker.seed_instance(20)
    return sorted({f"{faker.name()} {number % 7}" for number in range(NAMES)})


def test_names_of_every_alphabet_are_found_again_after_a_crash(tmp_path: Path) -> None:
    names = made_up_names()
    assert len({name[0] for name in names}) > 50, "the names are all of one kind"
    rig = Rig(tmp_path, SMALL)
    rig.start()
    session = rig.session()
    session.create_table("people", [("name", "text"), ("number", "integer")], "name")
    for number, name in enumerate(names):
        session.insert("people", (name, number))
    session.begin()
    session.insert("people", ("open-at-crash", -1))
    rig.crash()
    rig.start()
    session = rig.session()
    assert [session.get("people", name) for name in names] == list(zip(names, range(len(names)), strict=True))
    assert [name for name, _ in session.scan("people")] == sorted(names, key=str.encode)
    assert session.get("people", "open-at-crash") is None
    rig.crash()
