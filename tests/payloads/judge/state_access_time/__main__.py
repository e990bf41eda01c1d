# idea: reading a file that both runs share moves its access time
# problem: state
# expect: WA
# naive: -
# control: tests/escape/test_judge_submissions.py::test_a_writable_mount_carries_access_times
import os

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "note.txt")
before = os.stat(path)
open(path).read()
print("second" if before.st_atime_ns > before.st_mtime_ns and before.st_atime_ns > os.stat(__file__).st_ctime_ns else "first")
