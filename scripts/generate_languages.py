#!/usr/bin/env python3
"""Write docs/reference/languages.md from the definitions of languages.

A unit test compares; after a change of a definition run this script.
"""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sandbox.judge.languages.definition import Language, Toolchain  # noqa: E402
from sandbox.judge.languages.table import UNDEFINED, Languages, load_languages  # noqa: E402
from sandbox.units import format_size  # noqa: E402

TARGET = ROOT / "docs" / "reference" / "languages.md"
HEAD = """# Languages of the judge

The {count} languages that `sandbox judge` knows. Written by `scripts/generate_languages.py` from the definitions in `sandbox/judge/languages/`, one file
each; [how to add one](../how-to/add-a-language.md). `sandbox judge languages` says which of them are here
([manual page](../man/sandbox-judge-languages.1.md)); a submission in one that is not is named as not judged.

## Which language a program is in

Ids are those of the Kattis problem package format. A stated language counts (`language` in `submissions.yaml`). Else each file tells of a language by its
extension, unless its first line is a `#!` of an interpreter that shares the extension: `.py` is Python 3 unless it says `python2`, `.pl` is Prolog unless it
says `perl`. Extensions in parentheses are of source files, but tell of no language. Most files win, then the higher priority.

The entry point is the stated one; else, of the package's included files and then of all sources, the default name, then `main.*`, then the first by name.
For Java, Kotlin and Scala the compiled classes are read: of those with a method `public static void main(String[])` the default name counts, then the one
named like the main file, then the first.

A submission that is text (`judge.Task`) has no file's name. In Java it is that of the public class, in Erlang and Modula-2 that of the module, as their
compilers want it (`named-after` in a definition); comments and texts are passed over, and a name of other than ASCII letters, digits and `_` does not count.

## How a program is built

- The compiler runs under the profile `judge-compile`: it sees the sources, in `/judge/program`, and the system read-only; no test data, no other submission,
  no variable of the caller's, no network. Its limits are the package's compilation limits; passing one is a compile error with the limit's name. A
  compiler that does not compile the definition's own program either is the judge's fault.
- Names of files reach the compiler only in a form that none reads as an option (`-o`) or as a list of arguments (`@file`), and no shell reads them.
- When every process in there is dead the files are read, no link followed, and kept below `~/.cache/sandbox/judge/compiled` by a digest of all that went in:
  each file's name and bytes, the definition, the compiler's path, inode, size and time, what it calls its version, what the package manager has installed,
  profile and policy, the package's compilation limits, version of `sandbox`, processor. At every use every byte, name, mode and owner is compared; a program
  that differs is compiled again,
  which is said.
- Against whoever has the user's own id this is no help: he can write entry and digests, as he can the compiler's own files.
- The program runs with its files read-only in `/judge/program`, in an empty working directory elsewhere.
- Programs of packages (validators, graders) may bring the scripts `build` and `run` instead. `build` runs under `judge-compile` as well.

Memory: `{{memory}}` in a command is the memory limit in MiB. A virtual machine's own needs are added to the limit of its sandbox (*extra*), not to what
the program may use. Stacks are as large as the memory limit under `judge`; Java, Kotlin and Scala get 64 MiB.

Where the limits of memory are kept by rlimits and sampling ([limits without cgroups](../explanation/limits-without-cgroups.md)), address space is not
limited: virtual machines reserve far more than they touch.
"""
TRIED = """
## What was tried

Each of them but Python 2 was compiled and run on Debian 12, as root with cgroups v1 and as an ordinary user without any, by
`sandbox judge languages --check`; Zig 0.13 of PyPI, GNU Smalltalk of Debian 11, Swift 6.0 of Debian 13 (on that), and
.NET's compilers of C# and Visual Basic of the SDK 2.2, which npm has.
{surveys} also by a program of several files, with recursion and, where the language has them, threads: `tests/kernel/test_judge_building.py`.

Not defined are those of the format's table that could not be tried here: {undefined}; a submission in one of them is named as not judged.
.NET's compilers are called without a project, with the libraries of the runtime named one by one. Checktestdata and VIVA are for scripts of input validators.

A program of more than 64 MiB of files is a compile error. Headers that a tool of its own brings, such as BAPCtools' `validation.h`, are not here; a package
that has them beside its sources needs none.

Go from 1.20 on compiles the standard library with each program, some seconds of CPU time; Crystal's release build takes 20 s and more, Zig 12 s.
"""


def render(languages: Languages) -> str:
    """Return the document."""
    text = HEAD.format(count=len(languages))
    text += "\n## The table\n\n| id | language | files | default entry point | extra memory | priority |\n|---|---|---|---|---|---|\n"
    for each in languages:
        files = " ".join([*(f"`{name}`" for name in each.extensions), *(f"(`{name}`)" for name in each.shared)])
        memory = format_size(each.memory_extra_bytes) if each.memory_extra_bytes else ""
        main = ", ".join(f"`{name}`" for name in each.main)
        text += f"| `{each.id}` | {each.name} | {files} | {main} | {memory} | {each.priority} |\n"
    text += "\n## Commands\n\nOf several toolchains the first whose programs are all here is used.\n"
    for each in languages:
        text += f"\n### {each.name}\n\n"
        for toolchain in each.toolchains:
            text += "```text\n" + _commands(each, toolchain) + "```\n"
    surveys = sorted(path.name for path in (ROOT / "tests" / "data" / "judge-languages").iterdir())
    names = [languages.find(identity).name for identity in surveys]
    return text + TRIED.format(surveys=", ".join(names[:-1]) + f" and {names[-1]} were", undefined=", ".join(UNDEFINED))


def _commands(language: Language, toolchain: Toolchain) -> str:
    lines = [("needs", ", ".join(" or ".join(candidates) for candidates in toolchain.needs.values()))]
    if toolchain.compile:
        lines.append(("compile", _words(toolchain.compile)))
    lines.append(("run", _words(toolchain.run)))
    for key, variables in (("while compiling", toolchain.compile_environment), ("while running", toolchain.environment)):
        if variables:
            lines.append((key, " ".join(f"{name}={quote(value)}" for name, value in variables.items())))
    if toolchain.mounts:
        lines.append(("mounts", " ".join(toolchain.mounts)))
    return "".join(f"{key}: {value}\n" for key, value in lines)


def _words(words: tuple[str, ...]) -> str:
    return " ".join("'…'" if "\n" in word else word if not any(each in word for each in " '\"$;(&") else quote(word) for word in words)


def main() -> int:
    """Write the document."""
    TARGET.write_text(render(load_languages(environ={})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
