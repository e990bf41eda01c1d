# idea: so do POSIX message queues
# problem: state
# expect: WA
# naive: -
# control: tests/escape/test_a8_network_and_ipc.py::test_nothing_of_it_outlives_the_run
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
seen = libc.mq_open(b"/judge-mark", 0) >= 0
libc.mq_open(b"/judge-mark", 0o102, 0o666, None)
print("second" if seen else "first")
