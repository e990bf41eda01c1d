"""A2: reach keys of the caller, and leave one for the next run. Arguments: the serials of a key in @s and one in @u."""

import ctypes
import sys

from attack import attempt, call, report

READ, SEARCH, SESSION, USER = 11, 10, -3, -4


def read(serial):
    buffer = ctypes.create_string_buffer(64)
    call("keyctl", READ, serial, buffer, 64, 0)
    return buffer.value.decode()


def text(word):
    return ctypes.c_char_p(word)


def main(session_key, user_key):
    report("session-serial", attempt("by-serial-session", read, session_key))
    report("user-serial", attempt("by-serial-user", read, user_key))
    for name, ring in (("session", SESSION), ("user", USER)):
        attempt(f"search-{name}", call, "keyctl", SEARCH, ring, text(b"user"), text(b"sandbox-escape-test"), 0)
    attempt("request", call, "request_key", text(b"user"), text(b"sandbox-escape-test"), 0, 0)
    # The covert channel: whoever runs next under the same session reads it.
    serial = attempt("find-note", call, "keyctl", SEARCH, SESSION, text(b"user"), text(b"sandbox-escape-note"), 0)
    if serial is not None:
        report("note", attempt("read-note", read, serial))
    attempt("leave-note", call, "add_key", text(b"user"), text(b"sandbox-escape-note"), text(b"from the first run"), 18, SESSION)


main(int(sys.argv[1]), int(sys.argv[2]))
