"""``./dev bench``: `beside` (the default), `launch`, `steps`, `syscalls`, `proofs` and more; README.md beside this file has the how and the what for."""

from __future__ import annotations

import argparse
import sys

from beside.main import add_arguments as beside_arguments
from humaneval import add_arguments as humaneval_arguments
from judge import add_arguments as judge_arguments
from overlay import add_arguments as overlay_arguments


def main() -> int:
    """Parse the words and call the measurement."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="measure what a sandbox costs")
    verbs = parser.add_subparsers(dest="verb")
    for name, runs, text in (
        ("launch", 50, "native, bwrap, sandbox.run and sandbox exec in paired rounds: a minute"),
        ("entry", 200, "a launch with and without its entry among the running ones"),
        ("steps", 50, "where the time of one launch goes, step by step"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--rounds", type=int, default=runs, metavar="N", help=f"how many times (default {runs})")
        verb.add_argument("--profile", default="strict", metavar="NAME")
        verb.add_argument("command", nargs="*", default=["/bin/true"], metavar="CMD", help="what to run, after `--` (default: /bin/true)")
        if name in ("launch", "entry"):
            verb.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    calls = verbs.add_parser("syscalls", help="what filters cost: getpid, read, openat, futex, fcntl, ioctl, and installing")
    calls.add_argument("--rounds", type=int, default=60, metavar="N", help="how many times (default 60)")
    calls.add_argument("--docker", metavar="FILE", help="Docker's default profile, seccomp/default.json of moby/profiles")
    calls.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    calls.add_argument("policies", nargs="*", default=["strict", "default"], metavar="POLICY")
    late = verbs.add_parser("overshoot", help="how long after a limit the last process is gone, beside isolate and nsjail")
    late.add_argument("--rounds", type=int, default=200, metavar="N", help="how many times (default 200)")
    late.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    late.add_argument("--only", default="", metavar="TEXT", help="scenes whose name has this text")
    truth = verbs.add_parser("cputime", help="CPU time as reported beside getrusage of the same program outside")
    truth.add_argument("--rounds", type=int, default=50, metavar="N", help="how many times (default 50)")
    truth.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    proof = verbs.add_parser("proofs", help="how long each shipped policy takes to be compiled and proven")
    proof.add_argument("--rounds", type=int, default=3, metavar="N", help="how many times (default 3)")
    talk = verbs.add_parser("dialogue", help="a round trip through the relay of interactive problems, beside two plain pipes")
    talk.add_argument("--rounds", type=int, default=15, metavar="N", help="how many times (default 15)")
    talk.add_argument("--trips", type=int, default=5000, metavar="N", help="round trips of a dialogue (default 5000)")
    talk.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    beside = verbs.add_parser("beside", help="every tier beside every other sandbox that is installed (the default)")
    beside_arguments(beside)
    where = verbs.add_parser("profile", help="what bounds throughput, by perf; needs root")
    where.add_argument("--tier", default="template", metavar="NAME", help="a row of ours (default template)")
    where.add_argument("--seconds", type=float, default=6, metavar="S", help="how long (default 6)")
    where.add_argument("--at-once", type=int, default=2, metavar="N", help="runs at a time (default 2)")
    where.add_argument("--user", required=True, metavar="NAME", help="whose sandboxes they are")
    where.add_argument("--of", default="", metavar="PART", help="also which functions a part of the table is made of")
    tasks = verbs.add_parser("humaneval", help="HumanEval's tasks by a loop without a sandbox, cold sandboxes and warm interpreters")
    humaneval_arguments(tasks)
    layers = verbs.add_parser("overlay", help="20,000 files and a build on an overlay root, beside none and beside podman")
    overlay_arguments(layers)
    judged = verbs.add_parser("judge", help="a package of 100 tests × 20 submissions beside problemtools, and CPU times beside isolate")
    judge_arguments(judged)
    peers = verbs.add_parser("peers", help="beside other sandboxes, by peers.py", add_help=False)
    peers.add_argument("peers", metavar="PEERS.PY")
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["beside", *words]
    known, rest = parser.parse_known_args(words)
    if known.verb == "beside":
        from beside.main import main as beside_main

        return beside_main(known)
    if known.verb == "humaneval":
        from humaneval import main as humaneval_main

        return humaneval_main(known)
    if known.verb == "overlay":
        from overlay import main as overlay

        return overlay(known)
    if known.verb == "judge":
        from judge import main as judge

        return judge(known)
    if known.verb == "peers":
        from compare import main as compare

        return compare(known.peers, rest)
    if known.verb == "profile":
        from where import main as profile

        return profile(known.tier, known.seconds, known.at_once, known.user, known.of)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    if known.verb == "overshoot":
        from overshoot import main as overshoot

        return overshoot(known.rounds, known.seed, known.only)
    if known.verb == "cputime":
        from cputime import main as cputime

        return cputime(known.rounds, known.seed)
    if known.verb == "steps":
        from steps import main as steps

        return steps(known.rounds, known.profile, tuple(known.command))
    if known.verb == "entry":
        from entry import main as entry

        return entry(known.rounds, known.profile, tuple(known.command), known.seed)
    if known.verb == "syscalls":
        from syscalls import main as syscalls

        return syscalls(known.rounds, tuple(known.policies), known.docker, known.seed)
    if known.verb == "dialogue":
        from dialogue import main as dialogue

        return dialogue(known.rounds, known.trips, known.seed)
    if known.verb == "proofs":
        from proofs import main as proofs

        return proofs(known.rounds)
    from launch import main as launch

    return launch(known.rounds, known.profile, tuple(known.command), known.seed)


if __name__ == "__main__":
    raise SystemExit(main())
