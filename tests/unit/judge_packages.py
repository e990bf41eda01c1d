"""Problem packages in a few words, for tests: a base of each format, and what is written over it."""

from __future__ import annotations

import os
from pathlib import Path


class Link(str):
    """A symbolic link with this target."""

    __slots__ = ()


Content = str | bytes | Link | None
Files = dict[str, Content]

LEGACY: Files = {
    "problem.yaml": "name: Sum\n",
    "data/sample/1.in": "1 2\n",
    "data/sample/1.ans": "3\n",
    "data/secret/01.in": "2 2\n",
    "data/secret/01.ans": "4\n",
    "submissions/accepted/a.py": "print(sum(map(int, input().split())))\n",
    "input_validators/v.py": "import sys; sys.exit(42)\n",
}
NEW: Files = {
    **LEGACY,
    "problem.yaml": "problem_format_version: 2025-09\nname: Sum\nuuid: 5ca6ba5b-36d5-4eff-8aa7-d967cbc4375e\n",
}
SCORING: Files = {
    "problem.yaml": "name: Sum\ntype: scoring\n",
    "data/testdata.yaml": "on_reject: continue\nrange: 0 100\ngrader_flags: ignore_sample\n",
    "data/sample/testdata.yaml": "on_reject: continue\nrange: 0 0\naccept_score: 0\ngrader_flags: first_error\n",
    "data/sample/1.in": "1 2\n",
    "data/sample/1.ans": "3\n",
    "data/secret/testdata.yaml": "on_reject: continue\nrange: 0 100\ngrader_flags: first_error accept_if_any_accepted\n",
    **{
        f"data/secret/g{group}/{name}": text
        for group, score in ((1, 40), (2, 60))
        for name, text in (
            ("testdata.yaml", f"on_reject: break\naccept_score: {score}\nrange: 0 {score}\ngrader_flags: min\n"),
            ("a.in", "1 2\n"),
            ("a.ans", "3\n"),
            ("b.in", "1 3\n"),
            ("b.ans", "4\n"),
        )
    },
    "submissions/accepted/a.py": "print(sum(map(int, input().split())))\n",
}
NEW_SCORING: Files = {
    **{name: content for name, content in SCORING.items() if not name.endswith("testdata.yaml")},
    "problem.yaml": "problem_format_version: 2025-09\ntype: scoring\nname: Sum\nuuid: 5ca6ba5b-36d5-4eff-8aa7-d967cbc4375e\n",
    "data/secret/g1/test_group.yaml": "max_score: 40\n",
    "data/secret/g2/test_group.yaml": "max_score: 60\nscore_aggregation: min\nrequire_pass: [sample, secret/g1]\n",
}


def make_package(where: Path, base: Files) -> str:
    """Write files below `where`/sum and return that path; None takes a file away."""
    root = where / "sum"
    for name, content in base.items():
        if content is None:
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
        if path.name in ("build", "run"):
            os.chmod(path, 0o755)
    return str(root)
