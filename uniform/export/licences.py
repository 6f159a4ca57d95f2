"""Compares the licence of an export with those of the frozen codecs that its latents need."""

from collections.abc import Mapping
from typing import Any

from uniform.errors import CheckpointError
from uniform.model.checkpoint import ModelMetadata

_MARKS = ("non-commercial", "-nc-", "-nc")


def non_commercial_codecs(metadata: ModelMetadata) -> dict[str, str]:
    """By role (video, audio, text of a caption set) the codec and licence of each that allows no commercial use."""
    cards: dict[str, Mapping[str, Any]] = {role: metadata.codecs.get(role) or {} for role in ("video", "audio")}
    for name, text in (metadata.codecs.get("texts") or {}).items():
        cards[f"text of {name}"] = text.get("codec") or {}
    found = {}
    for role, card in cards.items():
        licence = str(card.get("licence", ""))
        if is_non_commercial(licence):
            found[role] = f"{card.get('name')}: {licence}"
    return found


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's identifier or description says so."""
    return any(mark in licence.lower() for mark in _MARKS)


def require_licence(metadata: ModelMetadata, licence: str, *, accepted: bool) -> None:
    """Refuse a licence that allows commercial use for weights that work only with a codec that does not.

    Args:
        accepted: the user has read the table and takes the licence all the same.
    Raises: CheckpointError with the table of such codecs.
    """
    found = non_commercial_codecs(metadata)
    if not found or accepted or is_non_commercial(licence):
        return
    table = "\n".join(f"  {role:<20} {codec}" for role, codec in found.items())
    raise CheckpointError(
        f"--license {licence}: it does not exclude commercial use, and codecs of this checkpoint do:\n{table}\n"
        f"Give a licence that excludes it (cc-by-nc-4.0, cc-by-nc-sa-4.0), or --accept-licence where {licence} is "
        f"meant for the weights alone and the card says so."
    )
