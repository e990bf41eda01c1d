"""Names of images: what is one, what it is short for, and what the store's entries and look-up make of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.images.entry import decode_image, encode_image
from sandbox.images.lookup import find_image, hold_image
from sandbox.images.model import Image, ImageConfig, Layer
from sandbox.images.reference import parse_reference

ROOT = Path(__file__).resolve().parent.parent.parent
HEX = "0123456789abcdef" * 4
OTHER = "01234567" + "f" * 56


@pytest.mark.parametrize(
    ("text", "whole", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/tool:1.0-rc_2", "docker.io/user/tool:1.0-rc_2", "user/tool:1.0-rc_2"),
        ("docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("index.docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x/y:t", "localhost:5000/x/y:t", "localhost:5000/x/y:t"),
        (f"localhost:5000/x@sha256:{HEX}", f"localhost:5000/x@sha256:{HEX}", f"localhost:5000/x@sha256:{HEX}"),
        (f"debian:12@sha256:{HEX}", f"docker.io/library/debian:12@sha256:{HEX}", f"debian:12@sha256:{HEX}"),
        ("ghcr.io/o/a__b-c.d---e:V1", "ghcr.io/o/a__b-c.d---e:V1", "ghcr.io/o/a__b-c.d---e:V1"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("Host/x:1", "Host/x:1", "Host/x:1"),
    ],
)
def test_names_are_normalised_and_shortened(text: str, whole: str, familiar: str) -> None:
    found = parse_reference(text)
    assert (str(found), found.familiar) == (whole, familiar)
    assert parse_reference(whole) == parse_reference(familiar) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("Debian", "`library/debian` would be one"),
        ("a/b/../c", "`..` must be of lower-case"),
        ("/etc/passwd", "a part of it is empty"),
        ("a//b", "a part of it is empty"),
        ("x:", "tag ``"),
        ("x:a/b", "no host name"),
        ("x:-a", "tag `-a`"),
        ("x:" + "t" * 129, "tag"),
        ("x@sha256:12", "after `@`"),
        (f"x@sha256:{HEX.upper()}", "after `@`"),
        (f"x@md5:{HEX}", "after `@`"),
        ("a___b", "`a___b` must"),
        ("a-_b", "must"),
        ("-a.b/x", "no host name"),
        ("localhost:port/x", "no host name"),
        ("x\0y", "must"),
        ("x\ny", "must"),
        ("é", "must"),
        ("h.example/" + "/".join(["abcdefgh"] * 40), "longer than 255"),
    ],
)
def test_what_is_no_name_is_refused_with_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        parse_reference(text)


def image(digits: str = HEX, **config: object) -> Image:
    """Return an image with one layer."""
    layer = Layer(key=HEX, diff_id=f"sha256:{HEX}", blob=f"sha256:{OTHER}", media_type="application/vnd.oci.image.layer.v1.tar+gzip", size_bytes=7)
    return Image(
        digest=f"sha256:{digits}", names=(), architecture="amd64", config=ImageConfig(**config),  # type: ignore[arg-type]
        layers=(), size_bytes=7, unpacked_bytes=9, config_digest=f"sha256:{OTHER}", details=(layer,),
    )  # fmt: skip


HOSTILE = {
    "environment": (("A", "x\ny"), ("B", "\\n\\\\n\\"), ("C", "a=b"), ("D", ""), ("E", "\udcff\r\x85\u2028")),
    "workdir": "/a b\nend\n",
    "entrypoint": ("sh", "-c", "", "a\n\nb\\"),
    "labels": (("k=%3D", "v=\n"), ("%", "")),
    "volumes": ("/data",),
}


def test_an_entry_says_what_was_written() -> None:
    written = image(**HOSTILE)
    read = decode_image(encode_image(written), ("n",), "/store/layers", ".range")
    assert read.config == written.config and read.details == written.details and read.names == ("n",)
    assert read.layers == (f"/store/layers/{HEX}.range/tree",)


def test_no_part_of_an_entry_is_taken_for_the_whole() -> None:
    content = encode_image(image(**HOSTILE))
    for size in range(len(content)):
        with pytest.raises(ValueError):
            decode_image(content[:size], (), "/x")


@pytest.mark.parametrize("line", [b"layer ../../etc x y 1 m", b"hint x", b"size x", b"layer " + HEX.encode()])
def test_a_line_that_does_not_fit_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_image(encode_image(image()).replace(b"\nend\n", b"\n" + line + b"\nend\n"), (), "/x")


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Make a store with two images by hand."""
    path = tmp_path / "images"
    for name in ("names", "manifests", "uses", f"layers/{HEX}/tree"):
        (path / name).mkdir(parents=True, mode=0o700)
    path.chmod(0o700)
    for digits in (HEX, OTHER):
        (path / "manifests" / digits).write_bytes(encode_image(image(digits)))
        (path / "uses" / digits).touch()
        for file in ("manifests", "uses"):
            (path / file / digits).chmod(0o600)
    (path / "names" / "docker.io+library+debian:12").symlink_to(HEX)
    (path / "names" / f"localhost:5000+x@sha256:{OTHER}").symlink_to(HEX)
    (path / "names" / "localhost:5000+x:1").symlink_to(HEX)
    return path, {"SANDBOX_DATA_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("debian:12", HEX), ("docker.io/library/debian:12", HEX), (f"sha256:{HEX}", HEX), (HEX[:12], HEX), (OTHER[:9], OTHER), (OTHER, OTHER),
        (f"localhost:5000/x@sha256:{OTHER}", HEX), (f"localhost:5000/x@sha256:{HEX}", HEX), (f"localhost:5000/x:9@sha256:{HEX}", HEX),
    ],
)  # fmt: skip
def test_an_image_is_found_by_name_digest_and_the_beginning_of_it(store: tuple[Path, dict[str, str]], name: str, digits: str) -> None:
    path, environ = store
    found = find_image(name, environ)
    assert found.digest == f"sha256:{digits}"
    assert found.layers == (f"{os.path.realpath(path)}/layers/{HEX}/tree",)
    names = ("docker.io/library/debian:12", "localhost:5000/x:1", f"localhost:5000/x@sha256:{OTHER}")
    assert found.names == (names if digits == HEX else ())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("debain:12", "did you mean `debian:12`"),
        ("01234567", "may be any of"),
        ("cafe", "no image `cafe`"),
        ("sha256:xyz", "4 to 64"),
        (f"debian@sha256:{OTHER}", "there is no image"),
        ("a b", "image name `a b`"),
        ("../../x", "image name"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest_name(store: tuple[Path, dict[str, str]], name: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        find_image(name, store[1])
    assert says in str(caught.value)


def test_a_form_that_is_not_unpacked_is_refused_with_the_command(store: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(PolicyError, match="unpack --ids range debian:12"):
        find_image("debian:12", store[1], ids="range")


def test_a_store_that_others_can_write_to_is_not_believed(store: tuple[Path, dict[str, str]]) -> None:
    store[0].chmod(0o770)
    with pytest.raises(PolicyError, match="only you can write"):
        find_image("debian:12", store[1])


def test_an_image_that_is_held_cannot_be_locked_by_who_removes_it(store: tuple[Path, dict[str, str]]) -> None:
    import fcntl

    path, environ = store
    found = find_image("debian:12", environ)
    held = hold_image(found, environ)
    with open(path / "uses" / HEX) as use:
        with pytest.raises(BlockingIOError):
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
        fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(PolicyError, match="removed"):
            hold_image(found, environ)


def test_without_a_place_or_a_store_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no place for images"):
        find_image("x", {})
    with pytest.raises(PolicyError, match="is empty"):
        find_image("x", {"HOME": str(tmp_path)})


def test_looking_up_imports_nothing_heavy() -> None:
    heavy = ["argparse", "ctypes", "hashlib", "inspect", "json", "logging", "re", "shutil", "subprocess", "tarfile", "tempfile", "zlib"]
    code = f"import sys, sandbox.images.lookup; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
        timeout=600, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
