"""The wheel holds exactly the three packages, and the version stands in one place."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_the_lock_is_plain_names_and_versions() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+!\-]+", line), line


def test_every_direct_dependency_is_locked() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    wanted = {re.split(r"[\[<>=,]", name)[0].lower().replace("_", "-") for name in re.findall(r'"([^"]+)"', block)}
    locked = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "requirements.lock").read_text().split()
    }

    assert wanted <= locked
