# idea: brackets deeper than the parser's stack
# problem: one
# expect: CE|NZE|RTE
# made: deep
