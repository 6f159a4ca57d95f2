"""UniForm: one diffusion transformer for audible video (arXiv:2502.03897).

The names of `__all__` are the Python API (docs/python_api.md). Each is loaded when it is first used, so that
`import uniform` is quick and loads neither torch nor pyarrow.
"""

from typing import TYPE_CHECKING

__version__ = "0.4.0"

if TYPE_CHECKING:
    from uniform.api.evaluation import evaluate as evaluate
    from uniform.api.latent_dataset import LatentDataset as LatentDataset
    from uniform.api.latent_stream import LatentStream as LatentStream
    from uniform.api.pipeline import UniFormPipeline as UniFormPipeline
    from uniform.api.sample import Sample as Sample
    from uniform.api.sample import SampleInput as SampleInput
    from uniform.codecs.base import open_audio_codec as open_audio_codec
    from uniform.codecs.base import open_text_codec as open_text_codec
    from uniform.codecs.base import open_video_codec as open_video_codec
    from uniform.latents.batches.mixture import Mixture as Mixture
    from uniform.latents.batches.mixture import SourceConfig as SourceConfig
    from uniform.latents.loader.loader import Loader as Loader
    from uniform.latents.loader.loader import LoaderConfig as LoaderConfig
else:
    _MODULES = {
        "LatentDataset": "uniform.api.latent_dataset",
        "LatentStream": "uniform.api.latent_stream",
        "Loader": "uniform.latents.loader.loader",
        "LoaderConfig": "uniform.latents.loader.loader",
        "Mixture": "uniform.latents.batches.mixture",
        "Sample": "uniform.api.sample",
        "SampleInput": "uniform.api.sample",
        "SourceConfig": "uniform.latents.batches.mixture",
        "UniFormPipeline": "uniform.api.pipeline",
        "evaluate": "uniform.api.evaluation",
        "open_audio_codec": "uniform.codecs.base",
        "open_text_codec": "uniform.codecs.base",
        "open_video_codec": "uniform.codecs.base",
    }

    def __getattr__(name):
        """Load a name of the API. Hidden from type checkers, which would take every misspelt name for one."""
        if name not in _MODULES:
            raise AttributeError(f"module 'uniform' has no attribute '{name}'")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_MODULES})


__all__ = [
    "LatentDataset",
    "LatentStream",
    "Loader",
    "LoaderConfig",
    "Mixture",
    "Sample",
    "SampleInput",
    "SourceConfig",
    "UniFormPipeline",
    "__version__",
    "evaluate",
    "open_audio_codec",
    "open_text_codec",
    "open_video_codec",
]
