"""Calls itself by names that would forge records or attack a reader's terminal, and has a call refused under each."""

import ctypes
import sys

from attack import libc, report
from numbers_here import NUMBERS

for text in sys.argv[1:]:
    name = ctypes.create_string_buffer(bytes.fromhex(text)[:15])
    libc.prctl(15, name, 0, 0, 0)
    libc.syscall(ctypes.c_long(NUMBERS["sethostname"]), b"\n{}\x1b[2J", 1)
report("names", len(sys.argv) - 1)
