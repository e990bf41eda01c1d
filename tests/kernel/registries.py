"""Registries on loopback, for tests: Debian's docker-registry as it is, and one whose every answer a test can turn into a lie."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kernel.image_bytes import Built, digest_of

DEADLINE_S = 240.0
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed (apt install skopeo)")
needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed (apt install docker-registry)"
)


class Registry(ThreadingHTTPServer):
    """The part of the distribution protocol that a pull uses, over plain HTTP, and every way to break it.

    `lies` are asked before each answer, in order; the first that returns True has answered. `hold_after` counts the body bytes that
    have left; when they have, `reached` is set and nothing more leaves until the registry ends.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.lies: list[Callable[[Handler], bool]] = []
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.hold_after: int | None = None
        self.cut_after: int | None = None
        self.reached = threading.Event()
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.chunk = 1 << 16

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, image: Built, *tags: str) -> str:
        """Serve an image by its digest and by tags; return its reference."""
        for each in (image.digest, *tags):
            self.manifests[f"{name}:{each}"] = (image.media_type, image.manifest)
        self.blobs.update(image.blobs)
        return f"{self.host}/{name}:{(tags or (image.digest,))[0]}" if tags else f"{self.host}/{name}@{image.digest}"

    def blob_requests(self) -> list[str]:
        """Return the digests of the blobs that were asked for, in order."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/blobs/" in path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        registry = self.server
        registry.requests.append((self.command, self.path))
        registry.headers.append(dict(self.headers))
        for lie in registry.lies:
            if lie(self):
                return
        if self.path == "/v2/":
            self.answer(b"{}", "application/json")
            return
        name, kind, reference = self.split()
        if kind == "manifests" and f"{name}:{reference}" in registry.manifests:
            media_type, content = registry.manifests[f"{name}:{reference}"]
            self.answer(content, media_type)
        elif kind == "blobs" and reference in registry.blobs:
            self.answer(registry.blobs[reference], "application/octet-stream")
        else:
            self.answer(b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', "application/json", status=404)

    def split(self) -> tuple[str, str, str]:
        """Return name, ``manifests`` or ``blobs``, and the reference of a request."""
        words = self.path.split("/")
        return "/".join(words[2:-2]), words[-2], words[-1]

    def answer(
        self, content: bytes, media_type: str, *, status: int = 200, length: int | None = None, digest: str = "", more: dict[str, str] | None = None
    ) -> None:
        """Send an answer; `length` and `digest` are what the headers claim."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.send_header("Docker-Content-Digest", digest or digest_of(content))
        for key, value in (more or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.body(content)
        if length is not None and length != len(content):
            self.close_connection = True

    def body(self, content: bytes) -> None:
        """Send bytes, up to where the registry stops."""
        registry = self.server
        for start in range(0, len(content), registry.chunk):
            piece = content[start : start + registry.chunk]
            with registry.lock:
                stop = registry.hold_after if registry.hold_after is not None else registry.cut_after
                if stop is not None:
                    piece = piece[: max(0, stop - registry.sent)]
                registry.sent += len(piece)
                over = stop is not None and registry.sent >= stop
            if piece:
                self.wfile.write(piece)
                self.wfile.flush()
            if over:
                registry.reached.set()
                if registry.hold_after is not None:
                    registry.ended.wait(2 * DEADLINE_S)
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Registry]:
    """Serve until the block ends."""
    with Registry() as registry:
        if tls is not None:
            registry.socket = tls.wrap_socket(registry.socket, server_side=True)
        thread = threading.Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield registry
        finally:
            registry.ended.set()
            registry.shutdown()
            thread.join(DEADLINE_S)


class DebianRegistry:
    """Debian's docker-registry as a plain process on a port of loopback, its files in a directory of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Held, and never listened on: nobody else is given the number before the registry listens there, nor after it has ended.
        self.place = socket.socket()
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.place.bind(("127.0.0.1", 0))
        self.port = self.place.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        (directory / "files").mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "files")}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        (directory / "config.yml").write_text(json.dumps(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.directory / "config.yml")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
                connection.request("GET", "/v2/")
                answered = connection.getresponse().status == 200
                connection.close()
                if answered:
                    return
            assert self.process.poll() is None, (self.directory / "log").read_text()
            select.select([], [], [], 0.01)
        pytest.fail("docker-registry does not answer")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it, the very process that was started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
            self.process.wait(DEADLINE_S)
            self.process = None

    def push(self, layout: Path, name: str, tag: str = "latest") -> str:
        """Copy an image of a layout into the registry with skopeo; return its reference."""
        reference = f"{self.host}/{name}:{tag}"
        done = subprocess.run(
            ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:{tag}", f"docker://{reference}"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={"XDG_RUNTIME_DIR": str(self.directory), **os.environ},
        )
        assert not done.returncode, done.stderr
        return reference


@contextlib.contextmanager
def debian_registry(directory: Path) -> Iterator[DebianRegistry]:
    """Run Debian's registry until the block ends."""
    registry = DebianRegistry(directory)
    try:
        registry.start()
        yield registry
    finally:
        registry.kill(signal.SIGTERM)
        registry.place.close()
