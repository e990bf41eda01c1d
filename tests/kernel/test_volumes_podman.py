"""Named volumes beside Podman's: the same image and the same cases give the same outcome, but where we differ on purpose, and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites.volumes_beside import CASES, Case, Ours, Podman, make_image

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.newuidmap, pytest.mark.slow, pytest.mark.orphans]
for _program in ("podman", "busybox"):
    if shutil.which(_program) is None:
        pytest.skip(f"no {_program}", allow_module_level=True)
if os.geteuid() == 0:
    pytest.skip("compared as an ordinary user, for whom both are made", allow_module_level=True)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ours, Podman]]:
    top = tmp_path_factory.mktemp("beside")
    layout: Path = make_image(top)
    ours = Ours(top, layout)
    try:
        podman = Podman(top, layout)
    except RuntimeError as error:
        pytest.skip(str(error))
    code, _ = podman.run([], "true")
    if code:
        podman.close()
        pytest.skip("podman starts no container here")
    yield ours, podman
    podman.close()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_comes_of_it(case: Case, engines: tuple[Ours, Podman]) -> None:
    ours, podman = (engine.case(case) for engine in engines)
    assert (ours == podman) == (not case.differs), (ours, podman, case.differs)
