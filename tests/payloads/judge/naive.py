"""A judge as people write it in an afternoon, to show what the hostile submissions do to one. It runs inside one sandbox, which is all that holds it.

naive.py SUBMISSION    judges it on /package (copied to where it can be written), prints `verdict=CODE` and, for a package with scores, `score=N`

Everything that the real judge keeps apart shares one tree, one user, one pid namespace, one scratch directory and one network here, and one compile step
without a sandbox of its own. Compilation and each run have a time limit, and that is all. The limits are generous: where an attack has to be quicker than the
judge, the judge waits for it (`let_them_work`), since a control that has to win a race shows nothing when it loses.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PACKAGE = Path("/tmp/judge/package")
WORK = Path("/tmp/judge/work")
FEEDBACK = WORK / "feedback"
COMPILERS = {".c": ["gcc", "-O1", "-pthread", "-o", "program"], ".cpp": ["g++", "-O1", "-o", "program"]}


def serve(text):
    """Offer the answers to the workers of this judge, as judges with several machines do."""
    loopback = socket.create_server(("127.0.0.1", 8042))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0judge-answers")
    abstract.listen()

    def answer(listener):
        while True:
            peer = listener.accept()[0]
            with peer, contextlib.suppress(OSError):
                peer.sendall(text)

    for listener in (loopback, abstract):
        threading.Thread(target=answer, args=(listener,), daemon=True).start()


def share(text):
    """Keep the answers in shared memory between two processes of this judge."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0x4A554447, 4096, 0o1666)
    address = libc.shmat(number, None, 0) if number >= 0 else None
    if address not in (None, ctypes.c_void_p(-1).value):
        ctypes.memmove(address, text[:4095], len(text[:4095]))
    Path("/dev/shm/judge-answers").write_bytes(text)


def build(submission):
    """Return the command that runs a submission, or None where it does not compile."""
    main = submission / "__main__.py"
    if main.exists():
        return [sys.executable, str(main)]
    if submission.suffix == ".py":
        return [sys.executable, str(submission)]
    try:
        done = subprocess.run(
            [*COMPILERS[submission.suffix], str(submission)], cwd=WORK, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None
    sys.stdout.write(done.stderr.decode(errors="replace"))
    return [str(WORK / "program")] if done.returncode == 0 else None


def survivors(validator):
    """Return the processes that a submission has left."""
    known = {1, os.getpid(), validator}
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if pid not in known and not is_dead(pid)]


def is_dead(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def let_them_work(validator):
    """Give a validator, which waits for its input, to whatever the submission has left, until that has ended or stopped it, or has gone."""
    end = time.monotonic() + 60
    while survivors(validator) and time.monotonic() < end:
        if os.waitid(os.P_PID, validator, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.01)


def accept(path, output):
    """Judge an output by the package's validator, or by tokens; return a code."""
    validator = PACKAGE / "output_validator" / "validate.py"
    if not validator.exists():
        return "AC" if output.decode(errors="replace").split() == path.with_suffix(".ans").read_text().split() else "WA"
    FEEDBACK.mkdir(exist_ok=True)
    command = [sys.executable, str(validator), str(path), str(path.with_suffix(".ans")), f"{FEEDBACK}/"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        let_them_work(process.pid)
        try:
            process.communicate(output, timeout=8)
        except subprocess.TimeoutExpired:
            process.kill()
            return "JE"
    score = FEEDBACK / "score.txt"
    if process.returncode in (42, 43) and score.exists():
        return "AC" if float(score.read_text()) > 0 else "WA"
    return {42: "AC", 43: "WA"}.get(process.returncode, "JE")


def run_case(command, path):
    """Run a submission on one case; return a code."""
    with open(path, "rb") as stdin, open(path.with_suffix(".ans"), "rb") as answer:
        os.set_inheritable(answer.fileno(), True)
        environ = {**os.environ, "CASE": str(path.with_suffix(""))}
        process = subprocess.Popen(
            command, cwd=WORK, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=False, env=environ
        )
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            return "TLE"
    if process.returncode:
        return "RTE"
    link = WORK / "output.txt"
    return accept(path, link.read_bytes() if link.exists() else output)


def main():
    shutil.copytree("/package", PACKAGE)
    WORK.mkdir()
    for path in PACKAGE.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    copied = WORK / Path(sys.argv[1]).name
    copy = shutil.copytree if os.path.isdir(sys.argv[1]) else shutil.copy
    copy(sys.argv[1], copied)
    answers = b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.ans")))
    in_memory = [path.read_bytes() for path in sorted(PACKAGE.rglob("*.ans"))]
    serve(answers)
    share(answers)
    command = build(copied)
    codes = (run_case(command, path) for path in sorted((PACKAGE / "data/secret").glob("*.in"))) if command else ["CE"]
    worst = next((code for code in codes if code != "AC"), "AC")
    print(f"verdict={worst}", flush=True)
    print(f"digest={hashlib.sha256(b''.join(in_memory)).hexdigest()}", flush=True)
    os._exit(0)


main()
