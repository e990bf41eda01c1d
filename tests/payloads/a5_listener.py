"""Asks for a listener of its own: a filter that notifies of nothing, with SECCOMP_FILTER_FLAG_NEW_LISTENER."""

import ctypes
import struct

from attack import attempt, call

code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("=H6xQ", 1, ctypes.addressof(code)))
attempt("listener", call, "seccomp", 1, 8, program)
attempt("tsync", call, "seccomp", 1, 1, program)
