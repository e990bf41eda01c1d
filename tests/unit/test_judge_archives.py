"""Zip archives that are not honest: each is refused with its reason, and nothing of it is left; honest ones are read as their directories are."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.judge.errors import PackageError
from sandbox.judge.package import archive as room
from sandbox.judge.package.archive import Bounds, unpack_archive
from sandbox.judge.package.places import stage_path
from sandbox.judge.package.read import forget_package, open_stage, read_package
from sandbox.judge.packages import run_package
from sandbox.judge.problem import cases_of
from tests.unit.judge_packages import NEW, Files, Link, make_package

SMALL = Bounds(archive_bytes=1 << 20, unpacked_bytes=1 << 16, file_bytes=1 << 15, members=40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def left() -> list[str]:
    return sorted(os.listdir(stage_path())) if os.path.isdir(stage_path()) else []


def zip_of(files: Files, top: str = "sum/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            if content is not None:
                put(archive, top + name, content)
    return out.getvalue()


def put(archive: zipfile.ZipFile, name: str, content: str | bytes, *, kind: int = stat.S_IFREG) -> None:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | (0o755 if name.endswith(("/run", "/build")) else 0o644)) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    if isinstance(content, Link):
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, content)


def member(name: str, content: str | bytes = "x", kind: int = stat.S_IFREG) -> bytes:
    """Return an archive of a package with one member more."""
    out = io.BytesIO(zip_of(NEW))
    with zipfile.ZipFile(out, "a") as archive:
        put(archive, name, content, kind=kind)
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO(zip_of(NEW))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(out, "a") as archive:
        put(archive, "sum/problem.yaml", "name: other\n")
    return out.getvalue()


def patched(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """Return an archive with a field of one member's entry in the central directory changed."""
    at = data.rindex(name) - 46
    assert data[at : at + 4] == b"PK\1\2"
    return data[: at + offset] + value + data[at + offset + len(value) :]


def lying(size: int) -> bytes:
    """An archive whose member is said to be small and is not."""
    return patched(member("sum/zz", b"\0" * size), b"sum/zz", 24, struct.pack("<I", 10))


def overlapping() -> bytes:
    """An archive whose members share the same compressed bytes, and give far more than they should together."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in NEW.items():
            assert isinstance(content, str)
            archive.writestr(f"sum/{name}", content)
        archive.writestr("sum/a", os.urandom(3000))
        for count in range(6):
            again = zipfile.ZipInfo(f"sum/b{count}")
            first = archive.getinfo("sum/a")
            again.header_offset, again.file_size, again.compress_size, again.CRC = first.header_offset, 3000, 3000, first.CRC
            archive.filelist.append(again)
    return out.getvalue()


def backslash() -> bytes:
    return member("sum/a-b").replace(b"sum/a-b", b"sum\\a-b")


# What is wrong, the archive, and the reason; the name of the archive is ~.
BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("no archive", lambda: b"PK nothing", "read archive `~`: it is no zip archive"),
    ("empty", lambda: b"", "read archive `~`: it is no zip archive"),
    ("cut", lambda: zip_of(NEW)[:-60], "read archive `~`: it is no zip archive"),
    ("no package", lambda: zip_of({"a": "b"}), "archive `~` is no problem package: it has no `problem.yaml`"),
    ("two packages", lambda: zip_of({"a/problem.yaml": "", "b/problem.yaml": ""}, ""), "archive `~` has several packages"),
    ("up", lambda: member("sum/../../x"), "unpack archive `~`: `sum/../../x` is named so that it leads elsewhere"),
    ("up at once", lambda: member("../x"), "unpack archive `~`: `../x` is named so that it leads elsewhere"),
    ("absolute", lambda: member("/etc/x"), "unpack archive `~`: `/etc/x` is named so that it leads elsewhere"),
    ("backslash", backslash, "unpack archive `~`: `sum\\a-b` is named so that it leads elsewhere"),
    ("dot", lambda: member("sum/./x"), "unpack archive `~`: `sum/./x` is named so that it leads elsewhere"),
    ("empty part", lambda: member("sum//x"), "unpack archive `~`: `sum//x` is named so that it leads elsewhere"),
    ("deep", lambda: member("a/" * 40 + "x"), f"unpack archive `~`: `{'a/' * 40}…` is named as no file can be"),
    ("long", lambda: member("sum/" + "a/" * 5 + "a" * 2000), f"unpack archive `~`: `sum/{'a/' * 5}{'a' * 66}…` is named as no file can be"),
    ("twice", twice, "unpack archive `~`: `sum/problem.yaml` is there twice"),
    ("file and directory", lambda: member("sum/problem.yaml/x"), "unpack archive `~`: `sum/problem.yaml/x` is below what is no directory"),
    ("directory and file", lambda: member("sum/data"), "unpack archive `~`: `sum/data` is there twice"),
    ("device", lambda: member("sum/d", kind=stat.S_IFCHR), "unpack archive `~`: `sum/d` is neither file, directory nor link"),
    ("fifo", lambda: member("sum/d", kind=stat.S_IFIFO), "unpack archive `~`: `sum/d` is neither file, directory nor link"),
    ("encrypted", lambda: patched(member("sum/zz"), b"sum/zz", 8, b"\1\0"), "unpack archive `~`: `sum/zz` is encrypted"),
    ("strongly encrypted", lambda: patched(member("sum/zz"), b"sum/zz", 8, b"\x40\0"), "unpack archive `~`: `sum/zz` is encrypted"),
    ("LZMA", lambda: patched(member("sum/zz"), b"sum/zz", 10, b"\x0e\0"), "unpack archive `~`: `sum/zz` is compressed in a way that is not read"),
    ("large file", lambda: member("sum/zz", b"\0" * (1 << 16)), "unpack archive `~`: `sum/zz` is too large"),
    (
        "bomb",
        lambda: zip_of({**NEW, **{f"x{count}": b"\0" * 30_000 for count in range(4)}}),
        "unpack archive `~`: `sum/x2` is where the archive gets too large",
    ),
    ("many", lambda: zip_of({**NEW, **{f"x{count}": "" for count in range(50)}}), "unpack archive `~`: more than 40 files"),
    ("overlapping", overlapping, "unpack archive `~`: `sum/b0` is in the same bytes as other files"),
    ("link to nothing", lambda: member("sum/l", Link("")), "unpack archive `~`: `sum/l` is a link that leads nowhere"),
    ("long link", lambda: member("sum/l", Link("a" * 2000)), "unpack archive `~`: `sum/l` is a link that leads nowhere"),
    ("below a link", lambda: zip_of({**NEW, "l": Link("/tmp"), "l/x": "y"}), "unpack archive `~`: `sum/l/x` is below what is no directory"),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(make, message, id=what) for what, make, message in BAD])
def test_dishonest_archive_is_refused_and_nothing_is_left(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "sum.zip"
    path.write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PackageError) as caught:
        unpack_archive(str(path), "sum", SMALL)
    assert str(caught.value).replace(str(path), "~") == message
    assert left() == []
    assert [each for each in sorted(tmp_path.rglob("*")) if "cache" not in each.parts] == before


@pytest.mark.parametrize("spoil", [lambda data: data.replace(b"print", b"prunt"), lambda data: data[:60] + b"\xff" * 8 + data[68:]])
def test_damaged_archive_is_refused(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "sum.zip"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in NEW.items():
            assert isinstance(content, str)
            archive.writestr(f"sum/{name}", content)
    path.write_bytes(spoil(data.getvalue()))
    with pytest.raises(PackageError, match="it is damaged"):
        unpack_archive(str(path), "sum")
    assert left() == []


def test_member_that_is_larger_than_it_says_stops_there(tmp_path: Path) -> None:
    path = tmp_path / "sum.zip"
    path.write_bytes(lying(1 << 20))
    with pytest.raises(PackageError, match=r"it is damaged|larger than it says"):
        unpack_archive(str(path), "sum", SMALL)
    assert left() == []


def test_directory_of_members_is_bounded_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sum.zip"
    path.write_bytes(zip_of(NEW))
    monkeypatch.setattr(room, "_MAXIMUM_DIRECTORY", 100)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # not even looked at
    with pytest.raises(PackageError, match="more files than any package has"):
        unpack_archive(str(path), "sum")


@pytest.mark.parametrize("zip64", [False, True])
def test_number_of_members_is_counted_not_believed(zip64: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zipfile` makes an object of each member of a directory as long as the archive says, in the record of ZIP64 if there is one: gigabytes of them."""
    members = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, *[0] * 8, 3, *[0] * 6) + b"a/x"
    content, told = members * 1000, 1000 * len(members)
    if zip64:
        content += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, told, 0) + struct.pack("<4sLQL", b"PK\6\7", 0, told, 1)
    content += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 49 if zip64 else told, 0, 0)
    path = tmp_path / "sum.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 1000, "this is the archive that the test is about"
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(PackageError, match="more than 40 files"):
        unpack_archive(str(path), "sum", SMALL)
    assert left() == []


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_archive_that_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sum.zip"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / "none.zip"
    with pytest.raises(PackageError, match=r"not a regular file|No such file"):
        unpack_archive(str(path), "sum")


@pytest.mark.parametrize("top", ["sum/", "", "other/"])
@pytest.mark.parametrize("ending", ["zip", "kpp"])
def test_archive_is_read_as_its_directory_is(top: str, ending: str, tmp_path: Path) -> None:
    files: Files = {
        **NEW,
        "data/secret/02.in": Link("01.in"),
        "data/secret/02.ans": Link("../secret/01.ans"),
        ".git/config": "x",
        "a b": "x",
        "__MACOSX/._a": "x",
        "output_validator/run": "#!/bin/sh\nexit 42\n",
    }
    path = tmp_path / f"sum.{ending}"
    path.write_bytes(zip_of(files, top))
    problem, directory = read_package(str(path)), read_package(make_package(tmp_path / "there", files))
    assert left() != []
    assert (problem.name, problem.digest) == ("sum", directory.digest)
    assert [each.name for each in cases_of(problem.data)] == ["sample/1", "secret/01", "secret/02"]
    assert problem.output_validators[0].executable == {"run"}
    assert not os.path.exists(f"{problem.root}/.git") and not os.path.exists(f"{problem.root}/__MACOSX")
    with open_stage(problem) as staged, open_stage(directory) as other:
        assert [Path(each.input).read_text() for each in cases_of(staged.data)] == [Path(each.input).read_text() for each in cases_of(other.data)]
    assert left() == []


def test_what_was_unpacked_goes_when_it_is_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "sum.zip"
    path.write_bytes(zip_of(NEW))
    problem = read_package(str(path))
    assert len(left()) == 1
    forget_package(problem)
    forget_package(problem)
    assert left() == []
    with pytest.raises(PackageError):
        run_package(str(path), submissions="nobody/*")
    assert left() == []


def test_link_in_an_archive_leads_nowhere_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "sum.zip"
    path.write_bytes(zip_of({**NEW, "data/secret/02.in": Link(str(tmp_path / "secret")), "data/secret/02.ans": "x"}))
    with pytest.raises(PackageError, match="link is absolute"):
        read_package(str(path))


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path) -> None:
    """The control: with a member's parents not looked at, this archive would make a file outside."""
    target = tmp_path / "outside"
    target.mkdir()
    path = tmp_path / "sum.zip"
    path.write_bytes(zip_of({**NEW, "l": Link(str(target)), "l/x": "y"}))
    with pytest.raises(PackageError, match="below what is no directory"):
        unpack_archive(str(path), "sum")
    assert list(target.iterdir()) == []
    with zipfile.ZipFile(path) as archive:
        os.symlink(archive.read("sum/l").decode(), tmp_path / "l")
        (tmp_path / "l" / "x").write_bytes(archive.read("sum/l/x"))
    assert (target / "x").read_text() == "y"
