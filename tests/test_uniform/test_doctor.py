import sys
from pathlib import Path

import pytest

from uniform import doctor


def test_a_broken_import_is_reported_with_its_repair() -> None:
    check = doctor._Import("nonsense", "import a_module_that_nobody_wrote", "nothing", "install it")

    finding = doctor._try_import(check)

    assert finding.state == "missing"
    assert "a_module_that_nobody_wrote" in finding.found
    assert finding.repair == "install it"


def test_an_import_that_kills_its_process_is_reported() -> None:
    check = doctor._Import("killer", "import os; os.abort()", "nothing", "install it", required=False)

    finding = doctor._try_import(check)

    assert (finding.state, "ended with code" in finding.found) == ("warning", True)


def test_an_import_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIME_LIMIT_S", 0.2)

    finding = doctor._try_import(doctor._Import("hang", "import time; time.sleep(60)", "nothing", "install it"))

    assert "did not end" in finding.found


def test_python_and_the_disk_of_a_folder_that_does_not_exist_yet_are_checked(tmp_path: Path) -> None:
    assert doctor._python().found == sys.version.split()[0]
    assert str(tmp_path) in doctor._disk(tmp_path / "new" / "run").found


def test_a_javascript_runtime_is_found_beside_python_and_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uniform.doctor.sysconfig.get_path", lambda name: str(tmp_path / name))
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert (doctor._javascript_runtime().state, "[deno]" in doctor._javascript_runtime().repair) == ("warning", True)

    for folder in ("elsewhere", "scripts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "deno").write_text("#!/bin/sh\n")
        (tmp_path / folder / "deno").chmod(0o755)
        found = doctor._javascript_runtime()
        assert (found.state, found.found) == ("ok", str(tmp_path / folder / "deno"))


def test_yt_dlp_is_checked_with_the_scripts_that_it_runs() -> None:
    (check,) = [check for check in doctor._IMPORTS if check.name == "yt-dlp"]

    assert "yt_dlp_ejs" in check.code
    assert doctor._try_import(check).state == "ok"
