"""`sandbox image pull` from registries that lie: wrong bytes, wrong lengths, wrong types, too much, too slow, nothing at all."""

# ruff: noqa: E501  -- one line a lie, as a table has it
from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel.image_bytes import DOCKER, OCI, Built, digest_of, dumps, image_of, index_of, member, tar_of, write_layout
from kernel.pulls import MIB, check_store, environ, pull, some_image
from kernel.registries import Handler, Registry, debian_registry, needs_registry, needs_skopeo, serving

from sandbox.errors import SandboxError
from sandbox.images.client import find_client
from sandbox.images.pulling import pull_image
from sandbox.images.registry import host_architecture
from sandbox.images.store import open_store
from sandbox.images.transfer import Transfer

pytestmark = needs_skopeo

Lie = Callable[[Registry, Built], Callable[[Handler], bool]]


def on(kind: str, digest_at: Callable[[Built], str], act: Callable[[Handler, Built], None]) -> Lie:
    """Return a lie about one manifest or blob."""

    def make(registry: Registry, built: Built) -> Callable[[Handler], bool]:
        def lie(handler: Handler) -> bool:
            if f"/{kind}/" in handler.path and handler.path.endswith(digest_at(built)):
                act(handler, built)
                return True
            return False

        return lie

    return make


def layer(built: Built) -> str:
    return digest_of(built.layers[1])


def config(built: Built) -> str:
    return digest_of(built.config)


def flipped(content: bytes) -> bytes:
    """Return bytes of the same length with one bit turned round."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def endless(handler: Handler, built: Built) -> None:
    """Send for as long as somebody listens."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/octet-stream")
    handler.end_headers()
    handler.close_connection = True
    try:
        while not handler.server.ended.is_set():
            handler.wfile.write(b"\0" * MIB)
    except OSError:
        pass


def drip(handler: Handler, built: Built) -> None:
    """Send the right bytes, one now and then, so that something always arrives."""
    content = built.layers[1]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.close_connection = True
    try:
        for at in range(len(content)):
            handler.wfile.write(content[at : at + 1])
            handler.wfile.flush()
            if handler.server.ended.wait(0.05):
                return
    except OSError:
        pass


def mute(handler: Handler, built: Built) -> None:
    """Say nothing at all."""
    handler.server.ended.wait(60)
    handler.close_connection = True


def short(handler: Handler, built: Built) -> None:
    """Announce all of a layer and stop in the middle."""
    handler.answer(built.layers[1][:1000], "application/octet-stream", length=len(built.layers[1]), digest=layer(built))


def round_and_round(handler: Handler, built: Built) -> None:
    handler.answer(b"", "text/plain", status=307, more={"Location": handler.path})


def no_http(handler: Handler, built: Built) -> None:
    handler.wfile.write(b"\0\1\2 this is no HTTP\n" * 10)
    handler.close_connection = True


def answer(content: Callable[[Built], bytes], **headers: Any) -> Callable[[Handler, Built], None]:
    """Answer with other bytes; the digest header claims what was asked for."""

    def act(handler: Handler, built: Built) -> None:
        claimed = handler.path.rpartition("/")[2]
        body = content(built)
        handler.answer(body, headers.pop("media_type", built.media_type), **{"digest": claimed if claimed.startswith("sha256:") else digest_of(body), **headers})

    return act


LIES: dict[str, tuple[Lie, str]] = {
    "manifest of the tag's digest is another": (on("manifests", lambda built: built.digest, answer(lambda built: flipped(built.manifest))), "another digest|no JSON|must be"),
    "manifest is no JSON": (on("manifests", lambda built: "1", answer(lambda built: b"<html>")), "no JSON|not that of an image|`skopeo` ended"),
    "manifest is huge": (on("manifests", lambda built: "1", answer(lambda built: built.manifest + b" " * (5 * MIB))), "more than|too big|too large|`skopeo` ended"),
    "manifest is endless": (on("manifests", lambda built: "1", endless), "more than|too big|too large|exceeded|`skopeo` ended"),
    "manifest never comes": (on("manifests", lambda built: "1", mute), "less than 16384 bytes within"),
    "manifest is a chart's": (on("manifests", lambda built: "1", answer(lambda built: built.manifest.replace(b"oci.image.config", b"cncf.helm.config"))), "something else than an image"),
    "manifest is of schema 1": (on("manifests", lambda built: "1", answer(lambda built: dumps({"schemaVersion": 1, "fsLayers": [], "history": []}))), "before 2016|`skopeo` ended"),
    "manifest says that it is an index": (on("manifests", lambda built: "1", answer(lambda built: built.manifest, media_type=OCI["index"])), "asks"),
    "configuration is another": (on("blobs", config, answer(lambda built: flipped(built.config))), "digest|does not match|is not"),
    "configuration is longer": (on("blobs", config, answer(lambda built: built.config + b" ")), "digest|does not match|more than|is not"),
    "configuration is endless": (on("blobs", config, endless), "more than|too big|too large|exceeded|`skopeo` ended"),
    "layer is another": (on("blobs", layer, answer(lambda built: flipped(built.layers[1]))), "another digest"),
    "layer is longer": (on("blobs", layer, answer(lambda built: built.layers[1] + b"x")), "another digest"),
    "layer is shorter": (on("blobs", layer, answer(lambda built: built.layers[1][:-1])), "another digest"),
    "layer is empty": (on("blobs", layer, answer(lambda built: b"")), "another digest"),
    "layer is endless": (on("blobs", layer, endless), "more than the manifest says"),
    "layer stops in the middle": (on("blobs", layer, short), "broke off|another digest"),
    "layer never comes": (on("blobs", layer, mute), "less than 16384 bytes within"),
    "layer comes a byte at a time": (on("blobs", layer, drip), "less than 16384 bytes within"),
    "layer is not there": (on("blobs", layer, answer(lambda built: b"{}", status=404)), "no such image"),
    "layer is sent round in circles": (on("blobs", layer, round_and_round), "round in circles|stopped after 10"),
    "layer is refused": (on("blobs", layer, answer(lambda built: b"{}", status=403)), "refuses access"),
    "registry is overloaded": (on("manifests", lambda built: "1", answer(lambda built: b"{}", status=429)), "less than 16384 bytes within"),
    "registry is broken": (on("manifests", lambda built: "1", answer(lambda built: b"oops", status=500)), "pull"),
    "registry speaks no HTTP": (on("manifests", lambda built: "1", no_http), "pull"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_and_nothing_of_it_stays(tmp_path: Path, name: str) -> None:
    built = some_image()
    make, words = LIES[name]
    quick = {"stall_ns": 1_500_000_000} if "within" in words else {}
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.lies.append(make(registry, built))
        if words == "asks":
            assert pull(reference, tmp_path).digest == built.digest  # the body counts, whatever the header says of it
            return
        with pytest.raises(SandboxError, match=words) as refused:
            pull(reference, tmp_path, **quick)
        assert refused.value.message.startswith("pull `") and not refused.value.message.endswith(".")
        assert reference.partition("/")[2] in str(refused.value)
        found = check_store(tmp_path)
        assert found["manifests"] == found["names"] == 0
        registry.lies.clear()
        assert pull(reference, tmp_path).digest == built.digest, "and the truth is still welcome"
    check_store(tmp_path)


@pytest.mark.parametrize("which", ["layer", "configuration", "manifest"])
def test_corrupted_on_purpose(tmp_path: Path, which: str) -> None:
    """The registry's own files are changed: Debian's registry serves them, and says that their digest is right."""
    built = some_image()
    with serving() as registry:
        reference = registry.add("some/thing", built)
        if which == "manifest":
            changed = built.manifest.replace(b'"schemaVersion":2', b'"schemaVersion": 2')
            registry.manifests[f"some/thing:{built.digest}"] = (built.media_type, changed)
        else:
            digest = digest_of(built.layers[2]) if which == "layer" else digest_of(built.config)
            registry.blobs[digest] = flipped(registry.blobs[digest])
        with pytest.raises(SandboxError, match=r"digest|does not match|is not `sha256"):
            pull(reference, tmp_path)
        assert check_store(tmp_path)["manifests"] == 0


@needs_registry
@pytest.mark.parametrize("which", ["layer", "config"])
def test_corrupted_in_debians_registry(tmp_path: Path, which: str) -> None:
    built = some_image()
    layout = write_layout(tmp_path / "layout", {"1": built})
    with debian_registry(tmp_path / "registry") as registry:
        reference = registry.push(layout, "some/thing", "1")
        digest = digest_of(built.layers[2] if which == "layer" else built.config)[7:]
        stored = tmp_path / "registry" / "files" / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
        stored.write_bytes(flipped(stored.read_bytes()))
        with pytest.raises(SandboxError, match=r"digest|does not match|is not `sha256"):
            pull(reference, tmp_path)
        assert check_store(tmp_path)["manifests"] == 0


def test_a_layer_that_is_not_its_diff_id(tmp_path: Path) -> None:
    """Every digest on the way is right; the configuration promises another content."""
    honest = some_image()
    settings = json.loads(honest.config)
    settings["rootfs"]["diff_ids"][1] = digest_of(b"another")
    forged = dumps(settings)
    table = json.loads(honest.manifest)
    table["config"] |= {"size": len(forged), "digest": digest_of(forged)}
    built = dataclasses.replace(honest, manifest=dumps(table), config=forged, blobs={**honest.blobs, digest_of(forged): forged})
    with serving() as registry:
        with pytest.raises(SandboxError, match="damaged, or forged"):
            pull(registry.add("some/thing", built, "1"), tmp_path)
    assert check_store(tmp_path)["manifests"] == 0


def descriptor_lie(change: Callable[[dict[str, Any]], Any]) -> Built:
    """Return an image whose manifest was changed, under its right digest."""
    honest = some_image()
    table = json.loads(honest.manifest)
    change(table)
    return dataclasses.replace(honest, manifest=dumps(table))


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a layer of another type": (lambda table: table["layers"][0].update(mediaType="application/x-evil"), "not that of a layer"),
    "a layer from elsewhere": (lambda table: table["layers"][0].update(mediaType=DOCKER["layer+gzip"].replace("diff", "foreign.diff"), urls=["http://127.0.0.1:1/x"]), "not at the registry"),
    "a layer that is larger than any disk": (lambda table: table["layers"][0].update(size=1 << 39), "are to come"),
    "a layer of 8 EiB": (lambda table: table["layers"][0].update(size=(1 << 62) - 1), "the most are"),
    "a layer of fewer bytes": (lambda table: table["layers"][1].update(size=table["layers"][1]["size"] - 1), "the manifest says|did not arrive|sends more|digest"),
    "a layer of more bytes": (lambda table: table["layers"][1].update(size=table["layers"][1]["size"] + 1), "the manifest says|did not arrive|digest"),
    "a negative layer": (lambda table: table["layers"][0].update(size=-1), "no number of bytes"),
    "a digest that leads outside": (lambda table: table["layers"][0].update(digest="sha256:../../../../etc/passwd"), "no sha256 digest"),
    "a digest that can be forged": (lambda table: table["layers"][0].update(digest="md5:" + "0" * 32), "no sha256 digest"),
    "too many layers": (lambda table: table.update(layers=table["layers"] * 400), "the most are"),
    "a configuration of 1 GiB": (lambda table: table["config"].update(size=1 << 30), "the most are"),
    "no layers but diff ids": (lambda table: table.update(layers=[]), "diff_ids"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    change, words = BAD_MANIFESTS[name]
    built = descriptor_lie(change)
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        with pytest.raises(SandboxError, match=words):
            pull(reference, tmp_path)
        assert not any("127.0.0.1:1" in str(request) for request in registry.requests)
    assert check_store(tmp_path)["manifests"] == 0


def test_an_index_without_this_machine(tmp_path: Path) -> None:
    images = {"s390x": some_image(architecture="s390x"), "riscv64": some_image(architecture="riscv64", seed=5)}
    with serving() as registry:
        registry.manifests["some/thing:1"] = (OCI["index"], index_of(images))
        with pytest.raises(SandboxError, match="no image for `linux/") as refused:
            pull(f"{registry.host}/some/thing:1", tmp_path)
        assert "s390x" in str(refused.value) and "riscv64" in str(refused.value)


def test_an_index_in_an_index_and_a_forged_entry(tmp_path: Path) -> None:
    built = some_image(architecture=host_architecture())
    with serving() as registry:
        inner = index_of({host_architecture(): built})
        outer = dumps({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": [{"mediaType": OCI["index"], "size": len(inner), "digest": digest_of(inner)}]})
        registry.manifests["some/thing:nested"] = (OCI["index"], outer)
        with pytest.raises(SandboxError, match="an index in an index"):
            pull(f"{registry.host}/some/thing:nested", tmp_path)
        registry.manifests["some/thing:1"] = (OCI["index"], inner)
        registry.manifests[f"some/thing:{built.digest}"] = (built.media_type, flipped(built.manifest))
        with pytest.raises(SandboxError, match=r"digest|does not match"):
            pull(f"{registry.host}/some/thing:1", tmp_path)
    assert check_store(tmp_path)["manifests"] == 0


def test_a_hostile_layer_is_refused_as_anywhere_else(tmp_path: Path) -> None:
    layers = [tar_of([member("x", b"2", linkname="/tmp"), ("../../outside", b"evil")])]
    with serving() as registry:
        with pytest.raises(SandboxError, match=r"a path with `\.\.`"):
            pull(registry.add("some/thing", image_of(layers), "1"), tmp_path)
    assert check_store(tmp_path)["manifests"] == 0


# ---- a client that lies ----------------------------------------------------------------------------------------------

# skopeo compares digests itself, so that the registry's lies above stop there. These show that we would not believe it either.
FAKE = """#!/bin/sh
verb=$1
case $FAKE:$verb in
manifest:inspect) case $* in *--config*) ;; *) exec printf '{"schemaVersion": 2}' ;; esac ;;
config:inspect) case $* in *--config*) "$REAL" "$@" | tr l L; exit 0 ;; esac ;;
talk:inspect) exec yes ;;
esac
"$REAL" "$@" || exit
[ "$verb" = copy ] || exit 0
for word; do last=$word; done
blobs=${last#oci:}; blobs=${blobs%:*}/blobs/sha256
case $FAKE in
flip) for file in "$blobs"/*; do [ "$(stat -c %h "$file")" = 1 ] && printf X | dd of="$file" conv=notrunc bs=1 seek=9 status=none; done ;;
longer) for file in "$blobs"/*; do [ "$(stat -c %h "$file")" = 1 ] && printf X >> "$file"; done ;;
link) for file in "$blobs"/*; do rm "$file"; ln -s /etc/passwd "$file"; done ;;
fifo) for file in "$blobs"/*; do rm "$file"; mkfifo "$file"; done ;;
nothing) rm "$blobs"/* ;;
esac
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("manifest", r"manifest with another digest"),
        ("config", r"configuration that is not"),
        ("talk", r"sent more than"),
        ("flip", r"layer that is not"),
        ("longer", r"bytes, the manifest says"),
        ("link", r"symbolic links|did not arrive"),
        ("fifo", r"bytes, the manifest says"),
        ("nothing", r"did not arrive"),
    ],
)
def test_the_client_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str) -> None:
    real = shutil.which("skopeo")
    assert real is not None
    fake = tmp_path / "bin" / "skopeo"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    built = some_image(sizes=(40_000,))
    with serving() as registry:
        reference = registry.add("some/thing", built)
        client = find_client({**environ(tmp_path), "PATH": f"{fake.parent}:{os.environ['PATH']}", "FAKE": how, "REAL": real}, tls_verify=False)
        # What is whole is looked at while skopeo runs, too; the lie has to be told before.
        monkeypatch.setattr(Transfer, "_count", lambda self: 0)
        with open_store(environ(tmp_path)) as store, pytest.raises(SandboxError, match=words):
            pull_image(store, client, reference)
        assert check_store(tmp_path)["manifests"] == 0
        monkeypatch.undo()
        assert pull(reference, tmp_path).digest == built.digest
