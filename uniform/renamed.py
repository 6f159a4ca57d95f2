"""Names of version 0.3.0 that have changed: read for one more minor version, with one line that names the new one.

Files made by 0.3.0 keep their old names; readers of them translate with `current`.
"""

import functools
import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

KEYS: Mapping[str, str] = {
    "blind": "cross_modal_mask",
    "own_times": "independent_timesteps",
    "pace": "rate_limit",
    "patience_s": "max_wait_s",
    "told_fps": "metadata_fps",
}
"""Keys of configs and recipes."""

DROP_CODES: Mapping[str, str] = {"kills_worker": "worker_crash"}
"""Drop codes in ledgers and commit markers."""

COMMIT_KEYS: Mapping[str, str] = {"artefact": "artifact", "made_of": "inputs"}
"""Keys of commit markers; they stay as they are on disk."""

POLICIES: Mapping[str, str] = {
    "time": "needs_credentials",
    "locked": "needs_credentials",
    "limit": "over_limit",
    "transient": "retryable",
}
"""Policies of drop codes in the file that `uniform pipeline retry` keeps."""

COMMANDS: Mapping[str, str] = {
    "manifest explain": "manifest describe",
    "manifest leaks": "manifest overlaps",
    "manifest lookalikes": "manifest near-duplicates",
    "pipeline pilot": "pipeline estimate",
    "pipeline explain": "pipeline history",
    "shards explain": "shards difficulty",
    "captions sheet": "captions review",
    "codec roundtrip": "codec reconstruct",
    "world gate": "world check",
}
"""Commands, without `uniform`; the help shows the present names only."""

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "manifest check": {"--form": "--schema", "--partial": "--allow-partial"},
    "manifest describe": {"--form": "--schema", "--partial": "--allow-partial"},
    "manifest build": {"--form": "--schema", "--partial": "--allow-partial"},
    "pipeline plan": {"--partial": "--allow-partial"},
    "pipeline run": {"--partial": "--allow-partial"},
    "pipeline estimate": {"--partial": "--allow-partial"},
    "captions show": {"--refused": "--dropped"},
    "train": {"--accept": "--allow-change"},
    "sample": {"--cfg-given": "--cfg-conditioning"},
}
"""Command -> its options."""


def current(name: str, renamed: Mapping[str, str]) -> str:
    """The present name of what a file calls `name`."""
    return renamed.get(name, name)


@functools.cache
def warn_renamed(old: str, new: str) -> None:
    """Log once per process that `old` is called `new` now."""
    logger.warning("'%s' is now called '%s'; the old name works until the next minor version", old, new)
