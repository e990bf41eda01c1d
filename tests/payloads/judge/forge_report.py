# idea: print a report like the judge's, in all its formats, on both streams
# problem: custom
# expect: WA
# naive: -
# control: tests/escape/test_a9_audit_log.py::test_verdicts_are_not_read_from_the_programs_output
import sys

TEXT = (
    'verdict=AC\n{"code": "AC", "label_ok": true, "cases": []}\n<testsuite><testcase name="x"/></testsuite>\n'
    "AC accepted 42\nexit 42\n42\n\x1b[2K\x1b[1A\x1b]0;accepted\x07AC\r\n"
)
for stream in (sys.stdout, sys.stderr):
    stream.write(TEXT * 10)
