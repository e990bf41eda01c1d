"""`sandbox image pull` from registries that work: what arrives, what is asked for, who is told a secret, and how errors of the client read."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kernel.image_bytes import DOCKER, OCI, digest_of, image_of, index_of, tar_of, write_layout
from kernel.pulls import check_store, environ, noise, pull, some_image, tree_of
from kernel.registries import Handler, debian_registry, needs_registry, needs_skopeo, serving

from sandbox import images
from sandbox.api.images import is_loopback
from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.images import client as clients
from sandbox.images.client import explain, find_client
from sandbox.images.pulling import ensure_image, pull_image
from sandbox.images.registry import host_architecture
from sandbox.images.store import open_store

pytestmark = needs_skopeo


@pytest.mark.parametrize(("kind", "compress"), [(OCI, True), (DOCKER, True), (OCI, False)], ids=["oci", "docker", "oci-plain"])
def test_an_image_arrives_as_it_is(tmp_path: Path, kind: Any, compress: bool) -> None:
    built = some_image(kind=kind, compress=compress, config={"Env": ["A=b"], "Cmd": ["/bin/true"]})
    told: list[tuple[str, int, int]] = []
    with serving() as registry:
        image = pull(registry.add("some/thing", built, "1"), tmp_path, progress=lambda *words: told.append(words))
        assert image.names == (f"{registry.host}/some/thing:1",)
    assert image.digest == built.digest, "the registry's own manifest, not one that was made of it"
    assert image.config.environment == (("A", "b"),) and image.config.command == ("/bin/true",)
    assert tree_of(image, "data-1") == noise(90_000, 1)
    assert check_store(tmp_path) == {"blobs": 5, "layers": 3, "manifests": 1, "names": 1}
    assert any(what.startswith("pull 3 of 3 layers") and done == total for what, done, total in told)


def test_what_the_store_has_is_not_asked_for_again(tmp_path: Path) -> None:
    built = some_image()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        pull(reference, tmp_path)
        registry.requests.clear()
        pull(reference, tmp_path)
        assert registry.blob_requests() == [digest_of(built.config)] * 2
        other = image_of([tar_of(["etc", ("etc/name", b"some\n")]), tar_of([("new", b"new\n")])])
        registry.requests.clear()
        pull(registry.add("some/other", other, "1"), tmp_path)
        assert digest_of(other.layers[0]) not in registry.blob_requests()
        assert digest_of(other.layers[1]) in registry.blob_requests()


def test_a_damaged_blob_of_the_store_is_asked_for_again(tmp_path: Path) -> None:
    built = some_image()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        pull(reference, tmp_path)
        store = tmp_path / "data" / "images"
        blob = store / "blobs" / "sha256" / digest_of(built.layers[2])[7:]
        content = bytearray(blob.read_bytes())
        content[100] ^= 1
        blob.write_bytes(content)
        for layer in list((store / "layers").iterdir()):
            os.rename(layer, tmp_path / f"gone-{layer.name}")
        pull(reference, tmp_path)
    check_store(tmp_path)


def test_by_digest_and_by_tag_and_digest(tmp_path: Path) -> None:
    built = some_image()
    with serving() as registry:
        reference = registry.add("some/thing", built)
        assert pull(reference, tmp_path).names == (reference,)
        both = reference.replace("@", ":whatever@")
        assert pull(both, tmp_path).digest == built.digest
        assert not any(path.endswith("/manifests/whatever") for _, path in registry.requests)


def test_an_index_is_asked_for_this_machine(tmp_path: Path) -> None:
    images = {name: some_image(architecture=name, seed=at) for at, name in enumerate(("s390x", "amd64", "arm64"))}
    with serving() as registry:
        for image in images.values():
            registry.add("some/thing", image)
        listed = index_of(images)
        registry.manifests["some/thing:1"] = (OCI["index"], listed)
        registry.manifests[f"some/thing:{digest_of(listed)}"] = (OCI["index"], listed)
        own = images[host_architecture().partition("/")[0]]
        assert pull(f"{registry.host}/some/thing:1", tmp_path).digest == own.digest
        assert pull(f"{registry.host}/some/thing:1", tmp_path, architecture="s390x").digest == images["s390x"].digest
        by_index = f"{registry.host}/some/thing@{digest_of(listed)}"
        assert by_index in pull(by_index, tmp_path).names


def test_a_tag_that_moves_in_between_changes_nothing(tmp_path: Path) -> None:
    first, second = some_image(seed=1), some_image(seed=2)
    with serving() as registry:
        reference = registry.add("some/thing", first, "1")
        registry.add("some/thing", second)

        def move(handler: Handler) -> bool:
            if handler.path.endswith("/manifests/1"):
                handler.answer(first.manifest, first.media_type)
                registry.manifests["some/thing:1"] = (second.media_type, second.manifest)
                registry.lies.clear()
                return True
            return False

        registry.lies.append(move)
        assert pull(reference, tmp_path).digest == first.digest
        assert pull(reference, tmp_path).digest == second.digest
    assert check_store(tmp_path)["manifests"] == 2


def test_credentials_come_from_the_file_and_go_to_the_registry_only(tmp_path: Path) -> None:
    built = some_image()
    with serving() as registry, serving() as elsewhere:
        reference = registry.add("some/thing", built, "1")
        elsewhere.add("some/thing", built)
        word = base64.b64encode(b"user:secret").decode()
        authfile = tmp_path / "auth.json"
        authfile.write_text(json.dumps({"auths": {registry.host: {"auth": word}}}))

        def guard(handler: Handler) -> bool:
            if handler.headers.get("Authorization") != f"Basic {word}":
                handler.answer(b"{}", "application/json", status=401, more={"WWW-Authenticate": 'Basic realm="r"'})
                return True
            if "/blobs/" in handler.path and digest_of(built.config) not in handler.path:
                port = elsewhere.server_address[1]
                handler.answer(b"", "text/plain", status=307, more={"Location": f"http://localhost:{port}{handler.path}"})
                return True
            return False

        registry.lies.append(guard)
        with pytest.raises(SandboxError, match="refuses access") as refused:
            pull(reference, tmp_path)
        assert "skopeo login" in (refused.value.hint or "")
        assert pull(reference, tmp_path, authfile=str(authfile)).digest == built.digest
        assert elsewhere.blob_requests(), "the blobs came from where the registry sent us"
        assert not any("Authorization" in headers for headers in elsewhere.headers)


def test_a_directory_of_credentials_that_root_has_closed_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's podman makes /run/containers with mode 0700, in which skopeo looks for those of a user without XDG_RUNTIME_DIR, and fails."""
    client, given = find_client(environ(tmp_path)), find_client({**environ(tmp_path), "XDG_RUNTIME_DIR": "/run/user/5"})
    monkeypatch.setattr(clients, "RUNTIME", str(tmp_path))
    assert "XDG_RUNTIME_DIR" not in clients.environment(client, "/own")
    monkeypatch.setattr(clients.os, "access", lambda *words: False)
    assert clients.environment(client, "/own")["XDG_RUNTIME_DIR"] == "/own"
    assert clients.environment(given, "/own")["XDG_RUNTIME_DIR"] == "/run/user/5"


def test_missing_credentials_file_is_an_error_before_anything(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"open `.*no-such`: No such file"):
        pull("127.0.0.1:1/x", tmp_path, authfile=str(tmp_path / "no-such"))


def test_a_host_without_the_client(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the program `skopeo`") as missing:
        find_client({**environ(tmp_path), "PATH": str(tmp_path)})
    assert missing.value.hint == "apt install skopeo"


def test_when_a_run_asks(tmp_path: Path) -> None:
    first, second = some_image(seed=1), some_image(seed=2)
    own = environ(tmp_path)
    with serving() as registry:
        reference = registry.add("some/thing", first, "1")

        def ensure(name: str = reference, **options: Any) -> str:
            return ensure_image(name, own, lambda: pull(name, tmp_path), **options).digest

        with pytest.raises(PolicyError, match="there is no image"):
            ensure(when="never")
        assert not registry.requests
        assert ensure() == first.digest
        registry.add("some/thing", second, "1")
        registry.requests.clear()
        assert ensure() == ensure(when="never") == ensure(first.digest[7:15]) == ensure("sha256:" + first.digest[7:15]) == first.digest
        with pytest.raises(PolicyError):
            ensure("0123456789ab")
        assert not registry.requests
        assert ensure(when="always") == second.digest
        with pytest.raises(PolicyError, match="`pull` is one of"):
            ensure(when="sometimes")


def test_plain_http_has_to_be_asked_for(tmp_path: Path) -> None:
    built = some_image()
    with serving() as registry:
        client = find_client(environ(tmp_path))
        with open_store(environ(tmp_path)) as store, pytest.raises(SandboxError, match="plain HTTP, and TLS was asked for") as refused:
            pull_image(store, client, registry.add("some/thing", built, "1"))
    assert "--tls-verify=false" in (refused.value.hint or "")
    assert not registry.requests


@needs_registry
def test_debians_registry(tmp_path: Path) -> None:
    built = some_image(config={"User": "1000"})
    layout = write_layout(tmp_path / "layout", {"1.0": built})
    with debian_registry(tmp_path / "registry") as registry:
        reference = registry.push(layout, "some/thing", "1.0")
        image = pull(reference, tmp_path)
        assert image.digest == built.digest and image.config.user == "1000"
        assert tree_of(image, "data-0") == noise(40_000)
        with pytest.raises(SandboxError, match="no such image"):
            pull(f"{registry.host}/some/thing:2", tmp_path)
        with pytest.raises(SandboxError, match="no such image"):
            pull(f"{registry.host}/some/other:1", tmp_path)
    check_store(tmp_path)
    with pytest.raises(SandboxError, match="cannot be reached"):
        pull(reference, tmp_path)


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ('time="2026-01-01T00:00:00Z" level=fatal msg="writing blob: write /x/oci-put-blob1: no space left on device"\n', "the disk is full"),
        ('level=fatal msg="pinging container registry x: Get \\"https://x/v2/\\": dial tcp: lookup x: no such host"\n', "cannot be resolved"),
        ('level=fatal msg="Get \\"https://x/v2/\\": x509: certificate signed by unknown authority"\n', "cannot be verified"),
        ('level=fatal msg="Source image rejected: Running image docker://x is rejected by policy."\n', "signature policy"),
        (f'level=fatal msg="reading blob sha256:{"404" * 21}0: boo"\n', "ended with status 1"),
        ('level=fatal msg="reading signatures: open /var/x: permission denied"\n', "ended with status 1"),
        ('level=fatal msg="reading manifest 1: toomanyrequests: slow down"\n', "how often"),
        ("what no pattern knows\n", "`skopeo` ended with status 1"),
        ("", "`skopeo` ended with status 1"),
    ],
)
def test_what_the_client_says_is_put_into_words(said: str, meaning: str) -> None:
    error = explain("pull `x`", said, 1)
    assert meaning in error.message
    assert '\\"' not in str(error)


def test_signals_and_limits_are_told() -> None:
    assert "ended by SIGKILL" in explain("pull `x`", "", -9).message
    assert "more than the manifest says" in explain("pull `x`", "", -25).message


# ---- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path, sandbox_cli: Any) -> None:
    built, other = some_image(), some_image(seed=3)
    own = environ(tmp_path)
    with serving() as registry:
        first, second = registry.add("some/thing", built, "1"), registry.add("some/other", other, "2")
        refused = sandbox_cli("image", "pull", first, env=own)
        assert refused.returncode == 125 and b"--tls-verify=false" in refused.stderr
        done = sandbox_cli("image", "pull", "--tls-verify=false", first, second, env=own)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().splitlines() == [f"{first}  {built.digest}", f"{second}  {other.digest}"]
        assert done.stderr == b"", "no progress where there is no terminal, no warning of loopback"
        assert sandbox_cli("image", "pull", "--tls-verify", "false", "-q", first, env=own).stdout.decode() == built.digest + "\n"
        shown = json.loads(sandbox_cli("image", "pull", "--tls-verify=false", "--json", first, env=own).stdout)
        assert shown[0]["digest"] == built.digest and shown[0]["names"] == [first]
        small = sandbox_cli("image", "pull", "--tls-verify=false", "--max-bytes", "1K", first, env={**own, "SANDBOX_DATA_DIR": str(tmp_path / "small")})
        assert small.returncode == 125 and b"--max-bytes" in small.stderr
    verified = sandbox_cli("image", "verify", env=own)
    assert verified.returncode == 0, verified.stdout
    for words, message in (
        (("pull",), b"say which image"),
        (("pull", "UPPER/x"), b"image name"),
        (("pull", "--tls-verify=maybe", "x"), b"neither `true` nor `false`"),
        (("pull", "--stall", "1ms", "x"), b"less than a second"),
        (("pull", "--ids", "many", "x"), b"unknown ids"),
    ):
        wrong = sandbox_cli("image", *words, env=own)
        assert wrong.returncode == 125 and message in wrong.stderr, (words, wrong.stderr)


@pytest.mark.orphans
def test_progress_on_a_terminal(tmp_path: Path, sandbox_cli: Any) -> None:
    import pty

    built = some_image(sizes=(40_000, 400_000))
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.hold_after = 3 * len(built.manifest) + 2 * len(built.config) + 200_000
        ours, theirs = pty.openpty()
        said = b""
        with sandbox_cli.popen("image", "pull", "--tls-verify=false", reference, env={**environ(tmp_path), "TERM": "xterm"}, stderr=theirs) as process:
            os.close(theirs)
            with os.fdopen(ours, "rb", buffering=0) as terminal:
                while b"of 3 layers" not in said:
                    said += terminal.read(1000)
                registry.hold_after = None
                registry.ended.set()
                process.kill()
                process.communicate()
    assert b"pull " in said and b"%" in said


@pytest.mark.userns
@pytest.mark.seccomp
def test_a_run_asks_when_it_is_told_to(tmp_path: Path, sandbox_cli: Any) -> None:
    own = environ(tmp_path)
    with serving() as registry:
        reference = registry.add("some/thing", some_image(), "1")
        missing = sandbox_cli("exec", "--image", reference, "--", "true", env=own)
        assert missing.returncode == 125 and b"there is no image" in missing.stderr and not registry.headers
        asked = sandbox_cli("exec", "--image", reference, "--pull", "missing", "--", "true", env=own)
        assert asked.returncode == 125 and b"TLS was asked for" in asked.stderr, "it was asked, and by TLS"
        useless = sandbox_cli("exec", "--pull", "missing", "--", "true", env=own)
        assert useless.returncode == 125 and b"`--pull` is for runs with `--image`" in useless.stderr
        unknown = sandbox_cli("exec", "--image", reference, "--pull", "sometimes", "--", "true", env=own)
        assert unknown.returncode == 125 and b"sometimes" in unknown.stderr


def test_a_stored_launch_does_not_stand_in_for_a_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.cli.exec import _entry_name

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"image": ["x"], "no-tty": [""]}
    assert _entry_name(options, ["true"], "/") and _entry_name({**options, "pull": ["missing"]}, ["true"], "/")
    assert not _entry_name({**options, "pull": ["always"]}, ["true"], "/")


# ---- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_certificates_are_checked(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=test",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    built = some_image()
    own = environ(tmp_path)
    with serving(context) as registry:
        reference = registry.add("some/thing", built, "1")
        with pytest.raises(SandboxError, match="certificate cannot be verified"):
            images.pull(reference, environ=own)
        authority = tmp_path / "home" / ".config" / "containers" / "certs.d" / registry.host / "ca.crt"
        authority.parent.mkdir(parents=True)
        authority.write_bytes(certificate.read_bytes())
        assert images.pull(reference, environ=own).digest == built.digest
        authority.unlink()
        assert images.pull(reference, environ=own, tls_verify=False).digest == built.digest


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1:5000/x", "localhost/x:1", "localhost:5000/x", "[::1]:5000/x")))
    assert not any(map(is_loopback, ("debian:12", "127.example.com/x", "localhost.example.com/x", "10.0.0.1:5000/x")))
