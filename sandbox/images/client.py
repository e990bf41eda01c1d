"""skopeo, as a process: started, watched, ended, and its errors put into the house's words.

It is the only program that speaks with registries. It runs as the caller, outside any sandbox, with the caller's credentials, proxies, certificates and
signature policy; what it prints and writes is what a stranger sent and is checked by `images.registry`. It dies with us, whoever kills us.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from sandbox.errors import UnsupportedError
from sandbox.images.bounds import ImageError
from sandbox.record import dataclass

PROGRAM = "skopeo"
STALL_NS = 60_000_000_000
STALL_BYTES = 16 << 10
"""What has to arrive within `STALL_NS`; a server that sends less is as good as one that sends nothing."""
TICK_S = 0.05
RUNTIME = "/run/containers"
"""Where the client has an ordinary user's credentials without XDG_RUNTIME_DIR, in a directory of root's."""
_MESSAGE_BYTES = 64 << 10
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.images.client_start import main; main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])"
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ESCAPE = re.compile(r"\\(.)")

# What the client says → (what that means, what helps). The first that is found counts; the client's own words follow in the message's origin.
_MEANINGS: tuple[tuple[str, str, str | None], ...] = (
    (r"no space left on device|disk quota exceeded", "the disk is full", "free some space; what arrived whole is kept for the next pull"),
    (r"file too large", "the registry sent more than the manifest says", None),
    (
        r"server gave HTTP response to HTTPS client|first record does not look like a TLS handshake",
        "the registry speaks plain HTTP, and TLS was asked for",
        "`--tls-verify=false` allows plain HTTP; only digests vouch for what arrives then",
    ),
    (
        r"x509:|certificate|tls: ",
        "the registry's certificate cannot be verified",
        "put its authority's certificate into `/etc/containers/certs.d/HOST:PORT/ca.crt` (see containers-certs.d(5)), or use `--tls-verify=false`",
    ),
    (
        r"unauthorized|authentication required|(?<!permission )denied|403 \(Forbidden\)|401 \(Unauthorized\)|invalid username/password",
        "the registry refuses access, or there is no such image",
        "log in with `skopeo login HOST`, or name a file of credentials with `--authfile`",
    ),
    (r"manifest unknown|name unknown|not found|\b404\b", "the registry has no such image", None),
    (r"toomanyrequests|\b429\b", "the registry limits how often it may be asked", "try again later, or log in with `skopeo login HOST`"),
    (
        r"[Dd]igest did not match|does not match|Digest mismatch|corrupt",
        "what the registry sent has another digest than the one it stands for",
        "the registry or something on the way to it is broken or lies; nothing of it was kept",
    ),
    (
        r"rejected by policy|Source image rejected|[Ss]ignature.*(?:required|exist|invalid|valid)",
        "the host's signature policy refuses the image",
        "see containers-policy.json(5)",
    ),
    (r"policy\.json", "the host has no signature policy", "`apt install golang-github-containers-common` brings a usual one, see containers-policy.json(5)"),
    (r"no such host|[Nn]ame or service not known|server misbehaving", "the registry's name cannot be resolved", None),
    (r"connection refused|network is unreachable|no route to host|i/o timeout|TLS handshake timeout", "the registry cannot be reached", None),
    (r"stopped after 10 redirects", "the registry sends the client round in circles", None),
    (r"unexpected EOF|connection reset|EOF$|broken pipe", "the registry broke off in the middle", "pull again; what arrived whole is kept"),
)


class ClientError(ImageError):
    """The client ended with an error; `words` are its own."""

    def __init__(self, message: str, words: str, *, hint: str | None = None) -> None:
        super().__init__(message, origin=words or None, hint=hint)
        self.words = words


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """How registries are asked.

    Args:
        program: the client's path.
        environ: its environment.
        options: said before each reference: TLS and credentials.
        stall_ns: how long `STALL_BYTES` may take to arrive.
    """

    program: str
    environ: Mapping[str, str]
    tls_verify: bool
    authfile: str | None
    stall_ns: int

    def options(self, side: str = "") -> list[str]:
        """Return the words for TLS and credentials; `side` is ``src-`` for a copy."""
        words = [] if self.tls_verify else [f"--{side}tls-verify=false"]
        return words + ([f"--{side}authfile", self.authfile] if self.authfile is not None else [])


def find_client(environ: Mapping[str, str], *, tls_verify: bool = True, authfile: str | None = None, stall_ns: int = STALL_NS) -> Client:
    """Return the client of this host.

    Raises:
        UnsupportedError: there is none.
        ImageError: the file of credentials cannot be read.
    """
    import shutil

    program = shutil.which(PROGRAM, path=environ.get("PATH", os.defpath))
    if program is None:
        raise UnsupportedError(f"the program `{PROGRAM}`", "image pull", hint=f"apt install {PROGRAM}")
    if authfile is not None:
        authfile = os.path.abspath(authfile)
        try:
            os.close(os.open(authfile, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise ImageError(f"open `{authfile}`: {error.strerror}", origin="--authfile") from None
    return Client(program=os.path.abspath(program), environ=environ, tls_verify=tls_verify, authfile=authfile, stall_ns=stall_ns)


def ask(client: Client, words: Sequence[str], *, what: str, directory: str, limit_bytes: int) -> bytes:
    """Run the client and return what it prints.

    Args:
        client: of `find_client`.
        words: its arguments.
        what: the operation in words, for errors.
        directory: its working directory, and where it keeps its own files.
        limit_bytes: more output than this is an error.

    Raises:
        ClientError: it ended with an error, took too long or printed too much.
    """
    printed = bytearray()

    def take(piece: bytes) -> None:
        printed.extend(piece)
        if len(printed) > limit_bytes:
            raise ClientError(f"{what}: the registry sent more than {limit_bytes} bytes", "")

    run(client, words, what=what, directory=directory, file_bytes=1 << 20, take=take, count=lambda: 0)
    return bytes(printed)


def run(
    client: Client,
    words: Sequence[str],
    *,
    what: str,
    directory: str,
    file_bytes: int,
    take: Callable[[bytes], None],
    count: Callable[[], int],
) -> None:
    """Run the client to its end; whatever is raised in between, it is dead and waited for afterwards.

    Args:
        client: of `find_client`.
        words: its arguments.
        what: the operation in words, for errors.
        directory: its working directory, and where it keeps its own files.
        file_bytes: the longest file that it may write.
        take: gets what it prints.
        count: returns how many bytes have arrived; asked about twenty times a second. May raise.

    Raises:
        ClientError: it ended with an error or went nowhere for too long.
    """
    environ = environment(client, directory)
    command = [sys.executable, "-I", "-S", "-c", _START, _ROOT, str(os.getpid()), str(file_bytes), client.program, *words]
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # no terminal to ask a password on, and one word ends its helpers, too
        bufsize=0,
    )
    said = bytearray()
    try:
        _watch(process, client, what, said, take, count)
        status = process.wait(client.stall_ns / 1e9)  # both streams are closed: it is about to end
    except subprocess.TimeoutExpired:
        raise ClientError(f"{what}: `{PROGRAM}` does not end", "") from None
    finally:
        _end(process)
    if status:
        raise explain(what, said.decode(errors="replace"), status)


def environment(client: Client, directory: str) -> dict[str, str]:
    """Return what the client gets as its environment: the caller's, but for where it writes."""
    # XDG_DATA_HOME: where it caches what it learns of blobs; nothing of a pull stays outside the store.
    environ = {**client.environ, "LC_ALL": "C", "XDG_DATA_HOME": directory}
    if "XDG_RUNTIME_DIR" not in environ and os.path.exists(RUNTIME) and not os.access(RUNTIME, os.X_OK):
        # It looks for credentials there first, and does not go on where root's podman has closed the directory.
        environ["XDG_RUNTIME_DIR"] = directory
    return environ


def _watch(
    process: subprocess.Popen[bytes],
    client: Client,
    what: str,
    said: bytearray,
    take: Callable[[bytes], None],
    count: Callable[[], int],
) -> None:
    """Read both streams to their end, and look at what arrives meanwhile."""
    assert process.stdout is not None and process.stderr is not None
    streams = {process.stdout.fileno(), process.stderr.fileno()}
    began, counted = time.monotonic_ns(), 0
    while streams:
        ready, _, _ = select.select(list(streams), [], [], TICK_S)
        for fd in ready:
            piece = os.read(fd, 1 << 16)
            if not piece:
                streams.discard(fd)
            elif fd == process.stdout.fileno():
                take(piece)
            elif len(said) < _MESSAGE_BYTES:
                said += piece
        now, seen = time.monotonic_ns(), count()
        if seen - counted >= STALL_BYTES:
            began, counted = now, seen
        elif now - began > client.stall_ns:
            raise ClientError(
                f"{what}: the registry sent less than {STALL_BYTES} bytes within {client.stall_ns / 1e9:g} s",
                said.decode(errors="replace").strip()[-2000:],
                hint="pull again; what arrived whole is kept. `--stall` sets how long to wait",
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the client with everything that it started, and reap it."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
        except ProcessLookupError:
            pass
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def explain(what: str, said: str, status: int) -> ClientError:
    """Return the error for what the client said.

    Args:
        what: the operation in words.
        said: its standard error.
        status: its exit status, negative for a signal.
    """
    found = _FATAL.findall(said)
    words = _ESCAPE.sub(lambda match: {"n": " ", "t": " "}.get(match[1], match[1]), found[-1]) if found else said.strip()[-2000:]
    if status == -signal.SIGXFSZ:
        words = "file too large"
    elif status < 0:
        return ClientError(f"{what}: `{PROGRAM}` was ended by {signal.Signals(-status).name}", words)
    plain = _DIGEST.sub("", words)  # 404 is also a part of many a digest
    for pattern, meaning, hint in _MEANINGS:
        if re.search(pattern, plain):
            return ClientError(f"{what}: {meaning}", f"{PROGRAM}: {words}", hint=hint)
    return ClientError(f"{what}: `{PROGRAM}` ended with status {status}", f"{PROGRAM}: {words}")


__all__ = ["PROGRAM", "STALL_BYTES", "STALL_NS", "Client", "ClientError", "ask", "explain", "find_client", "run"]
