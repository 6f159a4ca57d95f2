"""Uploads exported weights with a model card to the Hugging Face Hub in one commit; private unless --public is given.

The token is huggingface_hub's own (HF_TOKEN, or the file that `hf auth login` writes), and the hub is HF_ENDPOINT's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uniform.errors import CheckpointError
from uniform.model.checkpoint import ModelMetadata

CARD_NAME = "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """The files of an upload, and its destination."""

    hub_id: str
    """owner/name"""
    files: Mapping[str, Path]
    """By name in the repository; the card is written beside them."""
    card: str
    """The model card: README.md."""
    public: bool = False
    """True for a public repository, False for a private one."""


def plan_publication(
    hub_id: str, files: Mapping[str, Path], metadata: ModelMetadata, licence: str, *, public: bool = False
) -> Publication:
    """Plan the upload that `publish` sends.

    Args:
        licence: the hub's identifier of the licence of these weights: apache-2.0, cc-by-nc-4.0, other...
    Raises: CheckpointError where the id or the licence is not one.
    """
    if not _HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"--upload {hub_id}: not a repository's id; it must have the form owner/name")
    if not _LICENCE.fullmatch(licence):
        raise CheckpointError(
            f"--license {licence}: give one of the hub's identifiers: apache-2.0, cc-by-nc-4.0, other, ..."
        )
    card = model_card(hub_id.split("/")[1], sorted(files), metadata, licence)
    return Publication(hub_id=hub_id, files=files, card=card, public=public)


def model_card(name: str, files: list[str], metadata: ModelMetadata, licence: str) -> str:
    """README.md of the repository: the hub's metadata, what the network is, and what its latents must be."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=licence,
        library_name="uniform-toolkit",
        pipeline_tag="text-to-video",
        tags=["uniform", "audio", "video", "text-to-audio-video", "audio-to-video", "video-to-audio"],
    )
    sizes = metadata.model
    rows = {
        "network": f"{sizes.depth} pairs of blocks, width {sizes.width}, {sizes.heads} heads",
        "objective": ", ".join(f"{key} {value}" for key, value in sorted(metadata.diffusion.items())),
        "optimiser steps": f"{metadata.step:,}",
        **dict(sorted(metadata.identity.items())),
        **{
            f"text codec of {name}": f"{codec['name']} {codec['fingerprint']}" for name, codec in _text_codecs(metadata)
        },
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
{data.to_yaml()}
---

# {name}

A UniForm network: one diffusion transformer that generates video with audio from text, video from audio, and audio from
video (arXiv:2502.03897). Trained with the UniForm Toolkit. Files: {", ".join(files)}.

It works on latents of exactly these codecs and this spec; the fingerprints cover weights and settings:

| property | value |
| --- | --- |
{table}

The licences of the codecs and of the training data hold beside that of these weights.
"""


def publish(publication: Publication) -> str:
    """Create the repository if need be, and send card and files as one commit. Returns: the commit's address.

    Raises: CheckpointError without a login, where a private upload would be public, or where the hub
        refuses; nothing is committed then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    if get_token() is None:
        raise CheckpointError("--upload needs a login: hf auth login, or a token with write access in HF_TOKEN")
    api = HfApi()
    files: dict[str, str | bytes] = {CARD_NAME: publication.card.encode()}
    files |= {name: str(path) for name, path in publication.files.items()}
    try:
        api.create_repo(publication.hub_id, private=not publication.public, exist_ok=True)
        if not publication.public and not api.model_info(publication.hub_id).private:
            raise CheckpointError(
                f"{publication.hub_id} is public already, and --public was not given. Give --public, or choose another "
                f"name. Nothing was uploaded."
            )
        commit = api.create_commit(
            publication.hub_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Weights exported by the UniForm Toolkit",
        )
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{publication.hub_id}: {api.endpoint} refused it ({first}). The exported files are kept. Check the "
            f"id and the token's rights (hf auth whoami), then give the same command again."
        ) from error
    return str(commit.commit_url)


def _text_codecs(metadata: ModelMetadata) -> list[tuple[str, Mapping[str, str]]]:
    """By caption set, the card of the codec that encoded its captions."""
    return [(name, text["codec"]) for name, text in sorted(metadata.codecs.get("texts", {}).items())]
