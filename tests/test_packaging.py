"""The wheel holds exactly the three packages, and the version stands in one place."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

import uniform
from tests.support.paths import ROOT


def test_the_wheel_holds_exactly_uniform_pipelines_and_cli(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"uniform", "pipelines", "cli"}
    for data in (
        "uniform/presets/toy.toml",
        "uniform/presets/paper.toml",
        "uniform/latents/format.py",
        "pipelines/data_manifests/vggsound.toml",
        "pipelines/data_manifests/recipes/toy.toml",
        "cli/templates/demo.html.j2",
        "uniform/evaluation/extractors/extractors.toml",
        "uniform/evaluation/extractors/yamnet.tflite",
        "uniform/templates/base.html.j2",
    ):
        assert data in names
    assert not any(name.endswith((".pyc", ".orig")) or "__pycache__" in name for name in names)


def test_the_changelog_speaks_of_the_current_version() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)

    assert versions[0] == uniform.__version__


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=,; @]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def _locked() -> dict[str, list[str]]:
    """Package -> its lines in the lock: the pin, then the hashes. Lines that end in a backslash are continued."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return {_name(line): line.split() for line in text.splitlines()}


def test_every_line_of_the_lock_is_a_pin_with_hashes_and_no_address() -> None:
    assert len(_locked()) > 100
    for name, (pin, *rest) in _locked().items():
        hashes = [part for part in rest if part.startswith("--hash=")]
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+!\-]+", pin), pin
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", part) for part in hashes), name
        assert not any("://" in part or part.startswith(("-i", "--index")) for part in rest), name


def test_every_direct_dependency_is_locked() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]

    assert {_name(name) for name in re.findall(r'"([^"]+)"', block)} <= _locked().keys()


def test_every_installed_package_that_the_toolkit_needs_is_locked_at_its_version() -> None:
    """The set-up installs nothing that the lock does not name: no dependency of a dependency floats."""
    wanted, seen = ["uniform-toolkit"], set[str]()
    locked = _locked()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on another platform only
        wanted += [_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        assert name in locked or name == "uniform-toolkit", f"{name} is installed, but not in requirements.lock"

    assert "torch" in seen
