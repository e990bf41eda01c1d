"""Bytes as a profile file: only `PolicyError` may come out; what is accepted holds what a second TOML parser reads.

An even first byte: the rest is the file. An odd one: the rest decides how a mostly right file is built.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz.choose import Bytes
    from fuzz.policies import check_error, outcome, write_files
    from sandbox.errors import PolicyError
    from sandbox.policy.profile import Profile
    from sandbox.policy.profile_load import load_profile

HUGE = "9" * 4400  # more decimal digits than Python reads

# key: values, right ones and wrong ones.
KEYS: dict[str, tuple[str, ...]] = {
    "description": ('"d"', '""', "1", '"two\\nlines"', '"""\nx"""'),
    "extends": ('"strict"', '["strict"]', '["default", "strict"]', '"./p.toml"', '"nosuch"', '["strict", 1]', '""', '"\\u0000"', '"a/b"', '"a/\\u0000"'),
    "policy": ('"strict"', '"./x.toml"', '""', "[]"),
    "landlock": ('"required"', '"off"', '"best-effort"', '"on"', "true"),
    "fallback": ('["memory"]', '["memory", "memory"]', '["cpu", "processes"]', '["output"]', '"memory"'),
    "limits.wall": ('"10s"', '"0s"', '"none"', "10", '"1e9s"', "1.5", '"99999999999999999999h"', "nan", "inf", "-1", f'"{HUGE}.5s"', '"5ms"', "true", '"١s"'),
    "limits.cpu": ('"1m"', '"none"', "[]"),
    "limits.idle": ('"10s"', '"none"', "0", '"1ms"'),
    "limits.cpus": ("1.5", '"0.01"', "0", "1e3", '"none"', "8193", "0.0000001", HUGE),
    "limits.cpu-weight": ("100", "0", "10001", '"none"'),
    "limits.cpuset": ('"0-3,5"', "0", "[0, 1]", "[]", '"none"', '"3-1"', '"0-99999"', "[8192]", '",,"', "[true]", '"²"'),
    "limits.nice": ("0", "19", "-1", "20"),
    "limits.io-priority": ('"idle"', '"best-effort:7"', '"best-effort:8"', '"idle:1"', '"none"', "1"),
    "limits.io": (
        '{ device = "/dev/sda", read = "10M" }', '"/dev/sda,read=10M,write-iops=100;8:0,read=5M"', '"none"', "{}", "[]", '{ device = "/dev/sda" }', '";"',
        '[{ device = "a", read-iops = 0 }, { device = "a", write = 4095 }]', '"/dev/sda,read-iops=²"', f'"/dev/sda,read-iops={HUGE}"', '"a,b=c,b=d"',
    ),
    "limits.memory": ('"64M"', '"none"', '"1"', '"18446744073709551616"', '"1.5G"', "-1", "0x10", "1e400", HUGE, f'"{HUGE}"', f'"{HUGE}.5"', '"1_0M"'),
    "limits.processes": ("8", "0", "true", '"8"', HUGE, f"0x{HUGE}", "4194305", '"none"', "9223372036854775808"),
    "limits.open-files": ("64", "7", "1.0"),
    "limits.output": ('"1M"', "0", '"none"'),
    "limits.tmp": ('"4K"', '"none"', '"1"'),
    "limits.tmp-inodes": ("8", "7", "4294967297"),
    "mounts.cwd": ('"ro"', '"rw"', '"no"', '"yes"'),
    "mounts.volumes": (
        '[{ source = "/srv", target = "/in" }]', '[{ source = "/srv" }, { source = "/srv" }]', "[{}]", '[{ source = "a" }]', '[{ source = "~" }]', "{}",
        '[\n{ source = "/a", target = "/b", writable = true },\n{ source = "/c", target = "/b" },\n]', '[{ source = "/a", target = "/proc/1" }]',
        '[{ source = "\\u0000" }]', '[{ source = "~nobody/x", target = "/b/../c" }]', '[{ source = "/a", taget = "/b" }]',
    ),
    "mounts.etc": ('["ssl/certs"]', '["/etc/passwd"]', '["../x"]', '["*"]', '["a", "/etc/a"]', '[""]'),
    "mounts.system": ('["/usr"]', '["/etc"]', '["/"]', '["usr"]', "[]"),
    "environment.pass": ('["LANG", "LC_*"]', '["*"]', '["A B"]', '["LANG", "LANG"]'),
    "environment.set": ('{ A = "b" }', "{ A = 1 }", '{ "1" = "b" }', '{ A.B = "c" }', '{ A = "\\u0000" }', "[]"),
    "namespaces.proc": ('"minimal"', '"full"', '"none"', '"all"'),
    "namespaces.network": ('"none"', '"loopback"', '"host"'),
    "namespaces.time": ("true", "false", "1"),
    "namespaces.nested": ("false", "true", '""'),
    "namespaces.ids": ('"single"', '"range"', "[]"),
    "identity.hostname": ('"h"', '"-"', '"a.b"', '""', f'"{"a" * 65}"'),
    "identity.user": ('"me"', '"root"', '"A"', '""'),
    "identity.uid": ("1000", "0", "65534", "-1"),
    "identity.gid": ("1000", '"1"'),
    "identity.home": ('"/home/me"', '"/"', '"/home"', '"/etc/x"', '"/home/me/"', '"home"'),
}  # fmt: skip
TABLES = ("limits", "mounts", "environment", "namespaces", "identity")
WORDS = (*KEYS, *(f"[{table}]" for table in TABLES), "[[mounts.volumes]]", *{value for values in KEYS.values() for value in values})
SEEDS = (
    b'\0description = "d"\nextends = "strict"\n[limits]\nwall = "1s"\n[[mounts.volumes]]\nsource = "/srv"\ntarget = "/in"\n',
    b'\0description = "d"\npolicy = "strict"\nlimits.wall = "10s"\nmounts = { cwd = "no" }\n[environment.set]\nA = "b"\n',
    *(b"\1" + bytes((seed * each) & 255 for each in range(1, 120)) for seed in range(1, 12)),
)


def one_input(data: bytes) -> str:
    """Load one profile."""
    kind, rest = data[:1], data[1:]
    content = build(Bytes(rest)).encode() if kind and kind[0] & 1 else rest
    folder = write_files({"p.toml": content}, "profile")
    try:
        profile = load_profile(f"{folder}/p.toml")
    except PolicyError as error:
        check_error(error)
        return outcome(error)
    check(profile, tomllib.loads(content.decode()))
    return f"accepted, {len(profile.origins)} keys, {len(profile.volumes)} volumes"


def build(chooser: Bytes) -> str:
    """Return a profile's text: most values right, keys dotted, in tables or in inline tables."""
    chosen: dict[str, str] = {}
    for key in ("description", "policy"):
        chosen[key] = KEYS[key][0]
    for _ in range(chooser.integer(1, 8)):
        key = chooser.pick(tuple(KEYS))
        chosen[key] = chooser.pick(KEYS[key]) if chooser.odds(3) else KEYS[key][0]
    lines = [f"{key} = {value}" for key, value in chosen.items() if "." not in key]
    for table in TABLES:
        inner = [(key.partition(".")[2], value) for key, value in chosen.items() if key.startswith(table + ".")]
        if not inner:
            continue
        form = chooser.integer(0, 2)
        if form == 0:
            lines.append("\n".join((f"[{table}]", *(f"{name} = {value}" for name, value in inner))))
        elif form == 1:
            lines = [*(f"{table}.{name} = {value}" for name, value in inner), *lines]
        else:
            lines.insert(0, f"{table} = {{ {', '.join(f'{name} = {value}' for name, value in inner)} }}")
    if chooser.odds(6):
        lines.insert(
            chooser.integer(0, len(lines)),
            chooser.pick(("x = 1", "[limit]", "[limits.x]", "[[limits]]", "wall = 1", '"description" = "again"')),
        )
    return "\n".join(lines) + "\n"


def check(profile: Profile, table: dict[str, object]) -> None:
    """Compare what was accepted with what a second parser reads; where both say the same in the same words."""
    assert profile.limits.tmp_bytes >= 4096 and profile.limits.tmp_inodes >= 8 and profile.limits.open_files >= 8
    assert 1 <= profile.uid <= 65533 and 1 <= profile.gid <= 65533
    for value in (profile.limits.wall_ns, profile.limits.cpu_ns):
        assert value is None or value >= 1_000_000
    for path in (
        profile.home,
        *profile.system,
        *(volume.target for volume in profile.volumes),
        *(volume.source for volume in profile.volumes),
    ):
        assert path.startswith("/") and "\0" not in path and "/../" not in path + "/", path
    assert len({volume.target for volume in profile.volumes}) == len(profile.volumes)
    mounts, namespaces, identity = (table.get(name, {}) for name in ("mounts", "namespaces", "identity"))
    assert isinstance(mounts, dict) and isinstance(namespaces, dict) and isinstance(identity, dict)
    given = {
        **{name: namespaces[name] for name in ("proc", "network", "ids") if name in namespaces},
        **{name: identity[name] for name in ("uid", "gid", "user", "home", "hostname") if name in identity},
        **({"cwd": mounts["cwd"]} if "cwd" in mounts else {}),
    }
    for name, value in given.items():
        assert getattr(profile, name) == value, f"{name}: {getattr(profile, name)!r}, written {value!r}"
    volumes = mounts.get("volumes", [])
    assert len(profile.volumes) >= len(volumes)
    for volume, written in zip(profile.volumes[len(profile.volumes) - len(volumes) :], volumes, strict=True):
        assert volume.writable is written.get("writable", False)


if __name__ == "__main__":
    engine.main("profile_toml", one_input, SEEDS, WORDS)
