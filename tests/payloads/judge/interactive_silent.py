# idea: both wait for the other one
# problem: interactive
# expect: WTL
import sys

sys.stdin.read()
