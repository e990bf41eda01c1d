"""The ioctls of a seccomp user-notification listener: wait, receive, refuse, answer, check.

Only `sandbox.supervise.notify`, `sandbox.supervise.machine_view` and tests import this module. It can refuse a call, or say what it returned: there is no
function here that lets a notified call go on, and the response's flags are always zero. With
SECCOMP_USER_NOTIF_FLAG_CONTINUE the kernel would read the caller's memory again after we looked at it, so the
notifier "cannot be used to implement a security policy" (include/uapi/linux/seccomp.h).

The wrappers need no ctypes: every structure fits the 1024 bytes that `fcntl.ioctl` copies in and out itself, so a kernel
whose structures were larger than ours could not write past a buffer either.

Source: seccomp_unotify(2); kernel/seccomp.c.
Since: Linux 5.0; ID_VALID with this number since 5.8 and its stable branches; SET_FLAGS since 6.6.
"""

from __future__ import annotations

import errno
import struct
from fcntl import ioctl

from sandbox.record import dataclass

NOTIF_RECV = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif)
NOTIF_SEND = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp)
NOTIF_ID_VALID = 0x40082102  # _IOW('!', 2, __u64)
NOTIF_SET_FLAGS = 0x40082104  # _IOW('!', 4, __u64)
_FD_SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP

NOTIFICATION_BYTES = 80
RESPONSE_BYTES = 24
DATA_BYTES = 64
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id pid flags; nr arch ip args[6]
_RESPONSE = struct.Struct("=QqiI")  # id val error flags
_IDENTITY = struct.Struct("=Q")
_ZEROES = bytes(NOTIFICATION_BYTES)
_LAST_ERRNO = 4095  # MAX_ERRNO: beyond it a "failure" reads as success in libc

assert _NOTIFICATION.size == NOTIFICATION_BYTES and _RESPONSE.size == RESPONSE_BYTES


@dataclass(frozen=True, slots=True)
class Notification:
    """One system call that waits for an answer.

    `pid` is the calling thread's id in the reader's pid namespace, 0 when it cannot be seen from there. `number` is signed.
    `arch` is an AUDIT_ARCH value. The six arguments are registers as they were: a pointer among them says nothing about what it points to.
    """

    identity: int
    pid: int
    flags: int
    number: int
    arch: int
    instruction_pointer: int
    args: tuple[int, ...]


def check_sizes(sizes: tuple[int, int, int]) -> bool:
    """Tell whether SECCOMP_GET_NOTIF_SIZES names the structures that this module was written for.

    The ioctl numbers carry the structures' sizes, so on a kernel with others RECV and SEND fail with EINVAL.

    Args:
        sizes: bytes of seccomp_notif, seccomp_notif_resp and seccomp_data, as the kernel returned them.
    """
    return sizes == (NOTIFICATION_BYTES, RESPONSE_BYTES, DATA_BYTES)


def notification_buffer() -> bytearray:
    """Return a buffer for `receive_notification`; one per listener is enough."""
    return bytearray(NOTIFICATION_BYTES)


def receive_notification(fd: int, buffer: bytearray) -> Notification | None:
    """Fetch one waiting call; None when its caller died or was interrupted first, or we were.

    Poll for POLLIN before every call: with nothing to fetch, Linux before 6.11 blocks here for ever even when all callers are gone.
    After POLLIN this never blocks as long as nobody else reads from the listener.

    Args:
        fd: the listener, borrowed.
        buffer: from `notification_buffer`.

    Raises:
        OSError: anything but ENOENT and EINTR (EINVAL or ENOTTY: not a listener).
    """
    buffer[:] = _ZEROES  # the kernel refuses a buffer that is not zero
    try:
        ioctl(fd, NOTIF_RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, pid, flags, number, arch, pointer, *args = _NOTIFICATION.unpack_from(buffer)
    return Notification(identity, pid, flags, number, arch, pointer, tuple(args))


def refuse_call(fd: int, identity: int, error: int) -> bool:
    """Make the waiting call fail with an errno; False when there is no such call any more.

    Args:
        fd: the listener, borrowed.
        identity: `Notification.identity`.
        error: a positive errno value, 1 to 4095.

    Raises:
        ValueError: `error` is out of range. Zero would make the refused call look like a success.
        OSError: anything but ENOENT, EINTR and EINPROGRESS.
    """
    if not 1 <= error <= _LAST_ERRNO:
        raise ValueError(f"errno `{error}` is not within 1 to {_LAST_ERRNO}")
    return _send(fd, _RESPONSE.pack(identity, 0, -error, 0))


def answer_call(fd: int, identity: int, value: int) -> bool:
    """Make the waiting call return a value without having been made; False when there is no such call any more.

    Args:
        fd: the listener, borrowed.
        identity: `Notification.identity`.
        value: what it returns, 0 to 2^31 - 1.

    Raises:
        ValueError: `value` is out of range; what is negative would be a failure.
        OSError: anything but ENOENT, EINTR and EINPROGRESS.
    """
    if not 0 <= value < 1 << 31:
        raise ValueError(f"result `{value}` is not within 0 to 2^31 - 1")
    return _send(fd, _RESPONSE.pack(identity, value, 0, 0))


def _send(fd: int, response: bytes) -> bool:
    """Send a response, whose flags are 0, always: see the module's docstring."""
    while True:
        try:
            ioctl(fd, NOTIF_SEND, response)
        except OSError as failure:
            if failure.errno == errno.EINTR:  # nothing was sent yet
                continue
            if failure.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        return True


def notification_is_valid(fd: int, identity: int) -> bool:
    """Tell whether the call still waits, hence whether what was read about its pid was about its caller.

    Args:
        fd: the listener, borrowed.
        identity: `Notification.identity`.
    """
    try:
        ioctl(fd, NOTIF_ID_VALID, _IDENTITY.pack(identity))
    except OSError:
        return False
    return True


def set_sync_wake_up(fd: int) -> bool:
    """Ask the kernel to wake caller and listener on one cpu; False where it cannot.

    Saves the cross-cpu wake-up (4 instead of up to 40 us per call). Since: Linux 6.6.

    Args:
        fd: the listener, borrowed.
    """
    try:
        ioctl(fd, NOTIF_SET_FLAGS, _FD_SYNC_WAKE_UP)
    except OSError:
        return False
    return True
