"""Ways out through calls that every program makes: limits of oneself, a pair of sockets, a `#!` line, what lies in the working directory.

Each was open once and found by attack, not by the catalogue of threats (docs/reference/threat-table-*.md).
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from escape.support import PYTHON, no_filter, run_payload, shared_directory

UNTRUSTED = ("strict", "python")

# ---- limits --------------------------------------------------------------------------------------------------------------

LOWER_CORE = """
import resource
try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ValueError: pass
print('core=%s,%s' % resource.getrlimit(resource.RLIMIT_CORE))
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
print('files=%s,%s' % resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize("profile", ["strict", "default", "build"])
def test_core_limit_cannot_be_lowered(profile: str) -> None:
    """Only RLIMIT_CORE 1 keeps a piped core_pattern's handler, root on the host, from starting; 0 starts it. Removed: the filter."""
    run = run_payload((*PYTHON, "-c", LOWER_CORE), profile=profile)
    assert (run["core"], run["files"]) == ("1,1", "50,50")
    assert run_payload((*PYTHON, "-c", LOWER_CORE), profile=profile, alter=no_filter)["core"] == "0,0"


STARVE_INIT = """
import os, resource, time
try:
    resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
    resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))
except (OSError, ValueError) as error: print('refused=yes')
if os.fork() == 0:
    if os.fork() == 0: time.sleep(0.05)
    os._exit(0)
time.sleep(WAIT)
print('alive=yes')
"""


@pytest.mark.parametrize("profile", UNTRUSTED)
def test_init_keeps_its_limits(profile: str) -> None:
    """Init has the payload's uid: prlimit(2) asks no more. Removed: the filter; then the payload makes its end look like a failure of the sandbox."""
    run = run_payload((*PYTHON, "-c", STARVE_INIT.replace("WAIT", "0.1")), profile=profile)
    assert (run["refused"], run["alive"], str(run.result.verdict)) == ("yes", "yes", "ok")
    run = run_payload((*PYTHON, "-c", STARVE_INIT.replace("WAIT", "4")), profile=profile, alter=no_filter)
    assert (run.facts.get("alive"), str(run.result.verdict)) == (None, "setup-failed")


# ---- sockets and FIFOs ---------------------------------------------------------------------------------------------------

SEND = """
import socket, sys
try:
    end, _ = socket.socketpair(socket.AF_UNIX, int(sys.argv[1]))
    end.sendto(b'out', '/share/late')
    print('sent=yes')
except OSError as error: print('sent=' + type(error).__name__)
"""


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_pair_of_sockets_reaches_nobody_else(tmp_path: Path, kind: int) -> None:
    """`strict` has no sockets but pairs; one of datagrams sends to any address, a socket file in a share too. Removed: the filter."""
    share = shared_directory(tmp_path / "share")
    hidden = share / "node_modules"  # not searched for sockets, as one that is made after the start is not
    hidden.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(str(hidden / "late"))
        (hidden / "late").chmod(0o777)
        outside.settimeout(0.1)
        command = (*PYTHON, "-c", SEND.replace("/share/", "/share/node_modules/"), str(int(kind)))
        assert "sent" in run_payload(command, volumes=[f"{share}:/share"]).facts
        with pytest.raises(TimeoutError):
            outside.recv(10)
        if kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            assert run_payload(command, volumes=[f"{share}:/share"], alter=no_filter)["sent"] == "yes"
            assert outside.recv(10) == b"out"
