# idea: change the pipes under the judge: non-blocking, tiny, in packets, seeked, truncated
# problem: custom
# expect: WA
# naive: -
# control: both ends of a pipe have flags of their own; a file would be truncated
import fcntl
import os
import select

ATTEMPTS = (
    lambda number: os.ftruncate(number, 0),
    lambda number: os.lseek(number, 1 << 40, 0),
    lambda number: fcntl.fcntl(number, 1031, 4096),
    lambda number: fcntl.fcntl(number, fcntl.F_SETFL, os.O_NONBLOCK | 0o40000),
)
for number in (0, 1, 2):
    for attempt in ATTEMPTS:
        try:
            attempt(number)
        except OSError:
            pass
for part in (b"wro", b"ng\n"):
    select.select([], [1], [])  # a packet takes a whole page of the pipe, which has one now
    os.write(1, part)
