"""Hostile images: what each defence stops, and that the attack succeeds when that defence is taken away."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SandboxError
from sandbox.images import bounds as bounds_module
from sandbox.images import layer_end, layer_tree, unpacking
from sandbox.images.bounds import Bounds, Budget, ImageError
from sandbox.images.importing import Imported, Request, SourceKind, import_source
from sandbox.images.lookup import find_image
from sandbox.images.packing import Unpacked
from sandbox.images.reference import parse_reference
from sandbox.images.store import Store, open_store
from sandbox.images.treeops import DIRECTORY_FLAGS, make_new_directory, remove_at
from tests.kernel.image_layouts import Entry, Layout, digest_of, directory, docker_archive, entry, hardlink, merged_tree, symlink, tar_of

pytestmark = pytest.mark.userns
SECRET = b"not for the image"


class Place:
    """A store, a layout, and a directory outside that an attack wants to reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outside = path / "outside"
        self.outside.mkdir()
        self.outside.chmod(0o755)
        (self.outside / "secret").write_bytes(SECRET)
        self.environ = {"SANDBOX_DATA_DIR": str(path / "data")}
        (path / "data").mkdir(mode=0o700)
        self.layouts = 0

    def layout(self) -> Layout:
        self.layouts += 1
        return Layout(self.path / f"layout{self.layouts}")

    def bring(self, *layers: list[Entry], bounds: Bounds = bounds_module.DEFAULT, **request: Any) -> Imported:
        """Import layers of entries."""
        layout = self.layout()
        layout.image([tar_of(layer) for layer in layers])
        return self.bring_path(layout.path, bounds, **request)

    def bring_path(self, path: Path, bounds: Bounds = bounds_module.DEFAULT, **request: Any) -> Imported:
        with open_store(self.environ, bounds=bounds) as store:
            return import_source(store, Request(path=str(path), names=(parse_reference("x"),), **request))[0]

    def refuse(self, says: str, act: Callable[[], object]) -> ImageError:
        """Expect a refusal that leaves nothing behind: no file outside, no name, nothing unfinished."""
        with pytest.raises(ImageError, match=says) as caught:
            act()
        assert self.untouched(), "the attack reached the outside"
        assert os.listdir(self.path / "data" / "images" / "tmp") == []
        with pytest.raises(SandboxError, match="there is no image"):
            find_image("x", self.environ)
        return caught.value

    def untouched(self) -> bool:
        status = os.stat(self.outside)
        secret = os.stat(self.outside / "secret")
        return (
            os.listdir(self.outside) == ["secret"] and (self.outside / "secret").read_bytes() == SECRET and stat.S_IMODE(status.st_mode) == 0o755
            and secret.st_nlink == 1
        )  # fmt: skip

    def tree(self) -> dict[str, list[Any]]:
        return merged_tree(find_image("x", self.environ).layers, self.path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def follow(root: int, path: Any, flags: int = 0) -> int:
    """Open a directory as a program without this room's rules would."""
    return os.open(os.fsencode(path) or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)


# ---- paths that lead out -------------------------------------------------------------------------------------------------


def test_a_path_with_dots_is_refused_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    up = "/".join([".."] * 40) + str(place.outside) + "/file"
    place.refuse("a path with `..`", lambda: place.bring([directory("a/"), entry(f"a/{up}", b"x")]))
    monkeypatch.setattr(unpacking, "split_path", lambda name, depth: tuple(part for part in name.split(b"/") if part not in (b"", b".")))
    place.refuse("EXDEV", lambda: place.bring([directory("a/"), entry(f"a/{up}", b"x")]))
    monkeypatch.setattr(layer_tree, "open_directory_beneath", follow)
    place.bring([directory("a/"), entry(f"a/{up}", b"x")])
    assert not place.untouched()


def test_an_absolute_path_is_one_of_the_image(place: Place) -> None:
    place.bring([entry(f"//{place.outside}/file", b"x")])
    assert place.untouched() and str(place.outside)[1:] + "/file" in place.tree()


def through_link(place: Place) -> list[Entry]:
    return [symlink("way", str(place.outside)), entry("way/file", b"x")]


def test_a_file_through_a_link_stays_inside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bring(through_link(place))
    assert place.untouched() and str(place.outside)[1:] + "/file" in place.tree()
    place.bring([through_link(place)[0]], [through_link(place)[1]])
    assert place.untouched() and str(place.outside)[1:] + "/file" in place.tree()
    monkeypatch.setattr(layer_tree, "open_directory_beneath", follow)
    place.bring([directory("other/"), *through_link(place)])
    assert not place.untouched()


@pytest.mark.parametrize("target", ["../../../../..", "loop", "/loop/x", "a/b/../../../../../.."])
def test_links_that_climb_or_turn_in_circles(place: Place, target: str) -> None:
    layer = [symlink("loop", target), entry("loop/file", b"x")]
    if "loop" in target:
        place.refuse("a loop of symbolic links|names, with its links", lambda: place.bring(layer))
    else:
        place.bring(layer)
        assert place.untouched() and "file" in place.tree()


def test_a_link_that_grows_is_bounded(place: Place) -> None:
    place.refuse("40|names, with its links|longer than|loop", lambda: place.bring([symlink("l", "l/l/l/l/l/l/l/l"), entry("l/f", b"")]))


def test_a_hard_link_out_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = [symlink("way", str(place.outside)), hardlink("mine", "way/secret")]
    place.refuse("a hard link to `.*secret`, which is not there", lambda: place.bring(layer))
    place.refuse("a path with `..`", lambda: place.bring([hardlink("mine", "../" * 30 + f"{place.outside}/secret")]))
    place.refuse("is a directory", lambda: place.bring([directory("d/"), hardlink("mine", "d")]))
    place.refuse("can be no file", lambda: place.bring([hardlink("mine", "./")]))
    monkeypatch.setattr(layer_tree, "open_directory_beneath", follow)
    place.bring([directory("other/"), *layer])
    assert not place.untouched()


def test_a_hard_link_to_a_link_is_one(place: Place) -> None:
    place.bring([symlink("l", str(place.outside / "secret")), hardlink("m", "l"), entry("m", b"written")])
    tree = place.tree()
    assert place.untouched() and tree["l"][0] == oct(stat.S_IFLNK) and tree["m"][0] == oct(stat.S_IFREG)


def test_a_file_over_a_link_takes_its_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = [symlink("x", str(place.outside / "secret")), entry("x", b"overwritten")]
    place.bring(layer)
    assert place.untouched() and place.tree()["x"][3] == len("overwritten")
    monkeypatch.setattr(unpacking, "NEW_FILE", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    place.bring([directory("other/"), *layer])
    assert not place.untouched()


def test_a_directory_that_becomes_a_link_gives_its_mode_to_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = [directory("d/", mode=0o777), symlink("d", str(place.outside))]
    place.bring(layer)
    assert place.untouched()
    monkeypatch.setattr(layer_end, "open_beneath", follow)
    place.bring([directory("other/"), *layer])
    assert not place.untouched()


@pytest.mark.parametrize(
    "layer",
    [
        [directory("a/"), entry("a/b", b""), entry("a", b"file"), directory("a/"), entry("a/c", b"")],
        [entry("a", b"1"), entry("a", b"2"), directory("a/"), entry("a/c", b"")],
        [symlink("a", "b"), directory("a/"), entry("a/c", b"")],
        [entry("a", b"", tarfile.FIFOTYPE), directory("a/"), entry("a/c", b"")],
        [entry("a", b"", tarfile.CHRTYPE), directory("a/"), entry("./a//./c", b"")],
        [directory("a/"), directory("a/x/"), entry("a/x/y", b""), entry("a", b""), entry("a", b"", tarfile.CHRTYPE), directory("a/"), entry("a/c", b"")],
    ],
)
def test_of_two_entries_with_one_name_the_later_stays(place: Place, layer: list[Entry]) -> None:
    place.bring(layer)
    assert set(place.tree()) == {".", "a", "a/c"}


def test_a_file_below_a_file_is_refused(place: Place) -> None:
    place.refuse("`a`, which is no directory", lambda: place.bring([entry("a", b""), entry("a/b", b"")]))
    place.refuse("`a`, which is no directory in the layers below", lambda: place.bring([entry("a", b"")], [entry("a/b", b"")]))
    place.refuse("the root itself as a symbolic link", lambda: place.bring([symlink("./", "/etc")]))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh.../x", ".wh.d/x"])
def test_whiteouts_of_what_is_no_name_are_refused(place: Place, name: str) -> None:
    place.refuse("whiteout", lambda: place.bring([directory("d/"), entry("d/x", b"")], [entry(name, b"")]))


def test_names_that_are_odd_but_names(place: Place) -> None:
    names = ["a\nb", "a\tb", "\x1b[31m", "A", "a", "caf\u00e9", "cafe\u0301", "\udcff\udcfe", "-rf", "*", "...", "..a", " ", "x" * 255]
    place.bring([entry(name, name.encode("utf-8", "surrogateescape")) for name in names])
    assert len(place.tree()) == 1 + len(names)


@pytest.mark.parametrize(
    ("name", "says"),
    [("x" * 256, "longer than 255 bytes"), ("/".join(["d" * 200] * 21), "longer than 4095 bytes"), ("d/" * 600 + "f", "more than 512 names")],
)
def test_names_that_are_too_long(place: Place, name: str, says: str) -> None:
    place.refuse(says, lambda: place.bring([entry(name, b"")]))


def test_a_store_that_folds_case_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.images import chain

    def both(parent: int, name: str) -> int:
        if name == "tree":
            os.mkdir("TREE", dir_fd=parent)
        return make_new_directory(parent, name)

    monkeypatch.setattr(chain, "make_new_directory", both)
    place.refuse("does not tell `A` from `a`", lambda: place.bring([entry("a", b"")]))


# ---- what would be more than a file --------------------------------------------------------------------------------------


def test_devices_never_reach_the_disk(place: Place) -> None:
    devices = [entry(f"d{at}", kind=kind, devmajor=major, devminor=minor, mode=0o666) for at, (kind, major, minor) in
               enumerate([(tarfile.CHRTYPE, 0, 0), (tarfile.CHRTYPE, 1, 3), (tarfile.BLKTYPE, 8, 0)])]  # fmt: skip
    done = place.bring([entry("d0", b"below"), entry("d1", b"below"), entry("kept", b"")], devices)
    assert set(place.tree()) == {".", "kept"} and done.notes == ("left out: device (3)",)
    for layer in done.image.layers:
        for base, _, files in os.walk(layer):
            for file in files:
                status = os.lstat(os.path.join(base, file))
                assert not stat.S_ISBLK(status.st_mode) and (not stat.S_ISCHR(status.st_mode) or status.st_rdev == 0)


def test_attributes_of_overlay_do_not_reach_the_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opaque directory hides what lies below without a whiteout that anybody could see in the archive."""
    layers = [directory("d/"), entry("d/x", b"")], [directory("d/", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})]
    done = place.bring(*layers)
    assert "d/x" in place.tree() and "left out: xattr user.overlay.opaque (1)" in done.notes
    monkeypatch.setattr(layer_tree, "reaches_disk", lambda key: True)
    place.bring(layers[0], [*layers[1], entry("other", b"")])
    assert "d/x" not in place.tree()


def test_attributes_of_security_stay_in_the_archive(place: Place) -> None:
    keys = ("security.capability", "security.selinux", "trusted.overlay.opaque", "system.posix_acl_access", "user.mime")
    done = place.bring([entry("f", b"", pax_headers={f"SCHILY.xattr.{key}": "v" for key in keys})])
    assert os.listxattr(os.path.join(done.image.layers[0], "f")) == ["user.mime"]


# ---- what costs too much -------------------------------------------------------------------------------------------------

SMALL = Bounds(entries=50, bytes=1 << 20, ratio=20, ratio_free_bytes=1 << 19, depth=8, header_bytes=2048, document_bytes=8192)


def sparse(name: str, size: int) -> Entry:
    return entry(name, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size), "GNU.sparse.name": name})


BOMBS: list[tuple[str, list[Entry], str, str]] = [
    ("entries", [entry(f"f{n}", b"") for n in range(51)], "more than 50 files", "--max-entries"),
    ("links", [entry("f", b""), *(hardlink(f"l{n}", "f") for n in range(50))], "more than 50 files", "--max-entries"),
    ("implied", [entry(f"{n}/a/b/c/d/e", b"") for n in range(9)], "more than 50 files", "--max-entries"),
    ("whiteouts", [entry(f".wh.{n}", b"") for n in range(51)], "more than 50 files", "--max-entries"),
    ("bytes", [entry(f"f{n}", os.urandom(1 << 18)) for n in range(5)], "more than 1048576 bytes", "--max-bytes"),
    ("ratio", [entry("zeros", bytes(900_000))], "more than 20 times", "--max-ratio"),
    ("depth", [entry("a/" * 8 + "f", b"")], "more than 8 names", ""),
    ("header", [entry("f", b"", pax_headers={"SCHILY.xattr.user.a": "v" * 3000})], "a header of 30.. bytes", "--max-header-bytes"),
    ("long name", [entry("n" * 5000, b"")], "a header of 50.. bytes", "--max-header-bytes"),
    ("sparse", [entry("f", b"0\n".ljust(512, b"\0"), pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)})],
     "more than 1048576 bytes", "--max-bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "layer", "says", "option"), BOMBS, ids=[each[0] for each in BOMBS])
def test_what_is_too_much_is_refused_with_the_option(place: Place, what: str, layer: list[Entry], says: str, option: str) -> None:
    caught = place.refuse(says, lambda: place.bring(layer, bounds=SMALL))
    assert option in (caught.hint or "")
    if what not in ("long name", "sparse"):  # which Linux or the disk would refuse
        place.bring(layer)


def test_bombs_in_an_archive_of_a_layout_and_of_docker(place: Place) -> None:
    layout = place.layout()
    layout.image([tar_of([entry("f", os.urandom(3 << 20))])], packed=False)
    with tarfile.open(place.path / "l.tar.gz", "w:gz") as archive:
        archive.add(layout.path, arcname=".")
    place.refuse("more than", lambda: place.bring_path(place.path / "l.tar.gz", SMALL))
    (place.path / "d.tar").write_bytes(docker_archive([((), [tar_of([entry("f", os.urandom(3 << 20))])], {})]))
    place.refuse("more than|longer than", lambda: place.bring_path(place.path / "d.tar", SMALL))


def test_time_is_bounded(place: Place) -> None:
    place.refuse("longer than 0 s", lambda: place.bring([entry(f"f{n}", b"x" * 100) for n in range(50)], bounds=Bounds(seconds=0)))


def test_a_ratio_that_is_not_checked_lets_a_bomb_through(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = [entry("zeros", bytes(900_000))]
    place.refuse("more than 20 times", lambda: place.bring(bomb, bounds=SMALL))
    monkeypatch.setattr(Budget, "packed", lambda self, taken, given: None)
    place.bring(bomb, bounds=SMALL)


def test_a_bomb_behind_the_end_of_an_archive_is_found(place: Place) -> None:
    """What follows the end mark unpacks as well, for the digest."""
    layout = place.layout()
    layout.image([tar_of([entry("f", b"")]) + bytes(4 << 20)])
    place.refuse("more than 20 times", lambda: place.bring_path(layout.path, SMALL))


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    top = os.open(tmp_path, DIRECTORY_FLAGS)
    trash = make_new_directory(top, "trash")
    deep = make_new_directory(top, "deep")
    try:
        at = os.dup(deep)
        for _ in range(3000):
            os.mkdir("d" * 50, 0o700, dir_fd=at)
            below = os.open("d" * 50, DIRECTORY_FLAGS, dir_fd=at)
            os.close(at)
            at = below
        os.fchmod(at, 0)
        os.close(at)
        assert remove_at(top, b"deep", trash) == 3001
        assert os.listdir(trash) == [] and os.listdir(top) == ["trash"]
    finally:
        for fd in (top, trash, deep):
            os.close(fd)


# ---- documents that lie --------------------------------------------------------------------------------------------------


def changed(place: Place, change: Callable[[Layout, dict[str, Any]], None]) -> Path:
    """Return a layout whose manifest a function has changed; blobs that it adds have right digests."""
    layout = place.layout()
    found = layout.image([tar_of([entry("f", b"content")])])
    path = layout.blobs / found["digest"][7:]
    manifest = json.loads(path.read_bytes())
    layout.entries.clear()
    change(layout, manifest)
    if not layout.entries:
        layout.descriptor(found["mediaType"], json.dumps(manifest).encode(), "latest", None, True)
    return layout.path


def config_of(text: bytes) -> Callable[[Layout, dict[str, Any]], None]:
    def change(layout: Layout, manifest: dict[str, Any]) -> None:
        manifest["config"] |= layout.blob(text)

    return change


def set_key(key: str, value: Any) -> Callable[[Layout, dict[str, Any]], None]:
    def change(layout: Layout, manifest: dict[str, Any]) -> None:
        target: Any = manifest
        *way, last = key.split(".")
        for part in way:
            target = target[int(part) if part.isdecimal() else part]
        target[last] = value

    return change


def nest(layout: Layout, manifest: dict[str, Any]) -> None:
    found = layout.manifest(manifest["config"], manifest["layers"], listed=False)
    for depth in range(6):
        found = layout.index([found], listed=depth == 5)


def config(**keys: Any) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}} | keys).encode()


LIES: list[tuple[str, Callable[[Layout, dict[str, Any]], None], str]] = [
    ("no config", set_key("config", None), "there must be an object"),
    ("a config that is no JSON", config_of(b"\x00\xff"), "is no JSON"),
    ("a config without end", config_of(b"[" * 200_000), "nested too deeply"),
    ("a config that is huge", config_of(b'"' + b"x" * (5 << 20) + b'"'), "larger than 4194304 bytes"),
    ("a config of another kind", config_of(b"[]"), "there must be an object"),
    ("a config without layers", config_of(b"{}"), "rootfs"),
    ("more diff ids than layers", config_of(config(rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2})), "1 layers, the configuration 2"),
    ("a forged diff id", config_of(config()), "the configuration says `sha256:000"),
    ("a diff id that is a path", config_of(config(rootfs={"type": "layers", "diff_ids": ["sha256:../../../../x"]})), "no sha256 digest"),
    ("a NUL in the environment", config_of(config(config={"Env": ["A=b\0c"]})), r"config.Env\[0\]|a NUL"),
    ("a variable without a name", config_of(config(config={"Env": ["=x"]})), "it has no name"),
    ("an environment that is a text", config_of(config(config={"Env": "A=b"})), "there must be an array"),
    ("a volume that climbs", config_of(config(config={"Volumes": {"/a/../../b": {}}})), "a path with `..`"),
    ("a volume on everything", config_of(config(config={"Volumes": {str(n): {} for n in range(5000)}})), "more than 4096"),
    ("another version", set_key("schemaVersion", 1), "it must be 2; the image is in a format of before 2016"),
    ("a manifest that is an index as well", set_key("manifests", []), "a manifest has none"),
    ("a layer of another kind", set_key("layers.0.mediaType", "application/octet-stream"), "not that of a layer"),
    ("an encrypted layer", set_key("layers.0.mediaType", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "not that of a layer"),
    ("something else than an image", set_key("config.mediaType", "application/vnd.cncf.helm.config.v1+json"), "something else than an image"),
    ("a digest that is a path", set_key("layers.0.digest", "sha256:../../../../../../etc/passwd"), "no sha256 digest"),
    ("a digest of another kind", set_key("layers.0.digest", "md5:" + "0" * 32), "no sha256 digest"),
    ("a digest of nothing", set_key("layers.0.digest", "sha256:" + "0" * 64), "No such file"),
    ("a size that is wrong", set_key("layers.0.size", 7), "longer than 7 bytes"),
    ("a size that is larger", set_key("layers.0.size", 1 << 40), "bytes, not 1099511627776"),
    ("a size that is no number", set_key("layers.0.size", True), "no number of bytes"),
    ("a size below nothing", set_key("layers.0.size", -1), "no number of bytes"),
    ("indexes in indexes", nest, "nested more than 4 deep|index"),
]


@pytest.mark.parametrize(("change", "says"), [each[1:] for each in LIES], ids=[each[0] for each in LIES])
def test_documents_that_lie_are_refused(place: Place, change: Callable[[Layout, dict[str, Any]], None], says: str) -> None:
    place.refuse(says, lambda: place.bring_path(changed(place, change)))


def test_501_layers_are_refused(place: Place) -> None:
    layout = place.layout()
    layout.image([tar_of([entry("f", b"")])] * 501)
    place.refuse("501 layers", lambda: place.bring_path(layout.path))


@pytest.mark.parametrize("flip", ["layer", "config", "manifest"])
def test_a_blob_that_was_changed_is_refused(place: Place, flip: str) -> None:
    layout = place.layout()
    found = layout.image([tar_of([entry("f", b"content")])], packed=False)
    manifest = json.loads((layout.blobs / found["digest"][7:]).read_bytes())
    digest = {"layer": manifest["layers"][0], "config": manifest["config"], "manifest": found}[flip]["digest"]
    path = layout.blobs / digest[7:]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    caught = place.refuse("its digest is `sha256:.*`: it is damaged, or forged", lambda: place.bring_path(layout.path))
    assert digest[7:] in (caught.origin or "")


def test_a_forged_layer_gets_in_only_past_two_digests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = place.layout()
    whole = tar_of([entry("f", b"content")])
    layout.image([whole], packed=False)
    blob = layout.blobs / digest_of(whole)[7:]
    blob.write_bytes(whole.replace(b"content", b"forgery"))
    place.refuse("its digest is", lambda: place.bring_path(layout.path))
    add_blob = Store.add_blob

    def believe(self: Store, source: int, *, digest: str = "", **keys: Any) -> tuple[str, int]:
        found, size = add_blob(self, source, **keys)
        os.rename(f"blobs/sha256/{found[7:]}", f"blobs/sha256/{digest[7:]}", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        return digest, size

    monkeypatch.setattr(Store, "add_blob", believe)
    place.refuse("its content has the digest", lambda: place.bring_path(layout.path))
    monkeypatch.setattr(Unpacked, "drain", lambda self: digest_of(whole))
    assert Path(place.bring_path(layout.path).image.layers[0], "f").read_bytes() == b"forgery"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing", "device"])
@pytest.mark.parametrize("file", ["oci-layout", "index.json", "blob"])
def test_files_of_a_layout_that_are_none(place: Place, kind: str, file: str) -> None:
    layout = place.layout()
    found = layout.image([tar_of([entry("f", b"content")])])
    path = layout.blobs / found["digest"][7:] if file == "blob" else layout.path / file
    path.rename(place.path / "aside")
    if kind == "link":
        path.symlink_to(place.path / "aside")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    place.refuse("Too many levels|regular file|No such file|ELOOP", lambda: place.bring_path(layout.path, kind=SourceKind.OCI))


def test_a_directory_of_blobs_that_is_a_link(place: Place) -> None:
    layout = place.layout()
    layout.image([tar_of([entry("f", b"content")])])
    (layout.path / "blobs").rename(place.path / "elsewhere")
    (layout.path / "blobs").symlink_to(place.path / "elsewhere")
    place.refuse("ELOOP", lambda: place.bring_path(layout.path))


def docker_with(change: Callable[[list[Any]], Any], extra: list[Entry] | None = None) -> bytes:
    content = docker_archive([(["x:1"], [tar_of([entry("f", b"content")])], {})])
    import io

    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries: list[Entry] = []
        for member in archive:
            data = archive.extractfile(member)
            body = data.read() if data is not None else b""
            if member.name == "manifest.json":
                body = json.dumps(change(json.loads(body))).encode()
                member.size = len(body)
            entries.append((member, body))
    return tar_of([*entries, *(extra or [])])


DOCKER_LIES: list[tuple[Callable[[list[Any]], Any], list[Entry], str]] = [
    (lambda found: {}, [], "an array of images"),
    (lambda found: [1], [], "an object with `Config`"),
    (lambda found: [found[0] | {"Layers": ["../../../../etc/passwd"]}], [], "there is no file"),
    (lambda found: [found[0] | {"Layers": ["/etc/passwd"]}], [], "there is no file"),
    (lambda found: [found[0] | {"Config": "/etc/passwd"}], [], "there is no file"),
    (lambda found: [found[0] | {"Layers": []}], [], "0 layers, the configuration has 1"),
    (lambda found: [found[0] | {"RepoTags": ["../evil"]}], [], "image name"),
    (lambda found: [found[0] | {"Layers": ["link"]}], [symlink("link", "/etc/passwd")], "there is no file"),
    (lambda found: [found[0] | {"Layers": ["link"]}], [symlink("link", "link")], "there is no file"),
    (lambda found: [found[0] | {"Layers": ["forged"]}], [entry("forged", b"forged")], "damaged, or forged"),
    (lambda found: found, [entry("../../up", b"")], "a path with `..`"),
]


@pytest.mark.parametrize(("change", "extra", "says"), DOCKER_LIES, ids=range(len(DOCKER_LIES)))
def test_docker_archives_that_lie_are_refused(place: Place, change: Any, extra: list[Entry], says: str) -> None:
    (place.path / "d.tar").write_bytes(docker_with(change, extra))
    place.refuse(says, lambda: place.bring_path(place.path / "d.tar"))


# ---- damaged archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_is_cut_off_anywhere_is_refused(place: Place, packed: bool) -> None:
    whole = tar_of([entry("a", b"x" * 700), entry("b" * 120, b"y"), directory("d/")])
    whole = gzip.compress(whole, mtime=0) if packed else whole
    path = place.path / "root.tar"
    end = len(whole) if packed else len(whole) - 512
    for size in [*range(1, end, 97 if packed else 256), end - 1]:
        path.write_bytes(whole[:size])
        place.refuse("cut off|middle|damaged", lambda: place.bring_path(path, kind=SourceKind.ROOTFS))
    path.write_bytes(whole)
    place.bring_path(path)


# ---- directories ---------------------------------------------------------------------------------------------------------


def test_a_directory_of_a_stranger_is_only_read(place: Place) -> None:
    tree = place.path / "tree"
    tree.mkdir()
    (tree / "to-outside").symlink_to(place.outside)
    (tree / "to-secret").symlink_to(place.outside / "secret")
    os.mkfifo(tree / "fifo")
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "up").symlink_to("../../..")
    place.bring_path(tree)
    found = place.tree()
    assert place.untouched() and found["to-outside"][3] == str(place.outside) and "to-outside/secret" not in found


def test_a_directory_that_holds_the_store_leaves_it_out(place: Place) -> None:
    (place.path / "file").write_text("x")
    done = place.bring_path(place.path)
    assert "left out: store of images (1)" in done.notes
    assert not any(name.startswith("data/images/") for name in place.tree()) and "file" in place.tree()


def test_a_directory_with_a_name_that_is_a_whiteout_is_refused(place: Place) -> None:
    tree = place.path / "tree"
    tree.mkdir()
    (tree / ".wh.etc").touch()
    place.refuse("would be a whiteout", lambda: place.bring_path(tree))
    (place.path / "t.tar").write_bytes(tar_of([directory("etc/"), entry("etc/.wh..wh..opq", b"")]))
    place.refuse("would be a whiteout", lambda: place.bring_path(place.path / "t.tar"))


def test_a_directory_is_bounded(place: Place) -> None:
    tree = place.path / "tree"
    tree.mkdir()
    (tree / "big").touch()
    os.truncate(tree / "big", 1 << 40)
    place.refuse("more than 1048576 bytes", lambda: place.bring_path(tree, SMALL))
    (tree / "big").unlink()
    for number in range(60):
        (tree / str(number)).touch()
    place.refuse("more than 50 files", lambda: place.bring_path(tree, SMALL))
