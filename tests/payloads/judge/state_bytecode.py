# idea: poison the bytecode cache of a standard module, of the program and of Python's own cache prefix
# problem: state
# expect: WA
# naive: AC
import importlib.util
import marshal
import os
import sys
import sysconfig

here = os.path.dirname(os.path.abspath(__file__))
code = marshal.dumps(compile("SEEN = True", "helper.py", "exec"))
sys.path.insert(0, here)
try:
    import helper_of_the_first_run as helper
except ImportError:
    helper = None
for place in (here, sysconfig.get_path("stdlib"), os.path.expanduser("~"), "/usr/lib/python3/dist-packages"):
    for name in ("helper_of_the_first_run.pyc", f"__pycache__/this.{sys.implementation.cache_tag}.pyc"):
        try:
            os.makedirs(os.path.dirname(f"{place}/{name}"), exist_ok=True)
            with open(f"{place}/{name}", "wb") as file:
                file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + code)
        except OSError:
            pass
print("second" if helper else "first")
