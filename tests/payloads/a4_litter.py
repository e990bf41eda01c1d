"""A4: leave what is hard to remove: a tree deeper than PATH_MAX, locked directories, names that are no text. Arguments: how deep, and where."""

import os
import sys

from attack import report

for place in sys.argv[2:]:
    os.chdir(place)
    for name in (b"-rf", b"\n", b"\x1b[2J", b"\xff\xfe", b" ", b"*"):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    os.mkdir("deep")
    os.chdir("deep")
    for _ in range(int(sys.argv[1])):
        os.mkdir("deeper")
        os.chdir("deeper")
    os.chdir(place)
    os.mkdir("locked")
    os.close(os.open("locked/file", os.O_WRONLY | os.O_CREAT))
    os.chmod("locked", 0)
report("done", "yes")
