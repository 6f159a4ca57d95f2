import sys
from pathlib import Path

import pytest

from uniform import doctor


def test_a_broken_import_is_found_and_comes_with_its_repair() -> None:
    check = doctor._Import("nonsense", "import a_module_that_nobody_wrote", "nothing", "install it")

    finding = doctor._try_import(check)

    assert finding.state == "missing"
    assert "a_module_that_nobody_wrote" in finding.found
    assert finding.repair == "install it"


def test_an_import_that_kills_its_process_is_a_finding_and_not_the_end() -> None:
    check = doctor._Import("killer", "import os; os.abort()", "nothing", "install it", required=False)

    finding = doctor._try_import(check)

    assert (finding.state, "ended with code" in finding.found) == ("warning", True)


def test_an_import_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIME_LIMIT_S", 0.2)

    finding = doctor._try_import(doctor._Import("hang", "import time; time.sleep(60)", "nothing", "install it"))

    assert "did not end" in finding.found


def test_python_and_the_disk_of_a_folder_that_is_not_there_yet_are_looked_at(tmp_path: Path) -> None:
    assert doctor._python().found == sys.version.split()[0]
    assert str(tmp_path) in doctor._disk(tmp_path / "new" / "run").found
