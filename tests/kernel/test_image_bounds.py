"""Archives that are small and make little on the disk, and cost memory or time all the same: each is refused, and with its bound taken away is not."""

from __future__ import annotations

import bz2
import gzip
import os
import tarfile
from pathlib import Path

import pytest

from sandbox.images import bounds as bounds_module
from sandbox.images.bounds import Bounds, Budget
from sandbox.images.facts import FILE
from tests.kernel.image_layouts import Entry, directory, entry, symlink, tar_of
from tests.kernel.test_image_hostile import Place

pytestmark = pytest.mark.userns


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def for_all(key: str, value: bytes) -> bytes:
    """Return a pax header that counts for every entry after it."""
    record = f" {key}=".encode() + value + b"\n"
    length = len(record) + len(str(len(record) + 9))
    body = str(length).encode() + record
    info = tarfile.TarInfo("header")
    info.type, info.size = b"g", len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


DEEP = "/".join(["d" * 200] * 15)
LONG = [*(directory(DEEP[: 201 * count - 1]) for count in range(1, 16)), symlink("l", DEEP)]


@pytest.mark.parametrize(
    "many",
    [
        [entry(f"l/{n}", b"", uid=1) for n in range(40)],
        [directory(f"l/{n}") for n in range(40)],
        [entry(f"l/{n}", kind=tarfile.CHRTYPE) for n in range(40)],
    ],
    ids=["owners", "directories", "devices"],
)
def test_long_paths_through_a_short_link_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch, many: list[Entry]) -> None:
    monkeypatch.setattr(bounds_module, "MAXIMUM_REMEMBERED", 100_000)
    place.refuse("more than 100000 bytes of names", lambda: place.bring([*LONG, *many]))
    monkeypatch.setattr(Budget, "remember", lambda self, count: None)
    place.bring([*LONG, *many])


def test_a_link_as_long_as_a_header_is_refused(place: Place) -> None:
    """Said once for all entries, and copied for each."""
    path = place.path / "a.tar"
    first = tar_of([entry("oci-layout", b"{}"), entry("index.json", b"{}")])[:-1024]
    path.write_bytes(first + for_all("linkpath", b"a/" * 4000) + tar_of([symlink(f"s{n}", "x") for n in range(3)]))
    place.refuse("a link to a path longer than 4095 bytes", lambda: place.bring_path(path))


def test_a_capability_that_is_none_is_not_kept(place: Place) -> None:
    """One header of a megabyte would stand in the layer's facts for each of its files."""
    layout = place.layout()
    real = b"\1\0\0\2" + bytes(16)
    files = tar_of([entry("real", b"", pax_headers={"SCHILY.xattr.security.capability": real.decode()})])[:-1024]
    layout.image([files + for_all("SCHILY.xattr.security.capability", b"v" * 100_000) + tar_of([entry(f"f{n}", b"") for n in range(20)])])
    done = place.bring_path(layout.path)
    facts = Path(os.path.dirname(done.image.layers[0]), FILE)
    assert real.hex() in facts.read_text() and facts.stat().st_size < 2000


def test_kinds_of_what_is_left_out_are_few(place: Place) -> None:
    done = place.bring([entry(f"f{n}", b"", pax_headers={f"SCHILY.xattr.security.{n}": "v"}) for n in range(200)])
    assert len(done.notes) == 65 and "left out: and more (136)" in done.notes


@pytest.mark.parametrize("late", ["f/x", ".wh.f"])
def test_time_is_bounded_where_links_lead_round(place: Place, late: str) -> None:
    """One look-up passes thousands of directories: without a look at the clock in between, these take minutes."""
    deep = "/".join("a" * 400)
    layer = [*(directory(deep[: 2 * count - 1]) for count in range(1, 401)), *(symlink(f"{deep}/l{n}", f"/{deep}/l{n + 1}") for n in range(35))]
    layer += [directory(f"{deep}/l35"), symlink("l", f"/{deep}/l0")]
    many = [entry(f"l/{late.replace('f', str(n))}", b"") for n in range(500)]
    place.refuse("longer than 1 s", lambda: place.bring([*layer, *many], bounds=Bounds(seconds=1)))


@pytest.mark.parametrize("empty", [gzip.compress(b"", mtime=0), bz2.compress(b"")], ids=["gzip", "bzip2"])
def test_time_is_bounded_where_nothing_is_unpacked(place: Place, monkeypatch: pytest.MonkeyPatch, empty: bytes) -> None:
    """Streams of nothing, one after the other, are one archive, and only its reader sees them go by."""
    path = place.path / "a.tar"
    path.write_bytes(empty * 1000)
    looks = 0

    def look(self: Budget) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(Budget, "check_time", look)
    place.refuse("cut off", lambda: place.bring_path(path))
    assert looks >= 1000
