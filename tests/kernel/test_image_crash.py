"""`sandbox image pull` under violence: killed at many bytes and moments, cut off, several at once, on a disk that is full. What is left is a good store."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel.image_bytes import Built, digest_of, image_of, tar_of
from kernel.pulls import MIB, check_store, environ, noise, pull, some_image, tree_of
from kernel.registries import DEADLINE_S, Registry, needs_skopeo, serving

from sandbox.errors import SandboxError

pytestmark = [needs_skopeo, pytest.mark.orphans]
ROOT = Path(__file__).resolve().parents[2]
POINTS = 24
"""At how many bytes of what a registry sends a pull is killed; each part of the test has a third."""

# The command line's own way, without what it prints.
PULL = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sandbox.images.client import find_client
from sandbox.images.pulling import pull_image
from sandbox.images.store import open_store
import sandbox.images.transfer as transfer
from sandbox.errors import SandboxError
if "no-wall" in sys.argv[3:]:
    transfer._ROOM_BYTES = -(1 << 50)
try:
    with open_store(os.environ) as store:
        print(pull_image(store, find_client(os.environ, tls_verify=False), sys.argv[2]).digest)
except SandboxError as error:
    sys.exit(str(error))
"""


def start(reference: str, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start a pull as a process of its own."""
    command = [sys.executable, "-I", "-c", PULL, str(ROOT), reference]
    return subprocess.Popen(command, env=environ(tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a pull, and nothing of what it started; that goes by itself, and has gone when this returns."""
    os.kill(process.pid, signal.SIGSTOP)  # so that the list is whole
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    started = [os.pidfd_open(pid) for pid in children_of(process)]
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    for pidfd in started:
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "what a killed pull has started outlives it"
        os.close(pidfd)


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return what a process has started, zombies included; none where it has ended."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.005)


def client_of(process: subprocess.Popen[bytes]) -> int | None:
    """Return the skopeo that a pull has started, if it has."""
    try:
        return next((pid for pid in children_of(process) if Path(f"/proc/{pid}/comm").read_text() == "skopeo\n"), None)
    except (FileNotFoundError, ProcessLookupError):
        return None


def victim() -> Built:
    """Return the image of these tests: large enough that every layer is more than one piece on the way."""
    return some_image(sizes=(150_000, 400_000))


def bytes_of_a_pull(tmp_path: Path, built: Built) -> int:
    """Return how many body bytes a registry sends for all of an image."""
    with serving() as registry:
        pull(registry.add("some/thing", built, "1"), tmp_path / "measure")
        return registry.sent


SLOW_THIRDS = [pytest.param(part, marks=pytest.mark.slow) if part else part for part in range(3)]


@pytest.mark.parametrize("part", SLOW_THIRDS)
def test_killed_at_many_bytes(tmp_path: Path, part: int) -> None:
    """Documents, borders of blobs, one byte more and one less: SIGKILL, a look at the store, and the next pull makes it whole."""
    built = victim()
    total = bytes_of_a_pull(tmp_path, built)
    documents = 2 * len(built.manifest) + len(built.config)
    points = {0, 1, len(built.manifest) - 1, len(built.manifest), 2 * len(built.manifest), documents, documents + 1, total - 1}
    points |= {total * step // POINTS for step in range(1, POINTS)}
    for number, point in enumerate(sorted(points)):
        if number % 3 != part:
            continue
        own = tmp_path / str(point)
        with serving() as registry:
            reference = registry.add("some/thing", built, "1")
            registry.hold_after = point
            registry.chunk = 8192
            process = start(reference, own)
            assert registry.reached.wait(DEADLINE_S), point
            kill(process)
            registry.ended.set()
            found = check_store(own, tidy=False)
            assert found["manifests"] == found["names"] == 0
        with serving() as registry:
            image = pull(registry.add("some/thing", built, "1"), own)
            assert image.digest == built.digest and tree_of(image, "data-1") == noise(400_000, 1)
        check_store(own)


def test_layers_that_had_arrived_are_not_asked_for_again(tmp_path: Path) -> None:
    built = victim()
    late = digest_of(built.layers[2])
    whole = [tmp_path / "data" / "images" / "blobs" / "sha256" / digest_of(layer)[7:] for layer in built.layers[:2]]
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.lies.append(lambda handler: bool(late in handler.path and not handler.server.ended.wait(DEADLINE_S)))
        process = start(reference, tmp_path)
        eventually(lambda: all(path.exists() for path in whole), "two layers are in the store")
        kill(process)
        registry.ended.set()
        registry.lies.clear()
        check_store(tmp_path, tidy=False)
        registry.requests.clear()
        pull(reference, tmp_path)
        assert set(registry.blob_requests()) == {late, digest_of(built.config)}
    check_store(tmp_path)


def test_killed_at_many_moments(tmp_path: Path) -> None:
    """The bytes do not hold it up here: starting, unpacking and naming are cut, too."""
    built = victim()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        began = time.monotonic()
        assert start(reference, tmp_path / "whole").communicate(timeout=DEADLINE_S)[0].strip().decode() == built.digest
        takes = time.monotonic() - began
        steps = 20 if os.environ.get("SANDBOX_SLOW") == "1" else 8
        for step in range(steps):
            process = start(reference, tmp_path)
            select.select([], [], [], takes * (0.2 + step / steps))
            kill(process)
            check_store(tmp_path, tidy=False)
            if step % 5 == 4:
                shutil.rmtree(tmp_path / "data", ignore_errors=True)
        pull(reference, tmp_path)
    check_store(tmp_path)


def test_the_client_alone_is_killed(tmp_path: Path) -> None:
    built = victim()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.hold_after = 3 * len(built.manifest) + 2 * len(built.config) + 50_000
        process = start(reference, tmp_path)
        assert registry.reached.wait(DEADLINE_S)
        client = client_of(process)
        assert client is not None
        os.kill(client, signal.SIGKILL)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1 and not out
        assert b"`skopeo` was ended by SIGKILL" in err
        registry.ended.set()
    found = check_store(tmp_path)
    assert found["manifests"] == 0
    with serving() as registry:
        assert pull(registry.add("some/thing", built, "1"), tmp_path).digest == built.digest


def test_the_client_does_not_outlive_us(tmp_path: Path) -> None:
    built = victim()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.hold_after = 3 * len(built.manifest) + 2 * len(built.config) + 50_000
        process = start(reference, tmp_path)
        assert registry.reached.wait(DEADLINE_S)
        client = client_of(process)
        assert client is not None
        with os.fdopen(os.pidfd_open(client)) as pidfd:
            kill(process)
            assert select.select([pidfd], [], [], DEADLINE_S)[0], "skopeo has ended, although the registry still holds it"
        assert not registry.ended.is_set()


def test_interrupted(tmp_path: Path, sandbox_cli: Any) -> None:
    """Ctrl-C ends skopeo, too, and tidies up."""
    built = victim()
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        registry.hold_after = 3 * len(built.manifest) + 2 * len(built.config) + 50_000
        process = sandbox_cli.popen("image", "pull", "--tls-verify=false", reference, env=environ(tmp_path))
        assert registry.reached.wait(DEADLINE_S)
        client = client_of(process)
        assert client is not None
        with os.fdopen(os.pidfd_open(client)) as pidfd:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 130
            assert select.select([pidfd], [], [], DEADLINE_S)[0]
    assert check_store(tmp_path)["manifests"] == 0


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_cut_off_at_many_bytes(tmp_path: Path, part: int) -> None:
    """The registry, or the way to it, ends at a byte; the pull says so, and the next one succeeds."""
    built = victim()
    total = bytes_of_a_pull(tmp_path, built)
    for step in range(part, 12, 2):
        own = tmp_path / str(step)
        with serving() as registry:
            reference = registry.add("some/thing", built, "1")
            registry.cut_after = total * step // 12
            with pytest.raises(SandboxError, match="pull `"):
                pull(reference, own)
            assert check_store(own)["manifests"] == 0
            registry.cut_after = None
            assert pull(reference, own).digest == built.digest
        check_store(own)


def test_several_at_once(tmp_path: Path) -> None:
    """Three of one image and two of another that shares its layers, in one store; one more is killed among them."""
    first = victim()
    other = image_of([tar_of(["etc", ("etc/name", b"some\n")]), tar_of([("data-0", noise(150_000))]), tar_of([("own", noise(90_000, 7))])])
    with serving() as registry:
        names = [registry.add("some/thing", first, "1"), registry.add("some/other", other, "2")]
        pulls = [start(names[at % 2], tmp_path) for at in range(5)]
        doomed = start(names[0], tmp_path)
        assert doomed.stdout is not None
        select.select([doomed.stdout], [], [], 0.15)
        kill(doomed)
        for at, process in enumerate(pulls):
            out, err = process.communicate(timeout=DEADLINE_S)
            assert out.strip().decode() == (first, other)[at % 2].digest, err
        found = check_store(tmp_path, tidy=False)
        assert (found["manifests"], found["names"]) == (2, 2)
        pull(names[0], tmp_path)
    check_store(tmp_path)


# ---- a full disk -----------------------------------------------------------------------------------------------------

CHECK = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from typing import Any
from kernel.pulls import check_store
assert check_store(Path(sys.argv[3]))["manifests"] == 0
"""
ON_A_SMALL_DISK = """
set -e
mkdir -p "$SANDBOX_DATA_DIR"
mount -t tmpfs -o "size=$1,mode=0700" small "$SANDBOX_DATA_DIR"
shift
# skopeo in the place of root would look for root's own files.
set -- unshare -U --map-user="$USER_ID" --map-group="$GROUP_ID" -- "$@"
if "$@" 2> "$ERRORS"; then echo "it fits" >&2; exit 7; fi
cat "$ERRORS"
unshare -U --map-user="$USER_ID" --map-group="$GROUP_ID" -- "$PYTHON" -I -c "$CHECK" "$SOURCE" "$SOURCE/tests" "$OWN"
mount -t tmpfs -o "remount,size=600m" small "$SANDBOX_DATA_DIR"
"$@"
"""


@pytest.mark.userns
@pytest.mark.parametrize(
    ("size", "more", "words"),
    [
        ("66m", (), "are to come, "),
        ("3m", ("no-wall",), "the disk is full"),
        ("80m", (), "No space left on device"),
    ],
    ids=["refused before it begins", "while it arrives", "while it is unpacked"],
)
def test_a_full_disk(tmp_path: Path, size: str, more: tuple[str, ...], words: str) -> None:
    layers = [tar_of([("noise", noise(4 * MIB))])] if size != "80m" else [tar_of([("zeros", bytes(120 * MIB))])]
    built = image_of(layers)
    with serving() as registry:
        reference = registry.add("some/thing", built, "1")
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", ON_A_SMALL_DISK, "sh", size, sys.executable, "-I", "-c", PULL, str(ROOT), reference, *more],
            env={
                **environ(tmp_path),
                "ERRORS": str(tmp_path / "errors"),
                "PYTHON": sys.executable,
                "SOURCE": str(ROOT),
                "OWN": str(tmp_path),
                "CHECK": CHECK,
                "USER_ID": str(os.geteuid()),
                "GROUP_ID": str(os.getegid()),
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr + done.stdout
    assert words in done.stdout and done.stdout.rstrip().endswith(built.digest)


def test_held_registry_is_what_it_says(tmp_path: Path) -> None:
    """A registry that stops after N bytes has sent N bytes, or these tests kill at other moments than they say."""
    built = victim()
    with serving() as registry:
        assert isinstance(registry, Registry)
        registry.hold_after = len(built.manifest) + 5
        process = start(registry.add("some/thing", built, "1"), tmp_path)
        assert registry.reached.wait(DEADLINE_S)
        assert registry.sent == registry.hold_after
        kill(process)
