"""A2: look for a token in the environment and the arguments of every process that can be seen."""

import os
import sys

from attack import attempt, report

token = os.fsencode(sys.argv[1])[::-1]  # reversed on the command line, or this process would find itself
found = []
for pid in ["1", *(name for name in os.listdir("/proc") if name.isdecimal())]:
    for name in ("environ", "cmdline"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if token in file.read():
                    found.append(f"{pid}/{name}")
        except OSError:
            pass
report("found", " ".join(sorted(set(found))) or "nothing")
report("own", any(token in value for value in os.environb.values()))


def look(name):
    with open(f"/proc/1/{name}", "rb") as file:
        return file.read().replace(b"\0", b" ").decode()


report("environ", attempt("read-environ", look, "environ"))
report("cmdline", attempt("read-cmdline", look, "cmdline"))
report("names", " ".join(sorted(os.environ)))
