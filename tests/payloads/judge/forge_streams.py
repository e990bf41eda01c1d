# idea: write the answer to standard input and read it back from standard output
# problem: custom
# expect: WA
# naive: -
# control: nothing to be had where streams are pipes
import os
import select

for number in (0, 2):
    try:
        os.write(number, b"answer\n")
    except OSError:
        pass
if select.select([1], [], [], 0)[0]:
    try:
        print(os.read(1, 4096))
    except OSError:
        pass
print("wrong")
