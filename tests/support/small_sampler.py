"""An untrained model of the smallest kind with everything that a trained one remembers, and a clip to give it."""

from dataclasses import asdict
from pathlib import Path

from uniform.codecs.base import open_audio_codec, open_text_codec, open_video_codec
from uniform.diffusion.objective import DiffusionConfig
from uniform.media.clip_file import write_clip
from uniform.model.checkpoint import ModelMetadata, save_model
from uniform.model.config import ModelConfig
from uniform.model.transformer import UniForm
from uniform.spec import TOY
from uniform.synthetic.worlds import make_clip

CLIP = make_clip("w1", 5, TOY)


def small_model(**changes: object) -> tuple[UniForm, ModelMetadata]:
    """A network and its metadata; `changes` are to the metadata."""
    config = ModelConfig(depth=1, width=16, heads=2, text_width=64, text_tokens=64, learned_variance=False)
    codec = {
        "video": open_video_codec("dct", TOY).card.as_dict(),
        "audio": open_audio_codec("dct", TOY).card.as_dict(),
        "texts": {"given": {"codec": open_text_codec("bytes", TOY).card.as_dict()}},
    }
    metadata = ModelMetadata(
        model=config, spec=TOY, diffusion=asdict(DiffusionConfig(objective="v")), codecs=codec, **changes
    )
    return UniForm(config, TOY.video_latent, TOY.audio_latent), metadata


def write_model(folder: Path) -> Path:
    """The model's file."""
    path = folder / "model.safetensors"
    save_model(path, *small_model())
    return path


def write_conditioning_clip(folder: Path) -> Path:
    """A clip's file, with picture and sound."""
    path = folder / "clip.mp4"
    write_clip(path, CLIP.frames, CLIP.waveform, TOY.fps, TOY.rate_hz)
    return path
