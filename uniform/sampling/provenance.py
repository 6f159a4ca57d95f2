"""How a sample was made: the content of its JSON file, and the digest that decides whether a sample is made again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from uniform.fingerprint import digest
from uniform.sampling.request import Request


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """All inputs of one sample."""

    request: Request
    media_sha256: str | None
    """Of the conditioning media: of its file, or of the array that was given instead of a file."""
    settings: Mapping[str, Any]
    """Solver, steps and guidance."""
    precision: str | None
    """Autocast type of the network; None for float32."""
    origin: Mapping[str, Any]
    """Metadata of the checkpoint; "digest" among them."""

    @property
    def mark(self) -> str:
        """Digest of everything that changes the sample, and of its name. The batch size changes rounding only."""
        request = self.request.digest(lambda path: self.media_sha256 or "")
        if self.request.media is None and self.media_sha256 is not None:
            request = digest([request, self.media_sha256])
        settings = dict(self.settings)
        if self.precision is not None:
            settings["precision"] = self.precision
        return digest([request, settings, self.origin.get("digest")])

    def named(self, name: str) -> "Provenance":
        """The same sample under another name."""
        return replace(self, request=replace(self.request, name=name))

    def metadata(self, notes: tuple[str, ...]) -> dict[str, Any]:
        """The content of the sample's JSON file; `notes` list what was cut or padded."""
        return {
            "request": {**asdict(self.request), "media": str(self.request.media) if self.request.media else None},
            "settings": dict(self.settings),
            "checkpoint": dict(self.origin),
            "notes": list(notes),
            "mark": self.mark,
        }
