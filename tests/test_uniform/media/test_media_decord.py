import subprocess
import sys

from tests.support.paths import ROOT


def test_importing_decord_leaves_the_cuda_libraries_alone_and_torch_can_multiply_afterwards() -> None:
    code = """
from pathlib import Path
import uniform.media.clip_file
assert "nvblas" not in Path("/proc/self/maps").read_text()
import torch
assert float((torch.ones(300, 300, dtype=torch.float64) @ torch.ones(300, 300, dtype=torch.float64)).sum()) == 300**3
import numpy as np
assert float((np.ones((300, 300)) @ np.ones((300, 300))).sum()) == 300**3
print("fine")
"""

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert run.stdout == "fine\n", run.stdout + run.stderr
