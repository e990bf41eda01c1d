"""Every way to get a policy wrong that we could think of, with the whole message that it gets: words, place, and what to do.

Each is also taken the way of a run, which checks nothing before it compiles: none gives a filter, none leaves an entry in the cache.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError, PolicyError, SandboxError
from sandbox.policy import locate
from sandbox.policy.load import load_policy
from sandbox.seccomp.cache import load_filter

Files = str | bytes | dict[str, str]

HEAD = 'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n'
LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'
TOP = 'name = "p"\ndescription = "d"\nextends = ["./low.toml"]\n'
LOW = HEAD.replace('"p"', '"low"')


def rule(syscalls: str, action: str = "allow", **keys: str) -> str:
    lines = [f"syscalls = {syscalls}", f'action = "{action}"']
    lines += [f"{key.rstrip('_')} = {value}" for key, value in keys.items()]
    return "[[rule]]\n" + "\n".join(lines) + "\n"


def when(text: str, syscall: str = "ioctl") -> str:
    return HEAD + rule(f'["{syscall}"]', when=f"'{text}'", else_='"errno EPERM"')


COMPLEX = " or ".join(
    f"({one} & 0x{0x5555555555555555 << at % 2:x} != 0 and {two} > 0x{0x123456789ABCDEF + at:x} and {three} < 0x{0x7EDCBA9876543210 - at:x})"
    for at, (one, two, three) in enumerate(
        [
            ("addr", "len", "prot"), ("len", "prot", "flags"), ("prot", "flags", "addr"), ("flags", "addr", "len"), ("offset", "len", "prot"),
            ("addr", "offset", "flags"),
        ]
    )
)  # fmt: skip

# What is wrong, the file (or the files) and the whole error.
BAD: list[tuple[str, Files, str]] = [
    # TOML and encoding
    (
        "no value",
        "x = \n",
        "policy is not valid TOML: invalid value\n  p.toml:1",
    ),
    (
        "a key twice",
        HEAD + 'default = "allow"\n',
        "policy is not valid TOML: cannot overwrite a value\n  p.toml:4",
    ),
    (
        "text that does not end",
        'name = "p\n',
        "policy is not valid TOML: illegal character '\\n'\n  p.toml:1",
    ),
    (
        "a table that does not end",
        HEAD + "[[rule]\n",
        "policy is not valid TOML: expected ']]' at the end of an array declaration\n  p.toml:4",
    ),
    (
        "no UTF-8",
        HEAD.encode() + b"# \xff\n",
        "policy is not UTF-8\n  p.toml:4",
    ),
    (
        "a byte order mark",
        b"\xef\xbb\xbf" + HEAD.encode(),
        "policy is not valid TOML: invalid statement\n  p.toml:1",
    ),
    (
        "UTF-16",
        HEAD.encode("utf-16"),
        "policy is not UTF-8\n  p.toml:1",
    ),
    (
        "a null byte",
        HEAD + "# \0\n",
        "policy is not valid TOML: found invalid character '\\x00'\n  p.toml:4",
    ),
    (
        "a lone carriage return",
        'name = "p"\rdescription = "d"\n',
        "policy is not valid TOML: expected newline or end of document after a statement\n  p.toml:1",
    ),
    (
        "nested too deep",
        "a = " + "[" * 3000 + "\n",
        "policy is not valid TOML: nested too deeply\n  p.toml",
    ),
    (
        "a number of more than 64 bits",
        HEAD + "x = 0x10000000000000000\n",
        "policy is not valid TOML: number of more than 64 bits\n  p.toml:4",
    ),
    (
        "a number of thousands of digits",
        HEAD + f"x = {'9' * 5000}\n",
        "policy is not valid TOML: number of more than 64 bits\n  p.toml:4",
    ),
    # keys
    (
        "an unknown key",
        HEAD + 'defualt = "allow"\n',
        "unknown key `defualt`\n  p.toml:4, defualt\n\nhint: did you mean `default`?",
    ),
    (
        "an unknown key, nothing near",
        HEAD + "zzz = 1\n",
        "unknown key `zzz`\n  p.toml:4, zzz",
    ),
    (
        "a rule's key at the top",
        HEAD + 'action = "allow"\n',
        "unknown key `action`\n  p.toml:4, action\n\nhint: `action` belongs in a `[[rule]]` table",
    ),
    (
        "a top key in a rule",
        HEAD + rule('["read"]', default='"allow"'),
        "unknown key `default`\n  p.toml:7, rule[1].default\n\nhint: `default` belongs above the first `[[rule]]`",
    ),
    (
        "an unknown key of a rule",
        HEAD + rule('["read"]', wehn='"x"'),
        "unknown key `wehn`\n  p.toml:7, rule[1].wehn\n\nhint: did you mean `when`?",
    ),
    (
        "rules instead of rule",
        HEAD + "[[rules]]\n",
        "unknown key `rules`\n  p.toml:4, rules\n\nhint: did you mean `rule`?",
    ),
    (
        "a rule as one table",
        HEAD + '[rule]\nsyscalls = ["read"]\naction = "allow"\n',
        "rules must be written as `[[rule]]` tables\n  p.toml:4, rule",
    ),
    (
        "rules in an array",
        HEAD + 'rule = [{syscalls = ["read"], action = "allow"}]\n',
        "rules must be written as `[[rule]]` tables\n  p.toml:4, rule",
    ),
    (
        "a rule without syscalls",
        HEAD + '[[rule]]\naction = "allow"\n',
        "rule has no `syscalls`\n  p.toml:4, rule[1]",
    ),
    (
        "a rule without an action",
        HEAD + '[[rule]]\nsyscalls = ["read"]\n',
        "rule has no `action`\n  p.toml:4, rule[1]",
    ),
    # types and names
    (
        "no name",
        'description = "d"\n',
        "policy has no `name`\n  p.toml:1",
    ),
    (
        "no description",
        'name = "p"\n',
        "policy has no `description`\n  p.toml:1",
    ),
    (
        "another name than the file's",
        'name = "q"\ndescription = "d"\n',
        "policy is called `q` but its file `p.toml`\n  p.toml:1, name",
    ),
    (
        "a name in capitals",
        'name = "P"\ndescription = "d"\n',
        "policy name `P` is not lower-case letters, digits and hyphens\n  p.toml:1, name",
    ),
    (
        "an empty description",
        'name = "p"\ndescription = "  "\n',
        "`description` must be text\n  p.toml:2, description",
    ),
    (
        "a number as description",
        'name = "p"\ndescription = 3\n',
        "`description` must be text\n  p.toml:2, description",
    ),
    (
        "default_audit is no boolean",
        HEAD + "default_audit = 1\n",
        "`default_audit` must be true or false\n  p.toml:4, default_audit",
    ),
    (
        "default_audit without default",
        'name = "p"\ndescription = "d"\nextends = ["base"]\ndefault_audit = false\n',
        "`default_audit` without `default`\n  p.toml:4, default_audit",
    ),
    (
        "default_audit of what is not refused",
        HEAD.replace("errno ENOSYS", "allow") + "default_audit = true\n",
        "`audit` goes with `errno` only; to record an allowed call use action `log`\n  p.toml:4, default_audit",
    ),
    (
        "audit is no boolean",
        HEAD + rule('["read"]', "errno EPERM", audit='"no"'),
        "`audit` must be true or false\n  p.toml:7, rule[1].audit",
    ),
    (
        "reason is no text",
        HEAD + rule('["read"]', reason="1"),
        "`reason` must be text\n  p.toml:7, rule[1].reason",
    ),
    (
        "when is no text",
        HEAD + rule('["dup"]', when="1"),
        "`when` must be text\n  p.toml:7, rule[1].when",
    ),
    (
        "syscalls is one name",
        HEAD + rule('"read"'),
        "`syscalls` must be a list of at least one name\n  p.toml:5, rule[1].syscalls",
    ),
    (
        "syscalls is empty",
        HEAD + rule("[]"),
        "`syscalls` must be a list of at least one name\n  p.toml:5, rule[1].syscalls",
    ),
    (
        "syscalls holds a number",
        HEAD + rule('["read", 1]'),
        "`syscalls` must be a list of at least one name\n  p.toml:5, rule[1].syscalls",
    ),
    # extends
    (
        "extends is one name",
        'name = "p"\ndescription = "d"\nextends = "base"\n',
        "`extends` must be a list of policy names\n  p.toml:3, extends",
    ),
    (
        "extends an unknown name",
        'name = "p"\ndescription = "d"\nextends = ["bse"]\n',
        "no policy is called `bse` in `{policies}` and `{own}`\n  p.toml:3, extends\n\nhint: did you mean `base`?",
    ),
    (
        "extends the table of groups",
        'name = "p"\ndescription = "d"\nextends = ["groups"]\n',
        "no policy is called `groups` in `{policies}` and `{own}`\n  p.toml:3, extends",
    ),
    (
        "extends a missing file",
        'name = "p"\ndescription = "d"\nextends = [\n  "base",\n  "./absent.toml",\n]\n',
        "open policy `absent.toml`: No such file or directory (ENOENT)\n  p.toml:5, extends",
    ),
    (
        "extends a directory",
        'name = "p"\ndescription = "d"\nextends = ["./"]\n',
        "open policy ``: not a regular file\n  p.toml:3, extends",
    ),
    (
        "extends a device",
        'name = "p"\ndescription = "d"\nextends = ["/dev/zero"]\n',
        "open policy `/dev/zero`: not a regular file\n  p.toml:3, extends",
    ),
    (
        "extends a path with a null byte",
        'name = "p"\ndescription = "d"\nextends = ["./\\u0000.toml"]\n',
        "open a policy: its path contains a null byte\n  p.toml:3, extends",
    ),
    (
        "extends itself",
        'name = "p"\ndescription = "d"\nextends = ["./p.toml"]\n',
        "policies extend each other in a circle: `p` extends `p`\n  p.toml:3, extends",
    ),
    (
        "a circle of two",
        {"p": TOP, "low": LOW.replace("default", 'extends = ["./p.toml"]\ndefault')},
        "policies extend each other in a circle: `p` extends `low` extends `p`\n  low.toml:3, extends",
    ),
    (
        "extended twice",
        'name = "p"\ndescription = "d"\nextends = [\n"base",\n"base"]\n',
        "`base` is extended twice\n  p.toml:5, extends",
    ),
    (
        "a mistake in a file below",
        {"p": TOP, "low": LOW + rule('["raed"]')},
        "unknown syscall `raed`\n  low.toml:5, rule[1].syscalls[0]\n\nhint: did you mean `read`?",
    ),
    (
        "no default anywhere",
        'name = "p"\ndescription = "d"\n',
        "no `default` in this policy or in any that it extends\n"
        "  p.toml:1\n"
        "\n"
        'hint: add `default = "errno ENOSYS"`: what unknown and newer calls get',
    ),
    # actions
    (
        "an unknown action",
        HEAD.replace("errno ENOSYS", "deny"),
        "unknown action `deny`; known: allow, log, emulate, errno NAME, notify NAME, trap, kill-process\n  p.toml:3, default",
    ),
    (
        "an action in capitals",
        HEAD + rule('["read"]', "ALLOW"),
        "unknown action `ALLOW`; known: allow, log, emulate, errno NAME, notify NAME, trap, kill-process\n"
        "  p.toml:6, rule[1].action\n"
        "\n"
        "hint: did you mean `allow`?",
    ),
    (
        "an action nearly right",
        HEAD + rule('["read"]', "kill_process"),
        "unknown action `kill_process`; known: allow, log, emulate, errno NAME, notify NAME, trap, kill-process\n"
        "  p.toml:6, rule[1].action\n"
        "\n"
        "hint: did you mean `kill-process`?",
    ),
    (
        "an empty action",
        HEAD + rule('["read"]', ""),
        "unknown action ``; known: allow, log, emulate, errno NAME, notify NAME, trap, kill-process\n  p.toml:6, rule[1].action",
    ),
    (
        "errno without a name",
        HEAD + rule('["read"]', "errno"),
        "action `errno` needs one errno name, as in `errno EPERM`\n  p.toml:6, rule[1].action",
    ),
    (
        "errno by number",
        HEAD + rule('["read"]', "errno 1"),
        "unknown errno `1`\n  p.toml:6, rule[1].action",
    ),
    (
        "an unknown errno",
        HEAD + rule('["read"]', "errno EPREM"),
        "unknown errno `EPREM`\n  p.toml:6, rule[1].action\n\nhint: did you mean `EPERM`?",
    ),
    (
        "two errnos",
        HEAD + rule('["read"]', "errno EPERM EACCES"),
        "action `errno` needs one errno name, as in `errno EPERM`\n  p.toml:6, rule[1].action",
    ),
    (
        "allow with an errno",
        HEAD + rule('["read"]', "allow EPERM"),
        "action `allow` takes no `EPERM`\n  p.toml:6, rule[1].action",
    ),
    (
        "audit of what is allowed",
        HEAD + rule('["read"]', audit="true"),
        "`audit` goes with `errno` only; to record an allowed call use action `log`\n  p.toml:7, rule[1].audit",
    ),
    (
        "notify without a record",
        HEAD + rule('["read"]', "notify EPERM", audit="false"),
        "action `notify` is recorded by definition; write `errno` to refuse without a record\n  p.toml:7, rule[1].audit",
    ),
    (
        "else without when",
        HEAD + rule('["read"]', else_='"errno EPERM"'),
        "`else` without `when`\n  p.toml:7, rule[1].else",
    ),
    (
        "else does the same",
        HEAD + rule('["dup"]', when='"fd == 1"', else_='"allow"'),
        "`else` does the same as `action`\n  p.toml:8, rule[1].else",
    ),
    # names of syscalls and groups
    (
        "an unknown syscall",
        HEAD + rule('["read",\n\n "opnat"]'),
        "unknown syscall `opnat`\n  p.toml:7, rule[1].syscalls[1]\n\nhint: did you mean `openat`?",
    ),
    (
        "an unknown syscall, nothing near",
        HEAD + rule('["frobnicate"]'),
        "unknown syscall `frobnicate`\n  p.toml:5, rule[1].syscalls[0]\n\nhint: did you mean `ftruncate`?",
    ),
    (
        "a syscall in capitals",
        HEAD + rule('["OPENAT"]'),
        "unknown syscall `OPENAT`\n  p.toml:5, rule[1].syscalls[0]\n\nhint: did you mean `openat`?",
    ),
    (
        "libc's name of a syscall",
        HEAD + rule('["fstatat"]'),
        "unknown syscall `fstatat`\n  p.toml:5, rule[1].syscalls[0]\n\nhint: that is the C library's name; the system call is `newfstatat`",
    ),
    (
        "an unknown group",
        HEAD + rule('["@klock"]'),
        "unknown group `@klock`\n  p.toml:5, rule[1].syscalls[0]\n\nhint: did you mean `@clock`?",
    ),
    (
        "a group without its @",
        HEAD + rule('["keyring"]'),
        "unknown syscall `keyring`\n  p.toml:5, rule[1].syscalls[0]\n\nhint: did you mean the group `@keyring`?",
    ),
    (
        "an empty name",
        HEAD + rule('["read", ""]'),
        "unknown syscall ``\n  p.toml:5, rule[1].syscalls[1]",
    ),
    (
        "a syscall twice in a rule",
        HEAD + rule('["read", "read"]'),
        "syscall `read` is named twice in this rule, before in line 5 by itself\n  p.toml:5, rule[1].syscalls[1]",
    ),
    (
        "a syscall in a rule, and its group",
        HEAD + rule('["@keyring", "keyctl"]'),
        "syscall `keyctl` is named twice in this rule, before in line 5 with `@keyring`\n  p.toml:5, rule[1].syscalls[1]",
    ),
    # conditions: text
    (
        "an empty condition",
        when(""),
        "condition is empty\n  p.toml:7, rule[1].when",
    ),
    (
        "one equals sign",
        when("cmd = 1"),
        "condition has an unexpected `=`: write `==`\n  p.toml:7, rule[1].when",
    ),
    (
        "nothing to compare with",
        when("cmd == "),
        "condition needs a number or a constant, but ends there\n  p.toml:7, rule[1].when",
    ),
    (
        "no comparison",
        when("cmd"),
        "condition needs a comparison after `cmd`, but ends there\n  p.toml:7, rule[1].when",
    ),
    (
        "the value first",
        when("1 == cmd"),
        "condition needs an argument's name, not `1`\n  p.toml:7, rule[1].when",
    ),
    (
        "two comparisons without a word between",
        when("cmd == 1 cmd == 2"),
        "condition goes on with `cmd` where it should end\n  p.toml:7, rule[1].when",
    ),
    (
        "C's and",
        when("cmd == 1 && fd == 2"),
        "condition goes on with `&` where it should end: write `and`\n  p.toml:7, rule[1].when",
    ),
    (
        "C's or",
        when("cmd == 1 || fd == 2"),
        "condition needs a number or a constant, not `|`; write `or` between comparisons\n  p.toml:7, rule[1].when",
    ),
    (
        "C's not",
        when("!(cmd == 1)"),
        "condition has an unexpected `!`: write `!=` or `not in`\n  p.toml:7, rule[1].when",
    ),
    (
        "quoted constants",
        when('cmd == "TIOCSTI"'),
        'condition has an unexpected `"`: write constants by their names\n  p.toml:7, rule[1].when',
    ),
    (
        "not before a condition",
        when("not cmd == 1"),
        "condition needs an argument's name, not `not`; write `!=` or `not in`\n  p.toml:7, rule[1].when",
    ),
    (
        "and mixed with or",
        when("cmd == 1 and fd == 2 or fd == 3"),
        "condition mixes `and` with `or`: add parentheses\n  p.toml:7, rule[1].when",
    ),
    (
        "a set that does not end",
        when("cmd in {1, 2"),
        "condition needs `}` after the values, but ends there\n  p.toml:7, rule[1].when",
    ),
    (
        "an empty set",
        when("cmd in {}"),
        "condition needs a number or a constant, not `}`\n  p.toml:7, rule[1].when",
    ),
    (
        "a list for a set",
        when("cmd in [1, 2]"),
        "condition has an unexpected `[`: write a set in braces\n  p.toml:7, rule[1].when",
    ),
    (
        "not without in",
        when("cmd not {1}"),
        "condition needs `in` after `not`, not `{`\n  p.toml:7, rule[1].when",
    ),
    (
        "order on a masked argument",
        when("cmd & 3 < 2"),
        "condition uses `<` on a masked argument; a mask goes with `==`, `!=` and `in`\n  p.toml:7, rule[1].when",
    ),
    (
        "a mask of two bits without parentheses",
        when("cmd & 1 | 2 == 0"),
        "condition needs parentheses around a mask of several bits, as in `cmd & (A | B) == 0`\n  p.toml:7, rule[1].when",
    ),
    (
        "C's octal",
        when("cmd == 0777"),
        "condition has `0777`: octal numbers are written `0o777`\n  p.toml:7, rule[1].when",
    ),
    (
        "a malformed number",
        when("cmd == 0x1g"),
        "condition has a malformed number `0x1g`\n  p.toml:7, rule[1].when",
    ),
    (
        "a value of more than 64 bits",
        when("cmd == 0x10000000000000000"),
        "condition has `0x10000000000000000`, which is more than 64 bits\n  p.toml:7, rule[1].when",
    ),
    (
        "a value of thousands of digits",
        when(f"cmd == {'9' * 5000}"),
        "condition has `9999999999999999…`, which is more than 64 bits\n  p.toml:7, rule[1].when",
    ),
    (
        "parentheses without end",
        when("(" * 40 + "cmd == 1" + ")" * 40),
        "condition is nested more than 32 deep\n  p.toml:7, rule[1].when",
    ),
    (
        "a parenthesis too many",
        when("(cmd == 1))"),
        "condition goes on with `)` where it should end\n  p.toml:7, rule[1].when",
    ),
    (
        "a condition of a book's length",
        when("cmd == 1 or " * 700 + "cmd == 2"),
        "condition is longer than 8192 characters\n  p.toml:7, rule[1].when",
    ),
    # conditions: meaning
    (
        "an unknown argument",
        when("cmdd == 1"),
        "syscall `ioctl` has no argument `cmdd`; its arguments: fd, cmd, arg\n  p.toml:7, rule[1].when\n\nhint: did you mean `cmd`?",
    ),
    (
        "an argument of a call that has none",
        when("x == 1", "getpid"),
        "syscall `getpid` has no argument `x`; it has none\n  p.toml:7, rule[1].when",
    ),
    (
        "an argument of one of two calls only",
        HEAD + rule('["ioctl", "dup"]', when="'cmd == 1'", else_='"errno EPERM"'),
        "syscall `dup` has no argument `cmd`; its arguments: fd\n  p.toml:7, rule[1].when",
    ),
    (
        "an unknown constant",
        when("cmd == TIOCSTX"),
        "unknown constant `TIOCSTX`\n  p.toml:7, rule[1].when\n\nhint: did you mean `TIOCSTI`?",
    ),
    (
        "a value wider than an int",
        when("cmd == 0x100005412"),
        "value `0x100005412` does not fit the argument's 32 bits (`ioctl` on x86_64)\n  p.toml:7, rule[1].when",
    ),
    (
        "a value wider than a mode",
        when("mode == 0x10000", "chmod"),
        "value `0x10000` does not fit the argument's 16 bits (`chmod` on x86_64)\n  p.toml:7, rule[1].when",
    ),
    (
        "a value too negative",
        when("cmd == -0x80000001"),
        "value `-0x80000001` does not fit the argument's 32 bits (`ioctl` on x86_64)\n  p.toml:7, rule[1].when",
    ),
    (
        "a value outside the mask",
        when("cmd & 0xf == 0x10"),
        "value `0x10` has bits outside the mask `0xf`, so it can never be equal (`ioctl` on x86_64)\n  p.toml:7, rule[1].when",
    ),
    (
        "a value twice",
        when("cmd in {1, 0x1}"),
        "condition lists a value of `cmd` twice (`ioctl` on x86_64)\n  p.toml:7, rule[1].when",
    ),
    (
        "always",
        when("cmd >= 0"),
        "condition always holds for `ioctl`\n  p.toml:7, rule[1].when\n\nhint: drop the condition",
    ),
    (
        "never",
        when("cmd < 0"),
        "condition never holds for `ioctl`\n  p.toml:7, rule[1].when\n\nhint: drop the rule",
    ),
    (
        "never, by two comparisons",
        when("cmd == 1 and cmd == 2"),
        "condition never holds for `ioctl`\n  p.toml:7, rule[1].when\n\nhint: drop the rule",
    ),
    (
        "always, by two comparisons",
        when("cmd != 1 or cmd != 2"),
        "condition always holds for `ioctl`\n  p.toml:7, rule[1].when\n\nhint: drop the condition",
    ),
    (
        "an order from a negative number on",
        when("niceval >= -5", "setpriority"),
        "`niceval >= -5` orders unsigned numbers, of which `-5` is one of the largest\n"
        "  p.toml:7, rule[1].when\n\nhint: list the values, as in `niceval in {-2, -1, 0}`",
    ),
    (
        "an order from a negative constant on",
        when("dfd < AT_FDCWD", "openat"),
        "`dfd < AT_FDCWD` orders unsigned numbers, of which `AT_FDCWD` is one of the largest\n"
        "  p.toml:7, rule[1].when\n\nhint: list the values, as in `dfd in {-2, -1, 0}`",
    ),
    (
        "either of two constants, in C's words",
        when("family == AF_UNIX | AF_INET", "socket"),
        "`family` of `socket` holds one of its constants, and `AF_UNIX | AF_INET` is a number of its own, not either of them\n"
        "  p.toml:7, rule[1].when\n\nhint: for any of them write `family in {AF_UNIX, AF_INET}`",
    ),
    (
        "either of two constants, in a list",
        when("register(cmd) in {TCGETS, (TCSETS | TCSETSW)}"),
        "`cmd` of `ioctl` holds one of its constants, and `(TCSETS | TCSETSW)` is a number of its own, not either of them\n"
        "  p.toml:7, rule[1].when\n\nhint: for any of them write `cmd in {TCSETS, TCSETSW}`",
    ),
    (
        "what a pointer points to",
        when("filename == 5", "open"),
        "argument `filename` of `open` is a pointer; a filter cannot see what it points to\n"
        "  p.toml:7, rule[1].when\n"
        "\n"
        "hint: a pointer can only be compared with 0, by `==` or `!=`",
    ),
    (
        "the order of pointers",
        when("filename > 0", "open"),
        "argument `filename` of `open` is a pointer; a filter cannot see what it points to\n"
        "  p.toml:7, rule[1].when\n"
        "\n"
        "hint: a pointer can only be compared with 0, by `==` or `!=`",
    ),
    (
        "refusing by a register that the command types",
        when("cmd == F_SETFL and arg != 1", "fcntl"),
        "argument `arg` of `fcntl` has a type that depends on another argument, so refusing values of it can be bypassed\n"
        "  p.toml:7, rule[1].when\n"
        "\n"
        "hint: allow exact values instead: action `allow` with `==` or `in`, and `else`",
    ),
    (
        "a register's number out of range",
        when("register(6) == 1"),
        "condition needs an argument's name or a register's number, 0 to 5, in `register(...)`\n  p.toml:7, rule[1].when",
    ),
    (
        "an unknown argument's register",
        when("register(cmdd) == 1"),
        "syscall `ioctl` has no argument `cmdd`; its arguments: fd, cmd, arg\n  p.toml:7, rule[1].when\n\nhint: did you mean `cmd`?",
    ),
    # rules against each other
    (
        "undecided calls",
        HEAD + rule('["dup"]', when='"fd == 1"'),
        "no rule decides the calls of `dup` for which this condition does not hold\n"
        "  p.toml:5, rule[1]\n"
        "\n"
        'hint: add `else`, as in `else = "errno EPERM"`',
    ),
    (
        "repeated",
        HEAD + rule('["dup"]') + rule('["dup"]'),
        "syscall `dup` is repeated here: line 5 of this file already decides all its calls\n"
        "  p.toml:8, rule[2]; earlier: p.toml:5, rule[1]",
    ),
    (
        "shadowed",
        HEAD + rule('["dup"]') + rule('["dup"]', "errno EPERM"),
        "syscall `dup` is shadowed here: line 5 of this file already decides all its calls\n"
        "  p.toml:8, rule[2]; earlier: p.toml:5, rule[1]",
    ),
    (
        "shadowed by a group",
        HEAD + rule('["@keyring"]') + rule('["keyctl"]', "errno EPERM"),
        "syscall `keyctl` is shadowed here: line 5 of this file (through `@keyring`) already decides all its calls\n"
        "  p.toml:8, rule[2]; earlier: p.toml:5, rule[1]\n"
        "\n"
        "hint: a syscall named by itself must come before the group it is in",
    ),
    (
        "a group twice",
        HEAD + rule('["@keyring"]') + rule('["@keyring"]', "errno EPERM"),
        "syscall `add_key` is shadowed here through `@keyring`: line 5 of this file (through `@keyring`) already decides all its calls\n"
        "  p.toml:8, rule[2]; earlier: p.toml:5, rule[1]",
    ),
    (
        "shadowed by conditions",
        HEAD
        + rule('["ioctl"]', "trap", when='"cmd in {1, 2, 3}"')
        + rule('["ioctl"]', "allow", when='"cmd == 2"')
        + rule('["ioctl"]', "errno EPERM"),
        "rule is shadowed for `ioctl`: earlier rules already decide every call it could match\n"
        "  p.toml:8, rule[2]; earlier: p.toml:4, rule[1]",
    ),
    (
        "shadowed in a file below",
        {
            "p": TOP + rule('["ioctl"]', "errno EPERM"),
            "low": LOW
            + rule('["ioctl"]', "trap", when='"cmd in {1, 2}"')
            + rule('["ioctl"]', "log", when='"cmd == 2"')
            + rule('["ioctl"]', "errno EPERM"),
        },
        "rule is shadowed for `ioctl`: earlier rules already decide every call it could match\n"
        "  low.toml:8, rule[2]; earlier: low.toml:4, rule[1]",
    ),
    (
        "a permission that changes nothing",
        {
            "p": TOP + rule('["ioctl"]', when='"cmd == TCGETS"'),
            "low": LOW + rule('["ioctl"]', when='"cmd in {TCGETS, FIONREAD}"', else_='"errno EPERM"'),
        },
        "rule changes nothing for `ioctl`: what lies below already decides these calls in the same way\n"
        "  p.toml:4, rule[1]; below: low.toml:4, rule[1]\n"
        "\n"
        "hint: to make this rule the whole decision for the syscall, add `else`",
    ),
    (
        "conditions that are too complex",
        HEAD + LAUNCH + rule('["mmap"]', when=f"'{COMPLEX}'", else_='"errno EPERM"'),
        "compile policy `p` for x86_64: the kernel would refuse the filter: a program has 1 to 4096 instructions, not 7125",
    ),
    # compile only
    (
        "a launch call is missing",
        HEAD + LAUNCH.replace('"execve", ', ""),
        "compile policy `p` for x86_64: syscall `execve` must be allowed unconditionally, the launch itself needs it\n"
        "  p.toml\n"
        "\n"
        'hint: extend `base`, which allows it: `extends = ["base"]`',
    ),
    (
        "a launch call is refused",
        HEAD + LAUNCH.replace('"execve", ', "") + rule('["execve"]', "errno EPERM"),
        "compile policy `p` for x86_64: syscall `execve` must be allowed unconditionally, the launch itself needs it\n"
        "  p.toml:7, rule[2]\n"
        "\n"
        'hint: extend `base`, which allows it: `extends = ["base"]`',
    ),
    (
        "a launch call has a condition",
        HEAD + LAUNCH.replace('"write", ', "") + rule('["write"]', when='"fd == 1"', else_='"errno EPERM"'),
        "compile policy `p` for x86_64: syscall `write` must be allowed unconditionally, the launch itself needs it\n"
        "  p.toml:7, rule[2]\n"
        "\n"
        'hint: extend `base`, which allows it: `extends = ["base"]`',
    ),
]


def write(folder: Path, files: Files) -> str:
    for name, text in (files if isinstance(files, dict) else {"p": files}).items():
        (folder / f"{name}.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"{folder}/p.toml"


def test_there_are_many() -> None:
    assert len(BAD) == len({title for title, _, _ in BAD}) > 100


@pytest.mark.parametrize(("title", "files", "expected"), BAD, ids=[title for title, _, _ in BAD])
def test_bad_policy_has_its_message_and_no_filter(
    title: str, files: Files, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = write(tmp_path, files)
    expected = expected.replace("{policies}", locate.data_path("policies")).replace("{own}", f"{tmp_path}/config/sandbox/policies")

    def take(*, check: bool) -> str:
        with pytest.raises(SandboxError) as caught:
            load_filter(load_policy(path, check=check), Arch.X86_64, cache_dir=str(tmp_path / "cache"))
        assert isinstance(caught.value, (PolicyError, CompileError)) and caught.value.exit_code == 125
        return str(caught.value).replace(f"{tmp_path}/", "")

    found = take(check=True)
    assert found == expected.replace(f"{tmp_path}/", "")
    # A run reads without checking, and compiling checks: the same error, unless the launch's own calls are missed first.
    assert take(check=False) == found or "must be allowed unconditionally" in take(check=False)
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())
