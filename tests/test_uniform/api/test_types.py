"""A user's program is checked by its types: the lazy names of `uniform` have those of the classes behind them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import uniform

pipeline = uniform.UniFormPipeline.from_pretrained("run")
reveal_type(pipeline(text="rain").video)
reveal_type(pipeline.batch([uniform.SampleInput(text="rain")]))
reveal_type(uniform.LatentDataset("shards")[[1, 2]]["audio"])
"""


@pytest.mark.slow  # a type checker without its cache reads torch for a minute
def test_a_program_that_uses_the_api_has_types_and_a_misspelt_name_is_an_error(tmp_path: Path) -> None:
    def check(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "program.py").write_text(text)
        words = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            "pyproject.toml",
            str(tmp_path / "program.py"),
        ]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=580)

    good, bad = check(PROGRAM), check(PROGRAM + "uniform.UniformPipeline\n")

    assert good.returncode == 0, good.stdout
    assert "unsignedinteger" in good.stdout
    assert "list[uniform.api.sample.Sample]" in good.stdout
    assert "torch._tensor.Tensor" in good.stdout
    assert bad.returncode == 1
    assert 'Module has no attribute "UniformPipeline"' in bad.stdout
