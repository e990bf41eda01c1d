"""Names its network interfaces and says whether lo is up."""

import fcntl
import socket
import struct

from attack import report

report("interfaces", ",".join(name for _, name in socket.if_nameindex()))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    request = fcntl.ioctl(probe, 0x8913, struct.pack("16s16x", b"lo"))  # SIOCGIFFLAGS
report("lo", "up" if struct.unpack_from("H", request, 16)[0] & 1 else "down")
