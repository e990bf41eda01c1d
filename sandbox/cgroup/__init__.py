"""Backends for the limits of one run: cgroup v2, cgroup v1, and what is left where there is neither.

`model` has the protocol that all backends speak, `find` chooses one. `supervise` and `api` import this room;
it imports kernel, policy, result, errors and the standard library, and decides no policy: it applies limits that it is given,
or refuses.
"""
