"""Commands as people type them: PATH, shebangs, virtual environments, pyenv, uv, conda, nvm, lone files, and what is never shared for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.plan.root import Bind, RootSpec, Symlink
from sandbox.policy.profile import CwdMode, Profile, Volume
from sandbox.policy.profile_load import load_profile
from sandbox.rootfs.command import CommandNotFound, env_program, parse_shebang
from sandbox.rootfs.host import build_root_spec

Build = Callable[..., tuple[RootSpec, dict[str, str]]]


class Tree:
    """A home directory full of interpreters that do not run, and the sandbox specs made from it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.home = top / "home"
        self.project = self.home / "proj"
        self.project.mkdir(parents=True)
        self.profile: Profile = replace(load_profile("strict"), etc=())
        self.environ = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}

    def file(self, name: str, text: str = "\x7fELF", mode: int = 0o755) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def link(self, name: str, target: str | Path) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        return path

    def python(self, prefix: str, version: str = "3.12") -> Path:
        """Make an installation of Python and return its interpreter."""
        self.file(f"{prefix}/lib/python{version}/os.py", "", 0o644)
        program = self.file(f"{prefix}/bin/python{version}")
        self.link(f"{prefix}/bin/python3", f"python{version}")
        self.link(f"{prefix}/bin/python", "python3")
        return program

    def venv(self, prefix: str, base: Path | str) -> Path:
        """Make a virtual environment on a base interpreter and return its directory."""
        self.file(f"{prefix}/pyvenv.cfg", f"home = {Path(base).parent}\ninclude-system-site-packages = false\n", 0o644)
        self.link(f"{prefix}/bin/python", base)
        self.link(f"{prefix}/bin/python3", "python")
        self.file(f"{prefix}/lib/python3.12/site-packages/x.py", "", 0o644)
        return self.home / prefix

    def path(self, *directories: Path | str) -> None:
        self.environ["PATH"] = ":".join([*(str(self.home / item) for item in directories), "/usr/bin", "/bin"])

    def build(self, *argv: str, cwd: Path | None = None) -> tuple[RootSpec, dict[str, str]]:
        return build_root_spec(self.profile, argv=argv, cwd=str(cwd or self.project), environ=self.environ, is_root=False)

    def shared(self, spec: RootSpec) -> dict[str, str]:
        """Return what of the home is visible, apart from the working directory: ``name → "dir" | "file" | "-> target"``."""
        found = {}
        for entry in spec.entries:
            if isinstance(entry, Bind) and entry.path.startswith(f"{self.top}/"):
                assert entry.source == entry.path and not entry.writable
                found[entry.path] = "dir" if entry.directory else "file"
            elif isinstance(entry, Symlink) and entry.path.startswith(f"{self.top}/"):
                found[entry.path] = f"-> {entry.target}"
        found.pop(str(self.project), None)
        return {path.removeprefix(f"{self.home}/"): what for path, what in found.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_system_program_needs_nothing(tree: Tree) -> None:
    spec, env = tree.build("sh", "-c", "true")
    assert spec.argv0 == "/usr/bin/sh" and tree.shared(spec) == {} and spec.notes == ()
    assert env["PATH"] == "/usr/bin:/bin:/usr/local/bin"


def test_an_activated_virtual_environment_on_the_systems_python(tree: Tree) -> None:
    venv = tree.venv("envs/v", "/usr/bin/python3")
    tree.path("envs/v/bin")
    tree.environ["VIRTUAL_ENV"] = str(venv)
    spec, env = tree.build("python", "x.py")
    assert spec.argv0 == f"{venv}/bin/python"  # not what it links to: Python finds its packages by this name
    assert tree.shared(spec) == {"envs/v": "dir"}
    assert env["PATH"] == f"{venv}/bin:/usr/bin:/bin:/usr/local/bin" and env["VIRTUAL_ENV"] == str(venv)


def test_an_activated_environment_is_there_for_other_commands_too(tree: Tree) -> None:
    venv = tree.venv("envs/v", tree.python("py/3.12"))
    tree.path("envs/v/bin")
    tree.environ["VIRTUAL_ENV"] = str(venv)
    spec, env = tree.build("sh", "-c", "python x.py")
    assert spec.argv0 == "/usr/bin/sh" and tree.shared(spec) == {"envs/v": "dir", "py/3.12": "dir"}
    assert env["PATH"].startswith(f"{venv}/bin:")


@pytest.mark.parametrize("value", ["relative", "/nowhere/at/all", "{home}/not-a-venv", "{home}/envs/v"])
def test_a_stale_virtual_env_variable_is_ignored(tree: Tree, value: str) -> None:
    tree.venv("envs/v", "/usr/bin/python3")  # exists, but its bin is not in PATH: not activated
    (tree.home / "not-a-venv/bin").mkdir(parents=True)
    tree.path("not-a-venv/bin")
    tree.environ["VIRTUAL_ENV"] = value.format(home=tree.home)
    spec, env = tree.build("sh")
    assert "VIRTUAL_ENV" not in env and tree.shared(spec) == {}


def test_a_virtual_environment_by_its_path(tree: Tree) -> None:
    base = tree.python("opt/py")
    venv = tree.venv("envs/v", base)
    spec, env = tree.build("../envs/v/bin/python3", "x.py")
    assert spec.argv0 == f"{venv}/bin/python3" and tree.shared(spec) == {"envs/v": "dir", "opt/py": "dir"}
    assert "VIRTUAL_ENV" not in env and str(venv) not in env["PATH"]


def test_a_virtual_environment_in_the_working_directory_needs_only_its_base(tree: Tree) -> None:
    tree.venv("proj/.venv", tree.python("opt/py"))
    spec, _ = tree.build(".venv/bin/python")
    assert spec.argv0 == f"{tree.project}/.venv/bin/python" and tree.shared(spec) == {"opt/py": "dir"}


def test_a_virtual_environment_made_of_copies_needs_its_base(tree: Tree) -> None:
    base = tree.python("opt/py")
    tree.file("proj/.venv/pyvenv.cfg", f"home = {base.parent}\n", 0o644)
    tree.file("proj/.venv/bin/python")
    spec, _ = tree.build(".venv/bin/python")
    assert tree.shared(spec) == {"opt/py": "dir"}


def test_a_broken_virtual_environment_is_said(tree: Tree) -> None:
    venv = tree.venv("envs/v", tree.home / "gone/bin/python3")
    tree.path("envs/v/bin")
    tree.environ["VIRTUAL_ENV"] = str(venv)
    spec, _ = tree.build("sh")
    assert spec.notes == (f"virtual environment `{venv}` is broken: `{venv}/bin/python3` leads nowhere",)
    with pytest.raises(CommandNotFound) as caught:
        tree.build(f"{venv}/bin/python")
    assert caught.value.exit_code == 127


def test_uv_reaches_its_python_through_a_directory_link(tree: Tree) -> None:
    store = ".local/share/uv/python"
    tree.python(f"{store}/cpython-3.12.4-linux-x86_64-gnu")
    tree.link(f"{store}/cpython-3.12-linux-x86_64-gnu", "cpython-3.12.4-linux-x86_64-gnu")
    tree.venv("proj/.venv", tree.home / store / "cpython-3.12-linux-x86_64-gnu/bin/python3.12")
    spec, _ = tree.build(".venv/bin/python3")
    assert tree.shared(spec) == {
        f"{store}/cpython-3.12-linux-x86_64-gnu": "-> cpython-3.12.4-linux-x86_64-gnu",
        f"{store}/cpython-3.12.4-linux-x86_64-gnu": "dir",
    }


def test_a_tool_of_pipx_is_a_link_into_its_environment(tree: Tree) -> None:
    venv = tree.venv(".local/share/pipx/venvs/black", "/usr/bin/python3")
    tool = tree.file(".local/share/pipx/venvs/black/bin/black", f"#!{venv}/bin/python\n")
    tree.link(".local/bin/black", tool)
    tree.path(".local/bin")
    spec, env = tree.build("black")
    assert spec.argv0 == f"{tree.home}/.local/bin/black"
    assert tree.shared(spec) == {".local/bin/black": f"-> {tool}", ".local/share/pipx/venvs/black": "dir"}
    assert env["PATH"].startswith(f"{tree.home}/.local/bin:") and "PYTHONUSERBASE" not in env


def test_a_script_of_pip_user_gets_its_packages(tree: Tree) -> None:
    tree.file(".local/lib/python3.12/site-packages/tool.py", "", 0o644)
    tree.file(".local/share/keyrings/login", "secret", 0o600)
    tree.file(".local/bin/tool", "#!/usr/bin/python3\n")
    tree.path(".local/bin")
    spec, env = tree.build("tool")
    assert tree.shared(spec) == {".local/bin/tool": "file", ".local/lib/python3.12/site-packages": "dir"}
    assert env["PYTHONUSERBASE"] == f"{tree.home}/.local"


def test_a_python_in_dot_local_does_not_open_dot_local(tree: Tree) -> None:
    tree.python(".local")
    tree.file(".local/share/keyrings/login", "secret", 0o600)
    tree.path(".local/bin")
    spec, _ = tree.build("python3")
    assert tree.shared(spec) == {
        ".local/bin/python3": "-> python3.12",
        ".local/bin/python3.12": "file",
        ".local/lib/python3.12": "dir",
    }
    assert spec.notes == (
        f"Python version `{tree.home}/.local` not shared: private files live there too; only the programs that are run are",
    )


def test_a_virtual_environment_that_is_the_home_is_not_shared(tree: Tree) -> None:
    tree.venv(".", "/usr/bin/python3")
    tree.path("bin")
    spec, _ = tree.build("python")
    assert tree.shared(spec) == {"bin/python": "-> /usr/bin/python3"}


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ({"PYENV_VERSION": "3.11.7"}, "3.11.7"),
        ({"PYENV_VERSION": "3.11"}, "3.11.10"),
        ({"PYENV_VERSION": "9.9:3.11.7"}, "3.11.7"),
        ({"proj/.python-version": "3.12.1\n3.11.7\n"}, "3.12.1"),
        ({".python-version": "# mine\n3.12.1 # best\n"}, "3.12.1"),
        ({".pyenv/version": "3.11.7\n"}, "3.11.7"),
        ({"PYENV_VERSION": "3.11.7", "proj/.python-version": "3.12.1"}, "3.11.7"),
    ],
)
def test_pyenv_shims_become_the_version_they_would_choose(tree: Tree, setting: dict[str, str], chosen: str) -> None:
    for version in ("3.11.7", "3.11.10", "3.12.1"):
        tree.python(f".pyenv/versions/{version}", version.rpartition(".")[0])
    tree.file(".pyenv/shims/python3", "#!/usr/bin/env bash\nexec pyenv exec python3\n")
    tree.path(".pyenv/shims", ".pyenv/bin")
    for name, text in setting.items():
        if name.isupper():
            tree.environ[name] = text
        else:
            tree.file(name, text, 0o644)
    spec, env = tree.build("python3")
    assert spec.argv0 == f"{tree.home}/.pyenv/versions/{chosen}/bin/python3"
    assert tree.shared(spec) == {f".pyenv/versions/{chosen}": "dir"}
    assert env["PATH"].split(":")[0] == f"{tree.home}/.pyenv/versions/{chosen}/bin" and "/shims" not in env["PATH"]


def test_pyenv_system_goes_on_behind_the_shims(tree: Tree) -> None:
    tree.python(".pyenv/versions/3.12.1")
    tree.file(".pyenv/shims/sh", "#!/usr/bin/env bash\n")
    tree.file(".pyenv/shims/only-there", "#!/usr/bin/env bash\n")
    tree.path(".pyenv/shims")
    spec, env = tree.build("sh")
    assert spec.argv0 == "/usr/bin/sh" and tree.shared(spec) == {} and "/shims" not in env["PATH"]
    with pytest.raises(CommandNotFound) as caught:
        tree.build("only-there")
    assert caught.value.exit_code == 127 and caught.value.hint == "pyenv's version `system` has no `only-there`"


def test_a_script_finds_its_pyenv_python_by_env(tree: Tree) -> None:
    tree.python(".pyenv/versions/3.12.1")
    tree.file(".pyenv/version", "3.12.1\n", 0o644)
    tree.file(".pyenv/shims/python3", "#!/usr/bin/env bash\n")
    tree.path(".pyenv/shims")
    tree.file("proj/x.py", "#!/usr/bin/env python3\n")
    spec, env = tree.build("./x.py")
    assert spec.argv0 == f"{tree.project}/x.py" and tree.shared(spec) == {".pyenv/versions/3.12.1": "dir"}
    assert env["PATH"].startswith(f"{tree.home}/.pyenv/versions/3.12.1/bin:")


def test_a_virtualenv_of_pyenv_is_a_link_to_an_environment_in_a_version(tree: Tree) -> None:
    base = tree.python(".pyenv/versions/3.12.1")
    tree.venv(".pyenv/versions/3.12.1/envs/web", base)
    tree.link(".pyenv/versions/web", tree.home / ".pyenv/versions/3.12.1/envs/web")
    tree.file(".pyenv/shims/python", "#!/usr/bin/env bash\n")
    tree.path(".pyenv/shims")
    tree.environ["PYENV_VERSION"] = "web"
    spec, _ = tree.build("python")
    assert spec.argv0 == f"{tree.home}/.pyenv/versions/web/bin/python"
    assert tree.shared(spec) == {
        ".pyenv/versions/web": f"-> {tree.home}/.pyenv/versions/3.12.1/envs/web",
        ".pyenv/versions/3.12.1": "dir",
    }


def test_nvm_shares_the_version_for_node_and_for_its_scripts(tree: Tree) -> None:
    version = ".nvm/versions/node/v20.1.0"
    tree.file(f"{version}/bin/node")
    tree.file(f"{version}/include/node/node.h", "", 0o644)
    tree.file(f"{version}/lib/node_modules/npm/bin/npm-cli.js", "#!/usr/bin/env node\n")
    tree.link(f"{version}/bin/npm", "../lib/node_modules/npm/bin/npm-cli.js")
    tree.path(f"{version}/bin")
    for command in ("node", "npm"):
        spec, env = tree.build(command)
        assert tree.shared(spec) == {version: "dir"} and spec.argv0 == f"{tree.home}/{version}/bin/{command}"
        assert env["PATH"].startswith(f"{tree.home}/{version}/bin:")
    tree.environ["NVM_BIN"] = f"{tree.home}/{version}/bin"
    assert tree.shared(tree.build("sh")[0]) == {version: "dir"}


def test_a_node_tool_in_dot_local_gets_its_modules(tree: Tree) -> None:
    tree.file(".local/lib/node_modules/tool/cli.js", "#!/bin/sh\n")
    tree.link(".local/bin/tool", "../lib/node_modules/tool/cli.js")
    tree.path(".local/bin")
    spec, _ = tree.build("tool")
    assert tree.shared(spec) == {".local/bin/tool": "-> ../lib/node_modules/tool/cli.js", ".local/lib/node_modules": "dir"}


def test_conda(tree: Tree) -> None:
    tree.python("miniconda3/envs/science")
    (tree.home / "miniconda3/envs/science/conda-meta").mkdir()
    prefix = tree.home / "miniconda3/envs/science"
    tree.path("miniconda3/envs/science/bin")
    tree.environ["CONDA_PREFIX"] = str(prefix)
    spec, env = tree.build("python")
    assert tree.shared(spec) == {"miniconda3/envs/science": "dir"} and env["CONDA_PREFIX"] == str(prefix)
    assert "miniconda3" not in {entry.path for entry in spec.entries}


def test_a_program_outside_every_home_brings_its_libraries(tree: Tree) -> None:
    tool = tree.top / "opt/tool/bin/tool"
    for path in (tool, tree.top / "opt/tool/lib/x.so"):
        path.parent.mkdir(parents=True)
        path.write_text("\x7fELF")
        path.chmod(0o755)
    spec, _ = tree.build(str(tool))
    assert f"{tree.top}/opt/tool" in {entry.path for entry in spec.entries if isinstance(entry, Bind)}


def test_a_lone_file_in_the_home_is_shared_alone(tree: Tree) -> None:
    tree.file("run.sh", "#!/bin/sh\n")
    tree.file(".ssh/id", "secret", 0o600)
    spec, _ = tree.build("./run.sh", cwd=tree.home)
    assert spec.argv0 == f"{tree.home}/run.sh" and spec.workdir == "/home/user" and tree.shared(spec) == {"run.sh": "file"}
    assert len(spec.notes) == 1 and "it is a home directory" in spec.notes[0]
    tree.file("bin/tool")
    tree.path("bin")
    spec, env = tree.build("tool")
    assert tree.shared(spec) == {"bin/tool": "file"} and env["PATH"].startswith(f"{tree.home}/bin:")


def test_shebangs_are_followed_through_interpreters(tree: Tree) -> None:
    tree.file("a/one", f"#!{tree.home}/b/two -x\n")
    tree.file("b/two", f"#!{tree.home}/c/three\n")
    tree.file("c/three")
    spec, _ = tree.build("../a/one")
    assert tree.shared(spec) == {"a/one": "file", "b/two": "file", "c/three": "file"}


def test_a_circle_of_shebangs_ends(tree: Tree) -> None:
    tree.file("a/one", f"#!{tree.home}/a/one\n")
    assert tree.shared(tree.build("../a/one")[0]) == {"a/one": "file"}


def test_a_command_inside_a_volume_under_another_name(tree: Tree) -> None:
    tree.file("src/run", "#!/bin/sh\n")
    tree.file("hidden/bin/x", "#!/bin/sh\n")
    tree.profile = replace(tree.profile, volumes=(Volume(source=f"{tree.home}/src", target="/app"),))
    spec, _ = tree.build("/app/run")
    assert spec.argv0 == "/app/run" and tree.shared(spec) == {}
    tree.profile = replace(tree.profile, env_set=(("PATH", "/app:/usr/bin"),))
    spec, env = tree.build("run")
    assert spec.argv0 == "/app/run" and env["PATH"] == "/app:/usr/bin"


def test_what_a_volume_hides_is_said_and_not_found(tree: Tree) -> None:
    tree.python("opt/py")
    (tree.home / "empty").mkdir()
    volume = Volume(source=f"{tree.home}/empty", target=f"{tree.home}/opt")
    tree.profile = replace(tree.profile, volumes=(volume,))
    with pytest.raises(CommandNotFound) as caught:
        tree.build(f"{tree.home}/opt/py/bin/python3.12")
    assert caught.value.exit_code == 127


@pytest.mark.parametrize(
    ("command", "code", "message", "hint"),
    [
        ("nonesuch", 127, "run `nonesuch`: not found in PATH", None),
        ("./nonesuch", 127, "run `./nonesuch`: no such file", None),
        ("", 127, "run ``: not a file name", None),
        ("./dir", 126, "run `./dir`: it is a directory", None),
        (
            "./plain.py",
            126,
            "run `./plain.py`: it is not executable",
            "`chmod +x ./plain.py`, or name its interpreter: `python3 ./plain.py`",
        ),
        ("plain.py", 126, "run `plain.py`: it is not executable", None),
        ("./plain.py/x", 127, "run `./plain.py/x`: no such file", None),
        ("./dangling", 127, "run `./dangling`: no such file", None),
        ("./loop", 127, "run `./loop`: no such file", None),
        ("./bad", 127, "run `/no/such/python`: no such file", None),
        ("./worse", 127, "run `nonesuch`: not found in PATH", None),
    ],
)
@pytest.mark.parametrize("mode", [CwdMode.READ_ONLY, CwdMode.NO])
def test_what_cannot_be_run(tree: Tree, mode: CwdMode, command: str, code: int, message: str, hint: str | None) -> None:
    (tree.project / "dir").mkdir()
    tree.file("proj/plain.py", "", 0o644)
    tree.file("proj/bad", "#!/no/such/python\n")
    tree.file("proj/worse", "#!/usr/bin/env nonesuch\n")
    tree.link("proj/dangling", "nowhere")
    tree.link("proj/loop", "loop")
    tree.path("proj")
    tree.profile = replace(tree.profile, cwd=mode)
    with pytest.raises(CommandNotFound) as caught:
        tree.build(command)
    assert (caught.value.exit_code, caught.value.message, caught.value.hint) == (code, message, hint)
    assert caught.value.origin == (f"needed by `{command}`" if command in ("./bad", "./worse") else None)


def test_without_a_working_directory_nothing_relative_is_looked_for_on_the_host(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.file("proj/x", "#!/bin/sh\n")
    monkeypatch.chdir(tree.project)
    tree.environ["PATH"] = ":.:/usr/bin"
    for command in ("./x", "x"):
        with pytest.raises(CommandNotFound):
            build_root_spec(tree.profile, argv=[command], cwd=None, environ=tree.environ, is_root=False)
    # With one, an empty entry of PATH is the working directory, as in a shell.
    assert tree.build("x")[0].argv0 == f"{tree.project}/x"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"#!/bin/sh\n", ["/bin/sh"]),
        (b"#! /usr/bin/env  python3 -u \nx", ["/usr/bin/env", "python3", "-u"]),
        (b"#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n' '''\n", ["/a b/python"]),
        (b"#!/bin/sh\n'''exec' /long/python \"$0\" \"$@\"\n", ["/long/python"]),
        (b"#!\n", []),
        (b"#!/bin/\xff", ["/bin/\udcff"]),
    ],
)
def test_parse_shebang(head: bytes, words: list[str]) -> None:
    assert parse_shebang(head) == words


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("python3", "python3"),
        ("-S python3 -u", "python3"),
        ("-Spython3", "python3"),
        ("-SA=1 python3", "python3"),
        ("-S -u HOME A=1 python3", "python3"),
        ("-i A=1", None),
        ("", None),
    ],
)
def test_env_program(words: str, program: str | None) -> None:
    assert env_program(words.split()) == program
