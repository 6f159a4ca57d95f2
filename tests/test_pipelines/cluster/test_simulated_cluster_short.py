"""The short form of the tests on simulated clusters: in a process of its own, since each cluster needs one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LONG = Path(__file__).with_name("test_simulated_cluster.py")


@pytest.mark.ray
@pytest.mark.parametrize("name", ["two_of_three_nodes_die", "package"])
def test_short_form_of_the_tests_on_simulated_clusters(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "-p", "no:cacheprovider", "-k", name, str(LONG)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.startswith("."), "it was skipped"
