"""How a package is judged: the walk through its groups, workers over submissions and cases, re-runs near a limit, checks of the package itself.

Only `sandbox.judge.packages` composes these with the rooms that build, run, check and grade; each of them works with fakes as well.
"""
