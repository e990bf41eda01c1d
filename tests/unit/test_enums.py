"""Enumerations behave as the standard ones do, for everything that this project uses; each case is run with both."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import subprocess
import sys

import pytest

from sandbox import enums
from sandbox.result import Verdict

BOTH = pytest.mark.parametrize("module", [enums, enum], ids=["enums", "enum"])


def words(module: object) -> type:
    class Word(module.StrEnum):  # type: ignore[name-defined, misc]
        """Two words."""

        GOOD = "good"
        FAIR = "fair"
        FINE = "good"

        @property
        def short(self) -> str:
            return self[:1]

        @classmethod
        def first(cls) -> object:
            return next(iter(cls))

    return Word


def numbers(module: object) -> type:
    class Number(module.IntEnum):  # type: ignore[name-defined, misc]
        ONE = 1
        TWO = 2

    return Number


def flags(module: object) -> type:
    class Bit(module.IntFlag):  # type: ignore[name-defined, misc]
        LOW = 1
        HIGH = 2

    return Bit


@BOTH
def test_lookup(module: object) -> None:
    Word = words(module)
    assert Word("good") is Word.GOOD is Word["GOOD"] is Word.FINE
    assert Word.GOOD.value == "good" and Word.GOOD.name == "GOOD" and type(Word.GOOD.value) is str
    assert list(Word) == [Word.GOOD, Word.FAIR] and len(Word) == 2 and list(Word.__members__) == ["GOOD", "FAIR", "FINE"]
    assert Word.GOOD in Word and "good" in Word._value2member_map_ and "bad" not in Word._value2member_map_
    assert Word.first() is Word.GOOD and Word.GOOD.short == "g" and isinstance(Word.GOOD, Word) and isinstance(Word.GOOD, str)
    with pytest.raises(ValueError, match="'bad' is not a valid"):
        Word("bad")
    with pytest.raises(KeyError):
        Word["BAD"]
    with pytest.raises(AttributeError):
        Word.BAD  # noqa: B018


@BOTH
def test_it_is_its_value(module: object) -> None:
    Word, Number = words(module), numbers(module)
    assert Word.GOOD == "good" and hash(Word.GOOD) == hash("good") and {"good": 1}[Word.GOOD] == 1 and Word.GOOD != Word.FAIR
    assert Number.TWO == 2 and {2: "two"}[Number.TWO] == "two" and Number.ONE < Number.TWO and Number.ONE + 1 == 2
    assert str(Word.GOOD) == f"{Word.GOOD}" == "good" and f"{Word.GOOD:>6}" == "  good" and "%s" % Word.GOOD == "good"  # noqa: UP031
    assert str(Number.TWO) == f"{Number.TWO}" == "2" and f"{Number.TWO:03d}" == "002"
    assert repr(Word.GOOD).endswith("Word.GOOD: 'good'>") and repr(Number.TWO).endswith("Number.TWO: 2>")
    assert json.dumps([Word.GOOD, Number.TWO]) == '["good", 2]' and ", ".join(Word) == "good, fair" and sorted(Word) == ["fair", "good"]


@BOTH
def test_match(module: object) -> None:
    Number = numbers(module)
    match Number(2):
        case Number.ONE:
            pytest.fail("the wrong one")
        case Number.TWO:
            pass
        case _:
            pytest.fail("none")


@BOTH
def test_flags(module: object) -> None:
    Bit = flags(module)
    both = Bit.LOW | Bit.HIGH
    assert both == 3 and Bit(3) == both and both & Bit.HIGH and not Bit.LOW & Bit.HIGH and isinstance(both, Bit) and Bit(0) == 0 and Bit(1) is Bit.LOW


@BOTH
def test_members_stay(module: object) -> None:
    Word = words(module)
    with pytest.raises(AttributeError):
        Word.GOOD = "bad"
    with pytest.raises(AttributeError):
        Word.GOOD.value = "bad"
    assert copy.copy(Word.GOOD) is Word.GOOD and copy.deepcopy([Word.GOOD])[0] is Word.GOOD


def test_members_are_pickled_by_value() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(Verdict.WALL_LIMIT, protocol)) is Verdict.WALL_LIMIT


def test_nothing_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import sandbox.enums; print(sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['__future__', 'sandbox', 'sandbox.enums']"
