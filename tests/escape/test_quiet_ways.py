"""Ways out through calls that every program makes: limits of oneself, a pair of sockets, a `#!` line, what lies in the working directory.

Each was open once and found by attack, not by the catalogue of threats (docs/reference/threat-table-*.md).
"""

from __future__ import annotations

import os
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
    run = run_payload((*PYTHON, "-c", STARVE_INIT.replace("WAIT", "90")), profile=profile, alter=no_filter)
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


def test_a_fifo_in_a_share_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program outside writes into a FIFO is for somebody else, and a read-only mount lets it be read. Removed: the search."""
    share = shared_directory(tmp_path / "share")
    os.mkfifo(share / "fifo", 0o666)
    fifo = os.open(share / "fifo", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fifo, b"for somebody else")
        command = ("head", "-c", "17", "/share/fifo")
        assert run_payload(command, volumes=[f"{share}:/share"]).out == b""
        monkeypatch.setattr("sandbox.rootfs.sockets._leads_outside", lambda entry: False)
        assert run_payload(command, volumes=[f"{share}:/share"]).out == b"for somebody else"
    finally:
        os.close(fifo)


# ---- what a hostile project makes us share -------------------------------------------------------------------------------


def hostile_project(tmp_path: Path, secret: Path) -> Path:
    project = shared_directory(tmp_path / "project")
    (project / ".venv" / "bin").mkdir(parents=True)
    interpreter = project / ".venv" / "bin" / "python3"
    interpreter.write_bytes(Path("/bin/cat").read_bytes())
    interpreter.chmod(0o755)
    (project / "evil").mkdir()
    (project / "evil" / "python3").symlink_to(secret)
    (project / ".venv" / "pyvenv.cfg").write_text(f"home = {project}/evil\nexecutable = {secret}\n")
    script = project / "run"
    script.write_text("#!.venv/bin/python3\n")
    script.chmod(0o755)
    return project


def test_a_virtual_environment_names_only_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's pyvenv.cfg says where its Python is, and that is shared; a key is no Python. Removed: the question."""
    tmp_path.chmod(0o755)
    secret = tmp_path / "id_rsa"
    secret.write_text("SECRET")
    project = hostile_project(tmp_path, secret)
    assert b"SECRET" not in run_payload(("./run", str(secret)), cwd=project).out
    monkeypatch.setattr("sandbox.rootfs.interpreters._is_python", os.path.exists)
    assert b"SECRET" in run_payload(("./run", str(secret)), cwd=project).out


def test_an_interpreter_line_shares_programs_only(tmp_path: Path) -> None:
    """``#!/srv/app/bin/app`` in a hostile script must not show /srv/app/config. Removed: the script; a caller who names it has it whole."""
    tmp_path.chmod(0o755)
    app = shared_directory(tmp_path / "app")
    for name in ("bin", "lib", "config"):
        (app / name).mkdir()
    (app / "config" / "password").write_text("SECRET")
    program = app / "bin" / "app"
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    project = shared_directory(tmp_path / "project")
    script = project / "run"
    script.write_text(f"#!{program}\n")
    script.chmod(0o755)
    run = run_payload(("./run", str(app / "config" / "password")), cwd=project)
    assert b"#!" in run.out and b"SECRET" not in run.out
    assert b"SECRET" in run_payload((str(program), str(app / "config" / "password")), cwd=project).out
