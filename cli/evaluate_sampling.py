"""What `uniform evaluate` needs of the sampler and the codecs: the evaluation itself imports neither."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uniform.evaluation.extract import Codec
    from uniform.evaluation.paper_tables import Sampler, WantedSample
    from uniform.evaluation.protocol import Reading


def table_sampler(
    checkpoint: Path,
    *,
    solver: str | None,
    steps: int | None,
    cfg: float | None,
    batch: int,
    device: str,
    codec: Sequence[str],
) -> "Sampler":
    """A function that makes the samples of a table. The checkpoint is opened at the first call."""
    from uniform.sampling.open import check_choices, open_sampler, sample_config
    from uniform.sampling.request import Request, task_by_name
    from uniform.sampling.sampler import Sampler

    check_choices(solver, cfg=cfg)
    opened: list[Sampler] = []

    def make(wanted: "Sequence[WantedSample]", folder: Path) -> None:
        from cli.progress import SampleBars

        if not opened:
            opened.append(open_sampler(checkpoint, device=device, codec=codec))
        config = sample_config(opened[0], solver, steps, cfg=cfg, batch_clips=batch)
        requests = [
            Request(
                name=one.name,
                task=task_by_name(one.task),
                text=one.text,
                media=one.media,
                start_ms=one.start_ms,
                seed=one.seed,
            )
            for one in wanted
        ]
        with SampleBars(len(requests), config.steps) as bars:
            opened[0].run(requests, folder, config, bars.show)

    return make


def codec_of_row(names: str, reading: "Reading", device: str, options: Sequence[str]) -> "Codec":
    """The codecs of the row "codec", from VIDEO,AUDIO."""
    from uniform.codecs.options import parse_options
    from uniform.errors import InputError
    from uniform.evaluation.extract import Codec
    from uniform.sampling.reconstruct import Reconstructor

    video, comma, audio = names.partition(",")
    if not comma or not video or not audio:
        raise InputError(f"--codec-row is '{names}'; wanted VIDEO,AUDIO, for example dct,dct")
    codecs = Reconstructor(video, audio, reading.spec, device, parse_options(options))
    return Codec(name=codecs.name, rate_hz=codecs.rate_hz, reconstruct=codecs)
