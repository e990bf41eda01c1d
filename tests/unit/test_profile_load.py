"""Profiles from TOML: what loads, what is refused and in which words, and what an override does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.policy.locate import data_dir
from sandbox.policy.profile import CwdMode, LandlockMode, Limits, NetworkMode, ProcMode, Profile, Volume
from sandbox.policy.profile_load import list_profiles, load_profile, override_profile
from sandbox.policy.toml_source import key_lines

HEAD = 'description = "d"\npolicy = "strict"\n'
SHIPPED = ("build", "default", "judge", "judge-compile", "judge-validate", "python", "shell", "strict")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a profile file and return its path; the user's configuration is an empty directory of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def make(text: str, name: str = "p.toml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return make


def test_every_key_reaches_its_field(write) -> None:
    path = write(
        """
description = "all of it"
policy = "python"
landlock = "best-effort"
fallback = ["memory"]
[limits]
wall = "1.5s"
cpu = 2
memory = "64M"
processes = 7
output = "1K"
open-files = 99
file-size = 0
stack = "8M"
tmp = "1M"
tmp-inodes = 100
shm = "2M"
shm-inodes = 101
home = "3M"
home-inodes = 102
[mounts]
cwd = "rw"
volumes = [{ source = "/srv/in", target = "/in" }, { source = "data", target = "/data", writable = true }]
etc = ["ssl/certs", "/etc/localtime", "java-*-openjdk"]
system = ["/usr", "/opt/tools"]
[environment]
pass = ["LANG", "LC_*"]
set = { A = "1" }
[namespaces]
proc = "none"
network = "loopback"
time = true
nested = true
ids = "range"
[measure]
instructions = true
[launch]
template = false
recycle-network = false
cgroups-ahead = false
[identity]
hostname = "box.example"
user = "me"
uid = 5
gid = 6
home = "/home/me"
"""
    )
    profile = load_profile(path)
    assert profile.name == "p" and profile.path == path and profile.description == "all of it" and profile.policy == "python"
    assert profile.landlock is LandlockMode.BEST_EFFORT and profile.fallback == ("memory",)
    assert profile.limits == Limits(
        wall_ns=1_500_000_000,
        cpu_ns=2_000_000_000,
        memory_bytes=64 << 20,
        processes=7,
        output_bytes=1024,
        open_files=99,
        file_bytes=0,
        stack_bytes=8 << 20,
        tmp_bytes=1 << 20,
        tmp_inodes=100,
        shm_bytes=2 << 20,
        shm_inodes=101,
        home_bytes=3 << 20,
        home_inodes=102,
    )
    assert profile.cwd is CwdMode.WRITABLE
    assert profile.volumes == (
        Volume(source="/srv/in", target="/in", origin=f"{path}:23, mounts.volumes[0]"),
        Volume(source=f"{os.path.dirname(path)}/data", target="/data", writable=True, origin=f"{path}:23, mounts.volumes[1]"),
    )
    assert profile.etc == ("/etc/ssl/certs", "/etc/localtime", "/etc/java-*-openjdk") and profile.system == ("/usr", "/opt/tools")
    assert profile.env_pass == ("LANG", "LC_*") and profile.env_set == (("A", "1"),)
    assert profile.measure_instructions
    assert not (profile.launch_template or profile.launch_recycle_network or profile.launch_cgroups_ahead)
    assert (profile.proc, profile.network, profile.time_namespace, profile.nested_namespaces) == (
        ProcMode.NONE,
        NetworkMode.LOOPBACK,
        True,
        True,
    )
    assert (profile.hostname, profile.user, profile.uid, profile.gid, profile.home) == ("box.example", "me", 5, 6, "/home/me")
    assert dict(profile.origins)["limits.memory"] == f"{path}:9"


# (body after HEAD, which has two lines; message; line or None; key; hint or None)
BAD = [
    ("polcy = 1", "unknown key `polcy`", 3, "polcy", "did you mean `policy`?"),
    ('memory = "1G"', "unknown key `memory`", 3, "memory", "`memory` belongs to `[limits]`"),
    ("[limit]\n", "unknown key `limit`", 3, "limit", "did you mean `limits`?"),
    ('[limits]\nmemmory = "1G"', "unknown key `limits.memmory`", 4, "limits.memmory", "did you mean `memory`?"),
    ("[limits]\nopen_files = 3", "unknown key `limits.open_files`", 4, "limits.open_files", "did you mean `open-files`?"),
    ("limits = 3", "`limits` must be a table, not `3`", 3, "limits", "write `[limits]` on a line of its own"),
    (
        '[limits]\n\nmemory = "1X"',
        "size `1X` is not a number with an optional suffix K, M, G or T",
        5,
        "limits.memory",
        None,
    ),
    ("[limits]\nmemory = 5", "`limits.memory` must be at least 1 MiB, not `5`", 4, "limits.memory", None),
    ("[limits]\nmemory = -5", "size `-5` is out of range (0 to 2^63-1 bytes)", 4, "limits.memory", None),
    ("[limits]\nmemory = true", "size must be a number of bytes or text like `64M`, not `True`", 4, "limits.memory", None),
    ("[limits]\ntmp = 0", "`limits.tmp` must be at least 4 KiB, not `0`", 4, "limits.tmp", None),
    ('[limits]\ntmp = "none"', "size `none` is not a number with an optional suffix K, M, G or T", 4, "limits.tmp", None),
    ("[limits]\ntmp-inodes = 0", "`limits.tmp-inodes` must be 8 to 4294967296, not 0", 4, "limits.tmp-inodes", None),
    ('[limits]\nwall = "0"', "`limits.wall` must be at least 1 ms, not `0`", 4, "limits.wall", None),
    ("[limits]\nwall = nan", "duration `nan` is out of range", 4, "limits.wall", None),
    ("[limits]\nprocesses = 0", "`limits.processes` must be 1 to 4194304, not 0", 4, "limits.processes", None),
    ("[limits]\nprocesses = true", "`limits.processes` must be a whole number, not `True`", 4, "limits.processes", None),
    ("[limits]\nprocesses = 1.5", "`limits.processes` must be a whole number, not `1.5`", 4, "limits.processes", None),
    ('landlock = "of"', "`landlock` must be `required`, `best-effort` or `off`, not `of`", 3, "landlock", "did you mean `off`?"),
    ('fallback = ["disk"]', "`disk` has no fallback; there is one for `memory`, `processes` and `cpu`", 3, "fallback", None),
    ('fallback = ["cpu", "cpu"]', "`cpu` is listed twice in `fallback`", 3, "fallback", None),
    ('fallback = "cpu"', "`fallback` must be a list of texts, not `'cpu'`", 3, "fallback", None),
    ('[mounts]\ncwd = "write"', "`mounts.cwd` must be `no`, `ro` or `rw`, not `write`", 4, "mounts.cwd", None),
    ("[mounts]\ncwd = true", "`mounts.cwd` must be `no`, `ro` or `rw`, not `True`", 4, "mounts.cwd", None),
    (
        '[mounts]\nvolumes = [\n  { source = "/a", target = "/x" },\n  { source = "/b", target = "proc" },\n]',
        "path `proc` must be absolute",
        6,
        "mounts.volumes[1].target",
        None,
    ),
    (
        '[[mounts.volumes]]\nsource = "/a"\ntarget = "/proc/self"',
        "`/proc/self` cannot be a mount target: the sandbox makes it itself",
        5,
        "mounts.volumes[0].target",
        None,
    ),
    (
        '[[mounts.volumes]]\nsource = "/a"\ntarget = "/"',
        "`/` cannot be a mount target: the sandbox makes it itself",
        5,
        "mounts.volumes[0].target",
        None,
    ),
    (
        '[[mounts.volumes]]\nsource = "/a"\ntarget = "/dev/shm"',
        "`/dev/shm` cannot be a mount target: the sandbox makes it itself",
        5,
        "mounts.volumes[0].target",
        None,
    ),
    (
        '[[mounts.volumes]]\nsource = "/a"\ntarget = "/x/../proc"',
        "path `/x/../proc` is not normal",
        5,
        "mounts.volumes[0].target",
        "write `/proc`",
    ),
    ('[[mounts.volumes]]\nsource = "/a"\ntarget = "//x"', "path `//x` is not normal", 5, "mounts.volumes[0].target", "write `/x`"),
    ('[[mounts.volumes]]\ntarget = "/x"', "`mounts.volumes[0]` has no `source`", 3, "mounts.volumes[0]", None),
    (
        '[[mounts.volumes]]\nsource = "/a"\nwriteable = true',
        "unknown key `mounts.volumes[0].writeable`",
        5,
        "mounts.volumes[0].writeable",
        "did you mean `writable`?",
    ),
    (
        '[[mounts.volumes]]\nsource = "/a"\nwritable = "yes"',
        "`mounts.volumes[0].writable` must be true or false, not `'yes'`",
        5,
        "mounts.volumes[0].writable",
        None,
    ),
    ('[mounts]\nsystem = ["/"]', "`/` cannot be a mount target: the sandbox makes it itself", 4, "mounts.system", None),
    ('[mounts]\nsystem = ["/home"]', "`/home` cannot be a system directory: it holds more than programs", 4, "mounts.system", None),
    ('[mounts]\nsystem = ["/etc"]', "`/etc` cannot be a system directory: it holds more than programs", 4, "mounts.system", None),
    (
        '[mounts]\netc = ["../root"]',
        "`../root` is not a name below /etc",
        4,
        "mounts.etc",
        "write `ssl/certs` or `/etc/ssl/certs`; `*` matches within one name",
    ),
    ('[mounts]\netc = ["passwd"]', "`/etc/passwd` cannot be shared: the sandbox makes its own", 4, "mounts.etc", None),
    ('[mounts]\netc = ["*"]', "`/etc/*` cannot be shared: the sandbox makes its own", 4, "mounts.etc", None),
    (
        '[environment]\npass = ["*"]',
        "environment pattern `*` is not a name",
        4,
        "environment.pass",
        "letters, digits and `_`; a pattern may end in `*`, as `LC_*`",
    ),
    (
        '[environment]\npass = ["*_TOKEN"]',
        "environment pattern `*_TOKEN` is not a name",
        4,
        "environment.pass",
        "letters, digits and `_`; a pattern may end in `*`, as `LC_*`",
    ),
    ('[environment]\nset = { "A=B" = "x" }', "environment variable `A=B` is not a name", 4, "environment.set", None),
    ("[environment]\nset = { A = 1 }", "environment variable `A` must be text without NUL, not `1`", 4, "environment.set", None),
    (
        '[namespaces]\nnetwork = "host"',
        "`namespaces.network` must be `none` or `loopback`, not `host`",
        4,
        "namespaces.network",
        None,
    ),
    ("[namespaces]\nnested = 1", "`namespaces.nested` must be true or false, not `1`", 4, "namespaces.nested", None),
    ("[identity]\nuid = 0", "`identity.uid` must be 1 to 65533, not 0", 4, "identity.uid", None),
    ("[identity]\ngid = 65534", "`identity.gid` must be 1 to 65533, not 65534", 4, "identity.gid", None),
    ('[identity]\nuser = "root"', "user `root` must be a lower-case login name other than `root` and `nobody`", 4, "identity.user", None),
    (
        '[identity]\nuser = "a:b"',
        "user `a:b` must be a lower-case login name other than `root` and `nobody`",
        4,
        "identity.user",
        None,
    ),
    (
        '[identity]\nhostname = "a b"',
        "hostname `a b` must be labels of letters, digits and `-`, 64 characters at most",
        4,
        "identity.hostname",
        None,
    ),
    ('[identity]\nhostname = "a\\nb"', "`identity.hostname` contains a control character", 4, "identity.hostname", None),
    ('[identity]\nhome = "/"', "`/` cannot be a mount target: the sandbox makes it itself", 4, "identity.home", None),
    (
        '[identity]\nhome = "/etc/x"',
        "home `/etc/x` must be a directory of its own, such as `/home/user`",
        4,
        "identity.home",
        None,
    ),
    ('[identity]\nhome = "/home"', "home `/home` must be a directory of its own, such as `/home/user`", 4, "identity.home", None),
    ("extends = 3", "`extends` must be a profile's name or a list of names, not `3`", 3, "extends", None),
]


@pytest.mark.parametrize(("body", "message", "line", "key", "hint"), BAD, ids=[case[1] for case in BAD])
def test_a_bad_profile_is_refused_with_its_place(write, body: str, message: str, line: int, key: str, hint: str | None) -> None:
    path = write(HEAD + body)
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert caught.value.message == message
    assert caught.value.origin == f"{path}:{line}, {key}"
    assert caught.value.hint == hint


def test_syntax_errors_and_odd_files_name_file_and_line(write, tmp_path: Path) -> None:
    path = write('description = "d"\npolicy = \n')
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert caught.value.message == f"parse `{path}`: invalid value" and caught.value.origin == f"{path}:2"
    (tmp_path / "latin.toml").write_bytes(b'a = 1\nb = "\xe4"\n')
    with pytest.raises(PolicyError) as caught:
        load_profile(str(tmp_path / "latin.toml"))
    assert caught.value.message.endswith("not UTF-8") and caught.value.origin == f"{tmp_path}/latin.toml:2"
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(PolicyError, match="not a regular file"):
        load_profile(str(tmp_path / "fifo.toml"))
    (tmp_path / "large.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(PolicyError, match="larger than 1048576 bytes"):
        load_profile(str(tmp_path / "large.toml"))
    with pytest.raises(PolicyError, match=r"open `.*absent.toml`: No such file or directory \(ENOENT\)"):
        load_profile(str(tmp_path / "absent.toml"))
    with pytest.raises(PolicyError, match="nested too deeply"):
        load_profile(write("a = " + "[" * 5000))


@pytest.mark.parametrize("missing", ["description", "policy"])
def test_required_keys(write, missing: str) -> None:
    text = "".join(line + "\n" for line in HEAD.splitlines() if not line.startswith(missing))
    with pytest.raises(PolicyError, match=f"profile has no `{missing}`"):
        load_profile(write(text))


def test_a_name_never_comes_from_the_working_directory(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(HEAD, "mine.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="no profile is called `mine`"):
        load_profile("mine")
    assert load_profile("./mine.toml").name == "mine"
    assert load_profile("mine.toml").path == str(tmp_path / "mine.toml")
    write(HEAD.replace('"d"', '"from the configuration"'), "config/sandbox/profiles/mine.toml")
    assert load_profile("mine").description == "from the configuration"


def test_a_shipped_name_cannot_be_taken(write) -> None:
    write(HEAD, "config/sandbox/profiles/strict.toml")
    with pytest.raises(PolicyError, match="`strict` is shipped in"):
        load_profile("strict")


def test_extends_replaces_all_but_volumes_and_variables(write) -> None:
    write(
        HEAD
        + 'fallback = ["memory", "cpu"]\n[limits]\nmemory = "1G"\nprocesses = 5\n[environment]\npass = ["A", "B"]\nset = { X = "1", Y = "1" }\n'
        '[[mounts.volumes]]\nsource = "/a"\ntarget = "/a"\n',
        "base.toml",
    )
    write('[limits]\nprocesses = "none"\n', "other.toml")
    path = write(
        'extends = ["./base.toml", "other.toml"]\nfallback = []\n[environment]\npass = ["C"]\nset = { Y = "2" }\n'
        '[[mounts.volumes]]\nsource = "/b"\ntarget = "/b"\n',
        "child.toml",
    )
    profile = load_profile(path)
    assert profile.fallback == () and profile.env_pass == ("C",)
    assert profile.limits.memory_bytes == 1 << 30 and profile.limits.processes is None
    assert dict(profile.env_set) == {"X": "1", "Y": "2"}
    assert [volume.target for volume in profile.volumes] == ["/a", "/b"]
    origins = dict(profile.origins)
    assert origins["limits.memory"].endswith("base.toml:5") and origins["limits.processes"].endswith("other.toml:2")


@pytest.mark.parametrize("key", ["limits.memory", "limits.wall", "limits.processes", "limits.cpus", "limits.open-files"])
@pytest.mark.parametrize("text", ["{}", "0x{}", '"{}"', '"{}.5"'])
def test_thousands_of_digits_are_refused_like_any_wrong_number(write, key: str, text: str) -> None:
    # Python neither reads nor prints decimal numbers of more than 4300 digits; found by fuzzing.
    path = write(HEAD + f"{key} = {text.format('9' * 5000)}\n")
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert (caught.value.origin or "").startswith(f"{path}:{HEAD.count(chr(10)) + 1}")


def test_a_null_byte_in_the_path_of_a_parent(write) -> None:
    path = write('extends = "a/\\u0000"\n' + HEAD)
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert (caught.value.message, caught.value.origin) == ("open a file: its path contains a null byte", f"{path}:1, extends")


def test_a_file_that_is_extended_and_missing_is_named_with_its_place(write) -> None:
    path = write('extends = "./absent.toml"\n' + HEAD)
    with pytest.raises(PolicyError, match=r"open `.*absent.toml`: No such file or directory \(ENOENT\)") as caught:
        load_profile(path)
    assert caught.value.origin == f"{path}:1, extends"


def test_extends_circles_and_depth(write) -> None:
    write('extends = "./b.toml"\n' + HEAD, "a.toml")
    path = write('extends = "./a.toml"\n' + HEAD, "b.toml")
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert caught.value.message == "profiles extend each other in a circle: `b.toml` → `a.toml` → `b.toml`"
    for index in range(10):
        path = write(f'extends = "./n{index - 1}.toml"\n' + HEAD if index else HEAD, f"n{index}.toml")
    with pytest.raises(PolicyError, match="more than 8 deep"):
        load_profile(path)


def test_an_unknown_parent_is_placed(write) -> None:
    path = write('extends = "strct"\n' + HEAD)
    with pytest.raises(PolicyError) as caught:
        load_profile(path)
    assert caught.value.message.startswith("no profile is called `strct`")
    assert caught.value.origin == f"{path}:1, extends" and caught.value.hint == "did you mean `strict`?"


def test_two_volumes_with_one_target(write) -> None:
    path = write(HEAD + '[mounts]\nvolumes = [{ source = "/a", target = "/x" }, { source = "/b", target = "/x" }]')
    with pytest.raises(PolicyError, match="two volumes have the target `/x`"):
        load_profile(path)


def test_digest_covers_every_byte_of_every_file(write) -> None:
    write(HEAD, "base.toml")
    path = write('extends = "./base.toml"\n', "child.toml")
    before = load_profile(path).digest
    assert len(before) == 64
    assert load_profile(path).digest == before
    write(HEAD + "# a comment\n", "base.toml")
    changed = load_profile(path).digest
    assert changed != before
    write('extends = "./base.toml"\n ', "child.toml")
    assert load_profile(path).digest not in (before, changed)
    base, child = (HEAD + "# a comment\n").encode(), b'extends = "./base.toml"\n '
    expected = hashlib.sha256(b"".join(len(data).to_bytes(8, "little") + data for data in (base, child))).hexdigest()
    assert load_profile(path).digest == expected


def test_list_profiles_names_all_and_survives_a_broken_one(write) -> None:
    write("x = ", "config/sandbox/profiles/broken.toml")
    write(HEAD, "config/sandbox/profiles/mine.toml")
    infos = {info.name: info for info in list_profiles()}
    assert set(infos) == {*SHIPPED, "broken", "mine"}
    assert infos["broken"].description.startswith("does not load: parse `")
    assert infos["mine"].description == "d" and infos["strict"].path == str(data_dir("profiles") / "strict.toml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_hold_the_promises_of_their_kind(name: str) -> None:
    profile = load_profile(name)
    assert profile.landlock is LandlockMode.REQUIRED and profile.nested_namespaces is False and profile.volumes == ()
    judge = name.startswith("judge")
    assert profile.cwd is (CwdMode.NO if judge else CwdMode.READ_ONLY) and profile.limits.memory_bytes and profile.limits.processes
    assert profile.policy == {"shell": "default", "judge-compile": "strict", "judge-validate": "judge"}.get(name, name)
    assert not judge or profile.env_pass == ()
    untrusted = judge or name in ("strict", "python")
    assert (profile.network is NetworkMode.NONE) == untrusted and (profile.proc is ProcMode.MINIMAL) == untrusted
    assert (profile.limits.wall_ns is None) == (name == "shell")
    # A variable that could hold a secret is never let through by a shipped profile.
    assert set(profile.env_pass) <= {"LANG", "LC_*", "TERM", "TZ", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR"}
    assert not any(word in path for path in profile.etc for word in ("shadow", "private", "ssh", "sudoers", "krb5", "gitconfig", "netrc"))
    lines = Path(profile.path).read_text().splitlines()
    assert lines[0].startswith("# ") and any(line.startswith("# Allows") for line in lines)


def _profile() -> Profile:
    return load_profile("strict")


def test_override_changes_what_it_names_and_says_who(write) -> None:
    volume = Volume(source="/srv", target="/srv", origin="option `-v /srv`")
    changed = override_profile(
        _profile(),
        limits={"memory": "1G", "open_files": 10, "wall": None, "cpu": "none"},
        volumes=[volume],
        env={"A": "1"},
        env_pass=["B", "C_*"],
        origin="option",
        cwd="rw",
        network="loopback",
        fallback=(),
        policy="python",
        landlock=None,
    )
    assert changed.limits.memory_bytes == 1 << 30 and changed.limits.open_files == 10
    assert changed.limits.wall_ns is None and changed.limits.cpu_ns is None
    assert changed.volumes == (volume,) and changed.env_set == (("A", "1"),)
    assert changed.env_pass == (*_profile().env_pass, "B", "C_*")
    assert changed.cwd is CwdMode.WRITABLE and changed.network is NetworkMode.LOOPBACK
    assert changed.fallback == () and changed.policy == "python" and changed.landlock is LandlockMode.REQUIRED
    assert dict(changed.origins)["limits.memory"] == "option" and dict(changed.origins)["mounts.cwd"] == "option"
    assert changed.digest == _profile().digest
    assert override_profile(_profile()) == _profile()


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"limits": {"memmory": "1G"}}, "unknown limit `memmory`", "did you mean `memory`?"),
        ({"limits": {"memory": "lots"}}, "size `lots` is not a number with an optional suffix K, M, G or T", None),
        ({"limits": {"tmp": None}}, "size `none` is not a number with an optional suffix K, M, G or T", None),
        ({"network": "host"}, "`namespaces.network` must be `none` or `loopback`, not `host`", None),
        ({"netwrk": "none"}, "unknown profile key `netwrk`", "did you mean `network`?"),
        ({"volumes_": ()}, "unknown profile key `volumes_`", None),
        ({"env": {"A=": "x"}}, "environment variable `A=` is not a name", None),
        ({"env": {"A": "x\0"}}, "environment variable `A` must be text without NUL, not `'x\\x00'`", None),
        ({"env_pass": ["*"]}, "environment pattern `*` is not a name", "letters, digits and `_`; a pattern may end in `*`, as `LC_*`"),
        ({"volumes": [Volume(source="/a", target="/x"), Volume(source="/b", target="/x")]}, "two volumes have the target `/x`", None),
    ],
)
def test_bad_overrides(arguments: dict[str, object], message: str, hint: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        override_profile(_profile(), **arguments)  # type: ignore[arg-type]
    assert caught.value.message == message and caught.value.hint == hint


def test_key_lines_sees_through_strings_arrays_and_comments() -> None:
    text = """a = 1
b = [ # c = 2
  "x = 1", "]",
]
s = '''
d = 4
'''
t = \"\"\"one\"\"\"
[u . "v"]
w = { x = 1 }
# y = 2
[[z]]
k = 1
[[z]]
k = 2
"""
    assert key_lines(text) == {
        "a": 1,
        "b": 2,
        "s": 5,
        "t": 8,
        "u.v": 9,
        "u.v.w": 10,
        "z": 12,
        "z[0]": 12,
        "z[0].k": 13,
        "z[1]": 14,
        "z[1].k": 15,
    }


def test_a_stack_may_be_unlimited_and_is_then_no_limit_of_ours(write) -> None:
    from sandbox.policy.profile import UNLIMITED

    assert load_profile(write(HEAD + '[limits]\nstack = "unlimited"\n')).limits.stack_bytes == UNLIMITED
    with pytest.raises(PolicyError, match="size `endless` is not a number"):
        load_profile(write(HEAD + '[limits]\nstack = "endless"\n'))
    assert load_profile("judge").limits.stack_bytes == UNLIMITED and load_profile("strict").limits.stack_bytes is None


def test_a_stack_that_the_callers_hard_limit_keeps_low_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.abi import uapi
    from sandbox.api.limits import _rlimits
    from sandbox.policy.profile import UNLIMITED

    def rlimits(hard: int) -> tuple[tuple[int, int], list[str]]:
        monkeypatch.setattr("resource.getrlimit", lambda number: (hard, hard) if number == uapi.RLIMIT_STACK else (-1, -1))
        notes: list[str] = []
        found = {number: (soft, hard) for number, soft, hard in _rlimits(load_profile("judge").limits, frozenset(), notes, [])}
        return found[uapi.RLIMIT_STACK], notes

    assert rlimits(-1) == ((UNLIMITED, UNLIMITED), [])
    assert rlimits(8 << 20) == ((8 << 20, 8 << 20), ["the caller's hard RLIMIT_STACK is 8388608 bytes: the stack is not unlimited"])
