"""Errors for users. Each message says where, what was found, what was wanted and what to do next.

UniformError
├── ConfigError          a TOML file: unknown key, wrong type, value out of range
├── ManifestError        a dataset's manifest or listing
├── MediaError           a media file that cannot be used; has a ledger code
├── PipelineError        a preparation run that cannot continue, or does not account for every clip
├── ShardError           a shard, index or card that is damaged or inconsistent
├── RemoteError          a remote folder of shards that is unreachable, or changed during a run
├── SpecMismatchError    shards, codecs, checkpoint and config do not match
├── WeightsError         weights that are missing, damaged, or of another model
├── CheckpointError      a training checkpoint that cannot be used
├── TrainingError        a training run that cannot continue
└── InputError           an invalid prompt, media file or option
"""

from uniform.clean_text import clean_line

LONGEST_REASON = 400
"""Characters of a reason that a media file gave rise to."""


class UniformError(Exception):
    """Root of all errors that the caller can fix. The command line prints the message and exits with code 1."""


class ConfigError(UniformError):
    """A TOML file has an unknown key, a wrong type or a value out of range."""


class ManifestError(UniformError):
    """A dataset's manifest or listing is invalid."""


class MediaError(UniformError):
    """A media file cannot be used.

    Args:
        code: one of the ledger's codes (`pipelines/codes.py`), for instance "decode_corrupt".
        reason: what was found, with numbers; cleaned and bounded here.
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = clean_line(reason, LONGEST_REASON)
        super().__init__(f"{code}: {self.reason}")

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        return type(self), (self.code, self.reason)  # it is pickled between processes


class PipelineError(UniformError):
    """A preparation run cannot continue, or does not account for every clip."""


class ShardError(UniformError):
    """A shard, an index or a card is damaged, or does not match its bytes."""


class RemoteError(UniformError):
    """A remote folder of shards is unreachable, does not fit the cache, or changed during a run."""


class SpecMismatchError(UniformError):
    """Shards, codecs, checkpoint and configuration do not match."""


class WeightsError(UniformError):
    """Weights are missing, damaged, or belong to another model."""


class CheckpointError(UniformError):
    """A training checkpoint cannot be used."""


class TrainingError(UniformError):
    """A training run cannot continue."""


class InputError(UniformError):
    """A prompt, a media file or an option is invalid."""
