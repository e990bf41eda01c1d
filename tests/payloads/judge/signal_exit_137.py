# idea: exit with the code that shells give for a kill
# problem: one
# expect: NZE
raise SystemExit(137)
