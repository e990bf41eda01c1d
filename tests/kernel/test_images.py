"""Images of every source, imported and looked at through the kernel's overlay; where umoci is installed, beside what it unpacks."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import PolicyError
from sandbox.images.bounds import ImageError
from sandbox.images.compose import ConfigChanges
from sandbox.images.importing import Imported, Request, SourceKind, import_source
from sandbox.images.lookup import find_image
from sandbox.images.reference import parse_reference
from sandbox.images.store import open_store
from tests.kernel.image_layouts import (
    MTIME,
    Layout,
    digest_of,
    directory,
    docker_archive,
    entry,
    hardlink,
    merged_tree,
    symlink,
    tar_of,
    tree_of,
)

pytestmark = pytest.mark.userns

UMOCI = pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a store of the test's own."""
    (tmp_path / "data").mkdir(mode=0o700)
    return {"SANDBOX_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return an empty layout."""
    return Layout(tmp_path / "layout")


def bring(environ: dict[str, str], path: str | Path, name: str = "x", **request: Any) -> list[Imported]:
    """Import a source under a name, or under its own with an empty one."""
    names = (parse_reference(name),) if name else ()
    with open_store(environ) as store:
        return import_source(store, Request(path=str(path), names=names, **request))


def left_over(environ: dict[str, str]) -> list[str]:
    """Return what lies in `tmp`."""
    return os.listdir(f"{environ['SANDBOX_DATA_DIR']}/images/tmp")


def seen(environ: dict[str, str], tmp_path: Path, name: str = "x") -> dict[str, list[Any]]:
    """Return an image's tree as the kernel merges it."""
    return merged_tree(find_image(name, environ).layers, tmp_path)


BASE = [
    directory("./"),
    directory("etc/"), entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), entry("etc/shadow", b"secret", mode=0o640, gid=42),
    directory("usr/"), directory("usr/bin/"), entry("usr/bin/su", b"#!set-id", mode=0o4755), entry("usr/bin/tool", b"tool", mode=0o755),
    hardlink("usr/bin/same", "usr/bin/tool"), symlink("bin", "usr/bin"), symlink("abs", "/usr/bin"),
    directory("var/", mode=0o2775), directory("var/tmp/", mode=0o1777), directory("var/lib/"), entry("var/lib/a", b"a"), entry("var/lib/b", b"b"),
    directory("gone/"), entry("gone/x", b"x"), directory("gone/deep/"), entry("gone/deep/y", b"y"),
    directory("closed/", mode=0o500), entry("closed/file", b"c", mode=0o400), entry("empty", b""), entry("big", b"z" * 3_000_000),
    entry("attr", b"q", pax_headers={"SCHILY.xattr.user.note": "hello"}), entry("sock", kind=tarfile.FIFOTYPE, mode=0o600),
    entry("n" * 255, b"long"), directory("/".join(["d" * 60] * 5) + "/"), entry("/".join(["d" * 60] * 5) + "/f", b"deep"),
    entry("late\n\x1b[31mline", b"odd name"), entry("caf\u00e9", b"utf-8"), entry("sub-second", b"t", pax_headers={"mtime": "1600000000.5"}),
]  # fmt: skip
MIDDLE = [
    entry("usr/bin/tool", b"tool 2", mode=0o755), entry("var/lib/.wh.a", b""), entry(".wh.gone", b""), entry("var/.wh.nothing", b""),
    hardlink("usr/bin/su-too", "usr/bin/su"), directory("var/lib/new/"), entry("var/lib/new/.wh.nothing", b""), entry("implied/dir/file", b"i"),
]  # fmt: skip
TOP = [
    directory("var/lib/"), entry("var/lib/.wh..wh..opq", b""), entry("var/lib/c", b"c"), directory("gone/"), entry("gone/z", b"z"),
    entry(".wh.big", b""), directory("big/"), entry("big/inside", b"now a directory"), entry("bin/through-link", b"in usr/bin"),
    entry("etc", b"was a directory"), entry("empty", b"no more"),
]  # fmt: skip


@UMOCI
@pytest.mark.parametrize("packed", [True, False])
def test_a_layout_is_what_umoci_unpacks(environ: dict[str, str], layout: Layout, tmp_path: Path, packed: bool) -> None:
    layout.image([tar_of(BASE), tar_of(MIDDLE), tar_of(TOP)], packed=packed)
    bring(environ, layout.path)
    mine = seen(environ, tmp_path)
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run(["umoci", "unpack", *rootless, "--image", f"{layout.path}:latest", tmp_path / "bundle"], check=True, capture_output=True, timeout=240)
    theirs = tree_of(tmp_path / "bundle" / "rootfs")
    for name, facts in theirs.items():
        if facts[2] > MTIME + 10_000_000:  # the time of unpacking: umoci's, for a directory that the archive only implies
            facts[2] = mine[name][2]
            assert name == "." or name.startswith(("implied", "dddd")), name
    for name in theirs:
        assert mine.get(name) == theirs[name], name
    assert mine.keys() == theirs.keys()
    assert mine["usr/bin/su"][1] == "0o4755" and mine["usr/bin/su-too"][-1] == ["usr/bin/su", "usr/bin/su-too"]
    assert "var/lib/a" not in mine and "gone/x" not in mine and mine["gone/z"] and mine["usr/bin/through-link"]
    assert left_over(environ) == []


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_whiteouts_does_not_matter(environ: dict[str, str], layout: Layout, tmp_path: Path, turned: bool) -> None:
    """A whiteout hides what lies below its layer, not what the layer has, whichever comes first."""
    top = [entry(".wh.dir", b""), directory("dir/"), entry("dir/new", b"n"), entry(".wh.file", b""), entry("file", b"new"),
           directory("o/"), entry("o/.wh..wh..opq", b""), entry("o/.wh.old", b""), entry("o/new", b"n")]  # fmt: skip
    if turned:
        top = [top[1], top[2], top[0], top[4], top[3], top[5], top[8], top[7], top[6]]
    below = [directory("dir/"), entry("dir/old", b"o"), entry("file", b"old"), directory("o/"), entry("o/old", b"o")]
    layout.image([tar_of(below), tar_of(top)])
    bring(environ, layout.path)
    assert set(seen(environ, tmp_path)) == {".", "dir", "dir/new", "file", "o", "o/new"}


def test_an_opaque_root_hides_all_that_is_below(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    layout.image([tar_of([directory("a/"), entry("a/f", b""), entry("b", b""), directory("c/"), entry("c/old", b"")]),
                  tar_of([entry(".wh..wh..opq", b""), directory("c/"), entry("c/new", b"")])])  # fmt: skip
    bring(environ, layout.path)
    assert set(seen(environ, tmp_path)) == {".", "c", "c/new"}


def test_a_whiteout_is_made_only_where_it_hides_something(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    """In a directory that is not merged, overlay lists a whiteout as a file that cannot be opened."""
    layout.image([tar_of([directory("d/"), entry("d/.wh.x", b""), entry(".wh.y", b"")])])
    bring(environ, layout.path)
    assert set(seen(environ, tmp_path)) == {".", "d"}


def test_a_link_to_a_file_below_brings_its_bytes(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    below = [directory("private/", mode=0o700, mtime=5), entry("private/f", b"content", mode=0o4711, uid=7)]
    layout.image([tar_of(below), tar_of([directory("here/"), hardlink("here/g", "private/f")])])
    bring(environ, layout.path)
    tree = seen(environ, tmp_path)
    assert tree["here/g"] == tree["private/f"]
    assert tree["here/g"][1] == "0o4711" and tree["here/g"][-1] == ["here/g", "private/f"]
    assert tree["private"][1:3] == ["0o700", 5]


def test_the_same_archive_above_other_layers_is_another_layer(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    """What an archive only implies comes from below: a tree that was unpacked for one image must not stand in another."""
    top = tar_of([entry("d/file", b"f")])
    layout.image([tar_of([directory("d/", mode=0o700)]), top], ref="a")
    layout.image([tar_of([directory("d/", mode=0o711)]), top], ref="b")
    bring(environ, layout.path, "a", ref="a")
    bring(environ, layout.path, "b", ref="b")
    assert [seen(environ, tmp_path, name)["d"][1] for name in "ab"] == ["0o700", "0o711"]


def test_layers_that_are_shared_are_unpacked_once(environ: dict[str, str], layout: Layout) -> None:
    layout.image([tar_of(BASE), tar_of(MIDDLE)], ref="a")
    layout.image([tar_of(BASE), tar_of(TOP)], ref="b")
    bring(environ, layout.path, "a", ref="a")
    bring(environ, layout.path, "b", ref="b")
    a, b = find_image("a", environ), find_image("b", environ)
    assert a.layers[-1] == b.layers[-1] and a.layers[0] != b.layers[0]
    assert len(os.listdir(f"{environ['SANDBOX_DATA_DIR']}/images/layers")) == 3


def test_many_layers(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    layers = [tar_of([directory("d/"), entry(f"d/{n}", b"%d" % n), entry("d/last", b"%d" % n), *([entry(f"d/.wh.{n - 1}", b"")] if n % 2 else [])])
              for n in range(30)]  # fmt: skip
    layout.image(layers)
    bring(environ, layout.path)
    tree = seen(environ, tmp_path)
    assert set(tree) == {".", "d", "d/last", *(f"d/{n}" for n in range(1, 30, 2))}


def test_the_image_says_how_it_wants_to_be_run(environ: dict[str, str], layout: Layout) -> None:
    config = {
        "Env": ["PATH=/bin", "A=b=c", "EMPTY=", "NONSENSE", "A=last\nline"], "WorkingDir": "srv//app/", "User": "www:33", "Entrypoint": ["/run", ""],
        "Cmd": ["x"], "Volumes": {"/data": {}}, "Labels": {"a=b": "c"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT",
    }  # fmt: skip
    layout.image([tar_of([entry("f", b"")])], config=config)
    bring(environ, layout.path)
    found = find_image("x", environ).config
    assert found.environment == (("PATH", "/bin"), ("A", "last\nline"), ("EMPTY", "")) and found.workdir == "/srv/app" and found.user == "www:33"
    assert found.entrypoint == ("/run", "") and found.command == ("x",) and found.volumes == ("/data",) and found.labels == (("a=b", "c"),)
    assert found.ports == ("80/tcp",) and found.stop_signal == "SIGINT"


def test_an_index_is_asked_for_this_machine(environ: dict[str, str], layout: Layout) -> None:
    def made(name: str) -> dict[str, Any]:
        return layout.image([tar_of([entry(name, b"")])], architecture=name, platform={"os": "linux", "architecture": name}, listed=False)

    inner = layout.index([made("arm64"), made("s390x")], listed=False)
    attestation = made("unknown") | {"platform": {"os": "unknown", "architecture": "unknown"}}
    layout.index([attestation, inner | {"platform": {"os": "linux", "architecture": "arm64"}}, made("amd64")])
    (host,) = bring(environ, layout.path, architecture="amd64")
    (arm,) = bring(environ, layout.path, "arm", architecture="arm64")
    assert (host.image.architecture, arm.image.architecture) == ("amd64", "arm64")
    with pytest.raises(ImageError) as caught:
        bring(environ, layout.path, architecture="riscv64")
    assert caught.value.hint == "it has `linux/amd64`, `linux/arm64`"


# ---- other sources ----


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1), bz2.compress, lzma.compress, "zstd"], ids=["tar", "gz", "bz2", "xz", "zst"])
def test_an_archive_of_a_root_file_system(environ: dict[str, str], tmp_path: Path, pack: Any) -> None:
    content = tar_of(BASE)
    if pack == "zstd":
        if shutil.which("zstd") is None:
            pytest.skip("there is no program `zstd`")
        content = subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True, timeout=240).stdout
    else:
        content = pack(content)
    (tmp_path / "root_FS.2.tar.gz").write_bytes(content)
    (done,) = bring(environ, tmp_path / "root_FS.2.tar.gz", "", changes=ConfigChanges(environment=(("A", "b"),), workdir="/etc", command=("x",)))
    assert done.image.names == ("localhost/root-fs-2:latest",)
    assert done.image.config.workdir == "/etc" and dict(done.image.config.environment).keys() == {"PATH", "A"}
    tree = seen(environ, tmp_path, "localhost/root-fs-2")
    assert tree["usr/bin/su"][1] == "0o4755" and tree["closed"][1] == "0o500" and tree["late\n\x1b[31mline"]
    again = bring(environ, tmp_path / "root_FS.2.tar.gz", "again", changes=ConfigChanges(environment=(("A", "b"),), workdir="/etc", command=("x",)))
    assert again[0].image.digest == done.image.digest
    assert left_over(environ) == []


def test_a_directory(environ: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "tree"
    with tarfile.open(fileobj=io.BytesIO(tar_of([each for each in BASE if each[0].name != "closed/file"]))) as archive:
        archive.extractall(root, filter="fully_trusted", numeric_owner=True) if hasattr(tarfile, "data_filter") else archive.extractall(root)
    (root / "hole").touch()
    os.truncate(root / "hole", 1 << 20)
    os.setxattr(root / "attr", "user.note", b"hello")
    os.setxattr(root / "attr", "user.overlay.opaque", b"y")
    subprocess.run([shutil.which("python3") or "python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", root / "s"], check=True)
    (done,) = bring(environ, root)
    expected = tree_of(root)
    del expected["s"]
    assert seen(environ, tmp_path) == expected
    assert done.notes == ("left out: socket (1)",)
    (again,) = bring(environ, root)
    assert again.image.digest == done.image.digest


def test_a_docker_archive_with_shared_layers_and_names(environ: dict[str, str], tmp_path: Path) -> None:
    base = tar_of(BASE)
    data = docker_archive([(["one:1", "quay.io/a/one:x"], [base, tar_of(MIDDLE)], {"Cmd": ["one"]}), (["two:2"], [base], {"Cmd": ["two"]})])
    (tmp_path / "saved.tar").write_bytes(gzip.compress(data, 1))
    done = bring(environ, tmp_path / "saved.tar", "")
    assert [each.image.names for each in done] == [("docker.io/library/one:1", "quay.io/a/one:x"), ("docker.io/library/two:2",)]
    assert find_image("two:2", environ).config.command == ("two",)
    assert find_image("one:1", environ).layers[1:] == find_image("two:2", environ).layers
    with pytest.raises(PolicyError, match="has 2 images"):
        bring(environ, tmp_path / "saved.tar", "three")
    (third,) = bring(environ, tmp_path / "saved.tar", "three", ref="two:2")
    assert third.image.digest == done[1].image.digest


def test_a_docker_archive_of_today_is_read_as_the_layout_that_it_is(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    layout.image([tar_of(BASE)])
    layout.entries[0]["annotations"] = {"io.containerd.image.name": "docker.io/library/new:1", "org.opencontainers.image.ref.name": "1"}
    layout.write()
    (layout.path / "manifest.json").write_text(json.dumps([{"Config": "blobs/sha256/x", "RepoTags": ["wrong:1"], "Layers": []}]))
    with tarfile.open(tmp_path / "new.tar", "w") as archive:
        archive.add(layout.path, arcname=".")
    (done,) = bring(environ, tmp_path / "new.tar", "")
    assert done.image.names == ("docker.io/library/new:1",)


def test_standard_input_and_pipes(environ: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.tar").write_bytes(tar_of(BASE))
    with subprocess.Popen(["cp", tmp_path / "a.tar", tmp_path / "pipe"]):
        (done,) = bring(environ, tmp_path / "pipe")
    assert done.image.digest == bring(environ, tmp_path / "a.tar")[0].image.digest


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [("nothing", SourceKind.AUTO, "No such file"), ("text", SourceKind.AUTO, "no end mark|no tar archive|middle"), ("dir", SourceKind.OCI, "oci-layout"),
     ("dir", SourceKind.DOCKER, "manifest.json"), ("empty", SourceKind.AUTO, "end mark")],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_its_place(environ: dict[str, str], tmp_path: Path, name: str, kind: SourceKind, says: str) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    (tmp_path / "empty").touch()
    (tmp_path / "dir").mkdir()
    with pytest.raises(ImageError, match=says) as caught:
        bring(environ, tmp_path / name, kind=kind)
    assert name in str(caught.value)
    assert left_over(environ) == []


def test_two_imports_at_once_and_the_name_is_the_last(environ: dict[str, str], layout: Layout) -> None:
    layout.image([tar_of(BASE), tar_of(MIDDLE)], ref="a")
    layout.image([tar_of(BASE), tar_of(TOP)], ref="b")
    with open_store(environ) as one, open_store(environ) as two:
        first = import_source(one, Request(path=str(layout.path), names=(parse_reference("x"),), ref="a"))
        second = import_source(two, Request(path=str(layout.path), names=(parse_reference("x"),), ref="b"))
    assert find_image("x", environ).digest == second[0].image.digest
    assert find_image(first[0].image.digest, environ).names == ()
    assert left_over(environ) == []


def digests(environ: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Give the name and the digest of every blob."""
    blobs = Path(environ["SANDBOX_DATA_DIR"]) / "images" / "blobs" / "sha256"
    for path in blobs.iterdir():
        yield f"sha256:{path.name}", digest_of(path.read_bytes())


def test_every_blob_is_what_its_name_says(environ: dict[str, str], layout: Layout) -> None:
    layout.image([tar_of(BASE), tar_of(MIDDLE)])
    bring(environ, layout.path)
    found = list(digests(environ))
    assert len(found) == 4 and all(name == digest for name, digest in found)
