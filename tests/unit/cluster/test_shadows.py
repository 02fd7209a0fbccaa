"""Files beside a job that have the names of modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gan_dist.cluster.shadows import require_no_shadows
from gan_dist.core.errors import ClusterError

FORK = "optuna/__init__.py"
JOB = ["random.py", "statistics.py", "torch.py", "sqlite3/__init__.py"]
HARMLESS = ["job.py", "trace.py", "os.py", "time.py", "code/net.py", "deep/random.py", "gan_dist/__init__.py"]


@pytest.mark.slow
def test_files_of_a_job_that_stand_in_for_modules_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"in place of the module random") as caught:
        require_no_shadows(tmp_path, [*HARMLESS, *JOB, FORK])
    first, *others = JOB
    said = f"{tmp_path}/{first} would be imported by Ray's processes in place of the module random"
    more = ", ".join(sorted(others))
    assert str(caught.value) == f"{said}, and so would {more}; rename it, or name it in .rayignore"


def test_what_workers_have_imported_before_they_look_into_a_directory_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise AssertionError('imported')")
    (tmp_path / "logging").mkdir()
    (tmp_path / "logging/__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    require_no_shadows(tmp_path)


def test_a_folder_without_such_files_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HARMLESS:
        if name != "trace.py":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    monkeypatch.setattr(sys, "executable", None)
    require_no_shadows(tmp_path)
    require_no_shadows(tmp_path / "absent")
