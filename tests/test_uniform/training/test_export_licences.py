"""An export's licence against those of the codecs in the checkpoint."""

from dataclasses import replace

import pytest
import torch

from tests.support.tiny_run import tiny_config
from uniform.errors import CheckpointError
from uniform.export.licences import require_licence
from uniform.model.checkpoint import ModelMetadata, load_metadata
from uniform.training.trainer import train


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> ModelMetadata:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    train(tiny_config(root, "run", "steps=1"))
    return load_metadata(root / "run")


def with_audio(metadata: ModelMetadata, licence: str) -> ModelMetadata:
    codecs = {**metadata.codecs, "audio": {**metadata.codecs["audio"], "name": "audioldm", "licence": licence}}
    return replace(metadata, codecs=codecs)


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-4.0 (non-commercial)", "cc-by-nc-4.0", "research, non-commercial"])
def test_a_permissive_licence_over_a_non_commercial_codec_is_refused_with_the_codec(
    metadata: ModelMetadata, licence: str
) -> None:
    with pytest.raises(CheckpointError, match=f"(?s)apache-2.0.*audio .*audioldm: .*{licence[:8]}.*--accept-licence"):
        require_licence(with_audio(metadata, licence), "apache-2.0", accepted=False)


@pytest.mark.parametrize(("licence", "accepted"), [("cc-by-nc-4.0", False), ("apache-2.0", True)])
def test_a_non_commercial_licence_or_an_accepted_one_passes(
    metadata: ModelMetadata, licence: str, accepted: bool
) -> None:
    require_licence(with_audio(metadata, "CC-BY-NC-SA-4.0 (non-commercial)"), licence, accepted=accepted)


def test_free_codecs_take_any_licence(metadata: ModelMetadata) -> None:
    require_licence(metadata, "apache-2.0", accepted=False)
