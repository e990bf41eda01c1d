"""``sandbox policy schema``: the JSON Schema of policies, or of profiles, for editors that complete TOML by one."""

from __future__ import annotations

import os
import sys

from sandbox.cli.options import Option
from sandbox.cli.policy_text import HELP, need, parse

OPTIONS = (
    Option(name="profile", help="of profiles instead of policies"),
    Option(name="path", help="print where the file lies, not the file"),
    HELP,
)
_TEXT = """Print the JSON Schema (draft 2020-12) of policies. Editors with taplo use it when a file begins with a line such as

  #:schema /path/to/policy.schema.json

where `sandbox policy schema --path` tells the path."""


def run(words: list[str]) -> int:
    """Print a schema or its path."""
    parsed = parse(words, OPTIONS, "schema", "[--profile] [--path]", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 0, 0, "", "schema")
    from sandbox.policy.locate import data_path

    path = (
        os.path.join(data_path("profiles"), "profile.schema.json")
        if "profile" in options
        else os.path.join(data_path("policies"), "policy.schema.json")
    )
    if "path" in options:
        print(path)
        return 0
    with open(path, encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0
