# idea: leave start-up code for the next interpreter: usercustomize, .pth, sitecustomize, .profile
# problem: state
# expect: WA
# naive: AC
import os
import site
import sys

for place in (site.getusersitepackages(), os.path.dirname(os.path.abspath(__file__)), *site.getsitepackages()):
    for name, text in (("usercustomize.py", "import builtins\nbuiltins.SEEN = 1\n"), ("left.pth", "import builtins; builtins.SEEN = 1\n")):
        try:
            os.makedirs(place, exist_ok=True)
            with open(f"{place}/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass
print("second" if "SEEN" in dir(__builtins__) else "first")
sys.stdout.flush()
