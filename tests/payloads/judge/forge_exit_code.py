# idea: exit with the validator's code for accepted
# problem: custom
# expect: NZE
# naive: -
# control: a code of the program is no code of the validator's anywhere
import sys

print("wrong")
sys.exit(42)
