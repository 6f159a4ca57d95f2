"""Extractors with stand-in weights in the published layout, opened once for a test file."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.evaluation_standin import write_checkpoint
from uniform.evaluation.extractors.catalogue import open_extractor


@pytest.fixture(scope="session")
def open_standin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Opens an extractor by its name, through the loader that everybody uses."""
    folder = tmp_path_factory.mktemp("weights")

    def opened(name: str) -> Any:
        write_checkpoint(name, folder)
        extractor = open_extractor(name, folder)
        for file in folder.iterdir():
            file.unlink()  # hundreds of megabytes
        return extractor

    return opened
