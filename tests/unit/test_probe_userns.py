"""Why user namespaces are refused: facts of foreign hosts, the cause that is named and the command that mends it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sandbox.kernel.probe_userns import (
    UsernsFacts,
    apparmor_profile,
    container_fix,
    detect_container,
    explain_userns_refusal,
    find_apparmor_profile,
    find_unit,
    userns_refusal_hint,
)

DEBIAN = UsernsFacts(kernel="6.1.0-50-amd64", uid=1000, unprivileged_userns_clone=1, max_user_namespaces=63000)


def facts(**changes: object) -> UsernsFacts:
    known = {name: getattr(DEBIAN, name) for name in UsernsFacts.__slots__}
    return UsernsFacts(**{**known, **changes})


UBUNTU = facts(kernel="6.8.0-41-generic", apparmor_restrict=1, apparmor_label="unconfined", executable="/opt/s/sandbox-init")
DOCKER = facts(container="docker", seccomp_mode=2, apparmor_label="docker-default (enforce)", proc_masked=True)
PODMAN = facts(container="podman", seccomp_mode=2, proc_masked=True, selinux_enforcing=True)
KUBERNETES = facts(container="kubernetes", seccomp_mode=2, proc_masked=True)
APPARMOR_FIX = (
    "sandbox doctor --apparmor-profile | sudo tee /etc/apparmor.d/sandbox-init && sudo apparmor_parser -r /etc/apparmor.d/sandbox-init"
)


@pytest.mark.parametrize(
    ("number", "given", "cause", "fix"),
    [
        pytest.param(
            errno.EPERM,
            facts(unprivileged_userns_clone=0),
            "the sysctl kernel.unprivileged_userns_clone is 0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            id="Debian's sysctl",
        ),
        pytest.param(
            errno.EPERM,
            facts(unprivileged_userns_clone=0, container="docker", seccomp_mode=2),
            "unprivileged_userns_clone is 0",
            "on the machine that runs the container: sudo sysctl -w kernel.unprivileged_userns_clone=1",
            id="Debian's sysctl, seen from a container",
        ),
        pytest.param(
            errno.ENOSPC,
            facts(max_user_namespaces=0, exhausted=("user",)),
            "the sysctl user.max_user_namespaces is 0",
            "sudo sysctl -w user.max_user_namespaces=16384",
            id="RHEL 7's sysctl",
        ),
        pytest.param(
            errno.ENOSPC,
            facts(exhausted=("mnt",)),
            "user.max_mnt_namespaces is 0",
            "sudo sysctl -w user.max_mnt_namespaces=16384",
            id="mount namespaces",
        ),
        pytest.param(
            errno.ENOSPC,
            facts(max_user_namespaces=0, exhausted=("user",), nested=True),
            "in the enclosing sandbox",
            "start it outside of that sandbox",
            id="bwrap --disable-userns",
        ),
        pytest.param(errno.ENOSPC, facts(nested=True), "nested too deep", "start it outside of that sandbox", id="33rd level"),
        pytest.param(errno.ENOSPC, facts(), "in use", "sudo sysctl -w user.max_user_namespaces=65536", id="used up"),
        pytest.param(errno.ENOSPC, facts(container="flatpak", nested=True), "Flatpak", "flatpak-spawn --host sandbox …", id="flatpak"),
        pytest.param(errno.EUSERS, facts(), "32 levels", "start it from outside the enclosing sandbox", id="levels, Linux 4.8"),
        pytest.param(
            errno.EPERM, UBUNTU, "kernel.apparmor_restrict_unprivileged_userns is 1", APPARMOR_FIX, id="Ubuntu 24.04, capabilities refused"
        ),
        pytest.param(
            errno.EACCES, UBUNTU, "kernel.apparmor_restrict_unprivileged_userns is 1", APPARMOR_FIX, id="Ubuntu 24.04, creation refused"
        ),
        pytest.param(
            errno.EACCES,
            facts(apparmor_restrict=1, apparmor_label="unprivileged_userns (enforce)"),
            "AppArmor",
            APPARMOR_FIX,
            id="Ubuntu 24.04, already moved to its profile",
        ),
        pytest.param(
            errno.EPERM,
            facts(apparmor_restrict=1, apparmor_label="unconfined", profile="/etc/apparmor.d/sandbox-init"),
            "perhaps it is not loaded",
            "sudo apparmor_parser -r /etc/apparmor.d/sandbox-init",
            id="Ubuntu 24.04, profile written but not loaded",
        ),
        pytest.param(
            errno.EPERM,
            facts(apparmor_restrict=1, apparmor_label="unconfined", container="docker"),
            "AppArmor",
            "on the machine that runs the container: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            id="Docker with everything unconfined on Ubuntu",
        ),
        pytest.param(
            errno.EPERM,
            DOCKER,
            "the seccomp filter of this docker container refuses it",
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined …",
            id="Docker",
        ),
        pytest.param(errno.ENOSYS, DOCKER, "seccomp filter of this docker container", container_fix(DOCKER), id="Docker, clone3"),
        pytest.param(
            errno.EACCES,
            facts(container="docker", apparmor_label="docker-default (enforce)"),
            "the AppArmor profile docker-default (enforce) refuses it",
            "docker run --security-opt apparmor=unconfined …",
            id="Docker, mount refused by AppArmor only",
        ),
        pytest.param(
            errno.EPERM,
            PODMAN,
            "the seccomp filter of this podman container refuses it",
            "podman run --security-opt seccomp=unconfined --security-opt label=disable --security-opt unmask=/proc/* …",
            id="Podman",
        ),
        pytest.param(
            errno.ENOSYS,
            KUBERNETES,
            "this Kubernetes pod",
            "in the container's securityContext: seccompProfile: {type: Unconfined}, procMount: Unmasked and `hostUsers: false` in the pod",
            id="Kubernetes",
        ),
        pytest.param(
            errno.EPERM,
            facts(seccomp_mode=2, unit="judge.service"),
            "RestrictNamespaces= of the unit judge.service",
            "systemctl edit judge.service: `[Service]`, `RestrictNamespaces=no`; then restart it",
            id="systemd unit",
        ),
        pytest.param(
            errno.ENOSYS,
            facts(seccomp_mode=2, unit="judge.service", user_unit=True),
            "judge.service",
            "systemctl --user edit judge.service: `[Service]`, `RestrictNamespaces=no`; then restart it",
            id="unit of the user's manager, clone3",
        ),
        pytest.param(
            errno.EPERM,
            facts(seccomp_mode=2),
            "enclosing sandbox or service",
            "start it outside of that sandbox, or allow",
            id="some filter",
        ),
        pytest.param(
            errno.EPERM, facts(chrooted=True, seccomp_mode=2), "chroot", "enter that tree with `systemd-nspawn -D DIR`", id="chroot"
        ),
        pytest.param(
            errno.EACCES,
            facts(apparmor_label="python3 (enforce)"),
            "profile python3 (enforce)",
            "add `userns, capability,",
            id="own AppArmor profile",
        ),
        pytest.param(errno.EACCES, facts(selinux_enforcing=True), "SELinux", "sudo ausearch -m AVC -ts recent", id="SELinux"),
        pytest.param(
            errno.EPERM, facts(uid=65534, nested=True, uid_mapped=False), "uid 65534 is not mapped", "run as a uid", id="unmapped"
        ),
        pytest.param(errno.EPERM, facts(), "does not say why", "sudo dmesg | tail -n 20", id="unknown"),
        pytest.param(errno.EINVAL, facts(), "CONFIG_USER_NS", "boot a kernel with CONFIG_USER_NS=y", id="not built"),
        pytest.param(errno.ENOSYS, facts(kernel="4.18.0-553.el8"), "Linux 4.18.0-553.el8 has no clone3", "use Linux 5.13", id="old kernel"),
        pytest.param(errno.ENOSYS, facts(kernel="5.15.0"), "emulated kernel", "use a real Linux kernel", id="gVisor"),
        pytest.param(errno.EROFS, facts(), "/proc is mounted read-only", "sudo mount -o remount,rw /proc", id="read-only /proc"),
        pytest.param(
            errno.EROFS,
            facts(container="docker", proc_masked=True),
            "/proc is mounted read-only",
            "docker run --security-opt systempaths=unconfined …",
            id="read-only /proc in Docker",
        ),
        pytest.param(errno.EAGAIN, facts(), "RLIMIT_NPROC", "end other processes", id="process limit"),
        pytest.param(errno.ENOMEM, facts(), "memory", "start it from a fresh shell", id="no memory"),
    ],
)
def test_explain(number: int, given: UsernsFacts, cause: str, fix: str) -> None:
    refusal = explain_userns_refusal(number, given)
    assert cause in refusal.cause
    assert refusal.fix.startswith(fix)
    assert userns_refusal_hint(number, given) == f"{refusal.cause}; fix: {refusal.fix}"


def test_every_errno_gets_an_answer() -> None:
    for number in errno.errorcode:
        for given in (DEBIAN, UBUNTU, DOCKER, PODMAN, KUBERNETES):
            assert explain_userns_refusal(number, given).cause


def test_root_is_not_told_about_switches_that_bind_users_only() -> None:
    root = facts(uid=0, unprivileged_userns_clone=0, apparmor_restrict=1, apparmor_label="unconfined", seccomp_mode=2)
    assert "seccomp" in explain_userns_refusal(errno.EPERM, root).cause


@pytest.mark.parametrize(
    ("cgroup", "environ", "paths", "kind"),
    [
        ("0::/user.slice/user-1000.slice/session-2.scope\n", {}, (), ""),
        ("0::/\n", {}, ("/.dockerenv",), "docker"),
        ("5:memory:/docker/8a1f\n", {}, (), "docker"),
        ("0::/system.slice/docker-8a1f.scope\n", {}, (), "docker"),
        ("0::/\n", {}, ("/run/.containerenv",), "podman"),
        ("0::/machine.slice/libpod-12.scope/container\n", {"container": "podman"}, (), "podman"),
        ("0::/kubepods/besteffort/pod1/2\n", {}, ("/.dockerenv",), "kubernetes"),
        ("0::/\n", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, (), "kubernetes"),
        ("0::/lxc.payload.web/x\n", {}, (), "lxc"),
        ("0::/\n", {"container": "systemd-nspawn"}, (), "nspawn"),
        ("0::/\n", {"container": "oci"}, (), "container"),
        ("0::/\n", {}, ("/run/systemd/container",), "container"),
        ("0::/app.slice/x.scope\n", {}, ("/.flatpak-info",), "flatpak"),
        ("0::/\n", {"SNAP": "/snap/x/1"}, ("/snap/x/1/meta/snap.yaml",), "snap"),
        ("0::/\n", {"SNAP": "/snap/x/1"}, (), ""),
    ],
)
def test_detect_container(cgroup: str, environ: dict[str, str], paths: tuple[str, ...], kind: str) -> None:
    assert detect_container(cgroup, environ, lambda path: path in paths, "overlay") == kind


def test_a_disk_made_from_an_image_is_no_container() -> None:
    assert detect_container("0::/\n", {}, lambda path: path == "/.dockerenv", "ext4") == ""


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/judge.service\n", "judge.service"),
        ("9:name=systemd:/system.slice/judge.service\n5:memory:/x.service\n0::/\n", "judge.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.service\n", "run-r1.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte.scope\n", ""),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ""),
        ("", ""),
        ("broken\n", ""),
    ],
)
def test_find_unit(cgroup: str, unit: str) -> None:
    assert find_unit(cgroup) == unit


def test_fix_names_only_what_stands_in_the_way() -> None:
    assert container_fix(facts(container="docker", proc_masked=True)) == "docker run --security-opt systempaths=unconfined …"
    assert container_fix(facts(container="docker")) == ""
    assert (
        container_fix(facts(container="kubernetes", seccomp_mode=2))
        == "in the container's securityContext: seccompProfile: {type: Unconfined}"
    )


def test_apparmor_profile_cannot_be_widened_by_a_path() -> None:
    text = apparmor_profile('/home/u/a b*[x]{y}?^"\\\n  capability,')
    (line,) = [line for line in text.splitlines() if line.startswith("profile ")]
    assert line == 'profile sandbox-init "/home/u/a b\\*\\[x\\]\\{y\\}\\?\\^\\"\\\\  capability," flags=(unconfined) {'
    assert [one.strip() for one in text.splitlines() if one.startswith("  ")] == ["userns,", "include if exists <local/sandbox-init>"]
    assert "abi <abi/4.0>," in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (apparmor_profile("/opt/s/sandbox-init"), True),
        ("abi <abi/4.0>,\nprofile x /opt/s/sandbox-init flags=(unconfined) {\n  userns,\n}\n", True),
        ("# profile x /opt/s/sandbox-init {\n  userns,\n", False),
        ("profile x /opt/s/sandbox-init {\n  # userns,\n}\n", False),
        (apparmor_profile("/opt/s/sandbox-init-2"), False),
    ],
)
def test_find_apparmor_profile(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "abstractions").mkdir()
    (tmp_path / "a").write_text("profile a /bin/true {}\n")
    (tmp_path / "sandbox-init").write_text(text)
    expected = str(tmp_path / "sandbox-init") if found else ""
    assert find_apparmor_profile("/opt/s/sandbox-init", str(tmp_path)) == expected
    assert find_apparmor_profile("/opt/s/sandbox-init", str(tmp_path / "absent")) == ""
