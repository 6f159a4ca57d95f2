"""Find the files of a captioning model, in a folder or on the hub, as transformers lays them out; run no code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniform.codecs.hub import Source
from uniform.codecs.record import recorded_commit
from uniform.codecs.t5_files import weight_files
from uniform.codecs.weights import files_sha256
from uniform.errors import WeightsError
from uniform.fingerprint import digest, file_sha256

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of these is required."""
_BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Paths of a model's files, all of one commit."""

    config: Path
    weights: Sequence[Path]
    others: Sequence[Path]
    """Tokenizer and processors."""

    @property
    def folder(self) -> Path:
        """The folder that holds them."""
        return self.config.parent

    def provenance(self) -> dict[str, Any]:
        """Digests of every file that changes captions."""
        return {
            "weights_sha256": files_sha256(self.weights),
            "files": digest({path.name: file_sha256(path) for path in (self.config, *self.others)}),
        }


def find_files(name: str, model: str, revision: str | None = None, *, cache_only: bool = False) -> ModelFiles:
    """Find the files of `model`; download them where they are missing.

    Args:
        name: of the captioner, for errors.
        model: folder, or hub id of the form owner/name.
        revision: of the hub; None is what `uniform weights fetch` recorded, else the main branch.
        cache_only: never download.
    Raises: WeightsError that names the missing file and where it comes from.
    """
    return _files(_source(name, model, revision, cache_only))


def needed_files(source: Source) -> list[Path]:
    """Every file of a published captioner, for `uniform weights fetch`."""
    files = _files(source)
    return [files.config, *files.weights, *files.others]


def _files(source: Source) -> ModelFiles:
    from huggingface_hub import constants

    config = source.file("config.json")
    source = source.at_commit_of(config)
    if source.hub_id is not None and (source.cache_only or constants.HF_HUB_OFFLINE):
        # Offline, the hub cannot list the optional files: take those of the snapshot.
        source = Source(model=source.model, folder=config.parent)
    weights = weight_files(source)
    tokenizer = [path for path in (source.find(name) for name in _TOKENIZER) if path is not None]
    if not tokenizer:
        source.file(*_TOKENIZER)  # raises, with the names
    beside = [path for path in (source.find(name) for name in _BESIDE) if path is not None]
    return ModelFiles(config=config, weights=weights, others=[*tokenizer, *beside])


def _source(name: str, model: str, revision: str | None, cache_only: bool) -> Source:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Source(model=name, folder=folder)
    if folder.is_file():
        raise WeightsError(f"{name}: {model} is a file; give the folder that holds config, weights and tokenizer")
    if not _HUB_ID.fullmatch(model):
        raise WeightsError(f"{name}: {model}: no such folder, and not a hub id of the form owner/name")
    return Source(model=name, hub_id=model, revision=revision or recorded_commit(model), cache_only=cache_only)
