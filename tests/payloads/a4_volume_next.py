"""A4: the run after `a4_volume_litter`: what has come of it."""

import os
import socket
import subprocess
import sys

from attack import attempt, report

os.chmod(sys.argv[1], 0o755)
os.chdir(sys.argv[1])
done = subprocess.run(["./set-id", "-u"], stdout=subprocess.PIPE, check=False)
report("set-id-uid", done.stdout.decode().strip())
report("uid", os.getuid())
attempt("read-link", lambda: open("link/secret").read())
attempt("read-up", lambda: open("up/secret").read())
attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect("socket"))
report("names", len(os.listdir(".")))
report("done", "yes")
