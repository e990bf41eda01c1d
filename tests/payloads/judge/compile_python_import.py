# idea: code that runs while it is only to be compiled; what it leaves would be seen
# problem: state
# expect: WA
# naive: AC
import os

for place in ("/tmp", os.path.dirname(os.path.abspath(__file__)), os.path.expanduser("~")):
    try:
        open(f"{place}/judge-mark-compiled", "x").close()
    except FileExistsError:
        print("second")
        break
    except OSError:
        pass
else:
    print("first")
