"""Runs sandboxes for the tests of this directory from a scope of its own: one request per line in, one result per line out, as JSON.

A process of its own, because a test that is in a login session cannot be in a delegated scope as well; and one for all tests, because on an
emulated processor the start of the program takes longer than what it is started for.
"""

import json
import sys

import sandbox
from sandbox.errors import SandboxError

for line in sys.stdin:
    request = json.loads(line)
    try:
        result = sandbox.run(request.pop("argv"), **request)
        answer = {**result.to_dict(), "out": (result.stdout or b"").decode(), "err": (result.stderr or b"").decode()}
    except SandboxError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
