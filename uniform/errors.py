"""The errors a user can meet. Each message says where, what was found, what was wanted and what to do next.

UniformError
├── ConfigError          a TOML file: unknown key, wrong type, value out of range
├── ManifestError        a data set's manifest or listing
├── MediaError           a media file that cannot be used; carries a ledger code
├── PipelineError        a preparation run that cannot go on, or does not account for every clip
├── ShardError           a shard, index or card that is damaged or lies
├── RemoteError          a remote folder of shards that cannot be reached, or changed under a run
├── SpecMismatchError    shards, codecs, checkpoint and config do not belong together
├── WeightsError         weights that are missing, damaged, or of another model
├── CheckpointError      a training checkpoint that cannot be used
├── TrainingError        a training run that cannot go on
└── InputError           what a person asked the sampler for
"""


class UniformError(Exception):
    """Root of every error that is the caller's to mend. The command line prints it and exits with code 1."""


class ConfigError(UniformError):
    """A TOML file has an unknown key, a wrong type or a value out of range."""


class ManifestError(UniformError):
    """A data set's manifest or listing is wrong."""


class MediaError(UniformError):
    """A media file cannot be used.

    Args:
        code: one of the ledger's codes (`pipelines/codes.py`), for instance "decode_corrupt".
        reason: what was found, in words and numbers.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        return type(self), (self.code, self.reason)  # it crosses from the child process that met the file


class PipelineError(UniformError):
    """A preparation run cannot go on, or does not account for every clip."""


class ShardError(UniformError):
    """A shard, an index or a card is damaged, or does not say the truth about its bytes."""


class RemoteError(UniformError):
    """A remote folder of shards cannot be reached, does not fit the cache, or changed under a run."""


class SpecMismatchError(UniformError):
    """Shards, codecs, checkpoint and configuration do not belong together."""


class WeightsError(UniformError):
    """Weights are missing, damaged, or belong to another model."""


class CheckpointError(UniformError):
    """A training checkpoint cannot be used."""


class TrainingError(UniformError):
    """A training run cannot go on."""


class InputError(UniformError):
    """A prompt, a media file or an option that the sampler cannot serve."""
