# idea: the judge forgot to close a descriptor of the answer
# problem: secret
# expect: WA
# naive: AC
import os

for number in range(3, 1024):
    try:
        print(os.pread(number, 4096, 0).decode())
        break
    except OSError:
        pass
else:
    print("nothing")
