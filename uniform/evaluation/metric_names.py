"""Every metric by its name. A name carries the definition: two numbers under one name can be compared.

fvd_i3d_tats_16f     arithmetic, network with its input rule, and frames of each clip (any number: `_68f`)
kl_cnn14_16k_eps6    arithmetic and its variant
fad_vggish@2048      in reports: the number of clips behind the value
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from uniform.config import nearest
from uniform.errors import ConfigError
from uniform.evaluation.extractors.catalogue import extractor_entry

Form = Literal[
    "frechet",
    "kernel",
    "kid",
    "kad",
    "inception",
    "kl_exact",
    "kl_eps6",
    "kl_sigmoid",
    "cosine",
    "javis",
    "avh",
    "desync",
    "av_align",
]
DISTRIBUTION: tuple[Form, ...] = ("frechet", "kernel", "kid", "kad")
"""Forms that compare two sets; no clip has a score of its own."""
AGAINST_REAL: tuple[Form, ...] = ("kl_exact", "kl_eps6", "kl_sigmoid")
"""Forms that compare a generated clip with the real clip of the same id."""
WITHIN: tuple[Form, ...] = ("cosine", "javis", "avh", "desync", "av_align")
"""Forms that judge a clip by itself: its video against its audio, or against its text."""
ALIGNMENT = "av_align"
BRIGHTNESS = "brightness"
"""Extractors that need no network: AV-Align's times as published, and from brightness alone."""
_FRAMES = re.compile(r"(.+)_(\d+)f")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: which features it reads, and what is done with them."""

    name: str
    form: Form
    extractor: str
    outputs: tuple[str, ...]
    """Names of the extractor's arrays, in the order of the form."""
    better: Literal["lower", "higher"]
    answers: str
    """The question that the metric answers, for readers."""
    variant: str = ""
    """Of the form: covariance, splits, AV-Align's formula."""
    frames: int | None = None
    """Consecutive frames that the network sees; None is the whole clip."""
    least_s: float = 0.0
    """Clips must be this long."""

    @property
    def reads_text(self) -> bool:
        """Whether the clip's caption is an input."""
        return "text_embedding" in self.outputs

    @property
    def of_pairs(self) -> bool:
        """Whether generated and real clips must belong together by id."""
        return self.form in AGAINST_REAL

    @property
    def per_clip(self) -> bool:
        """Whether every clip has a score of its own."""
        return self.form in AGAINST_REAL or self.form in WITHIN


def metric_by_name(name: str) -> Metric:
    """The metric called `name`, with or without a number of frames. Raises ConfigError that names the nearest."""
    known = _known()
    if name in known:
        return known[name]
    counted = _FRAMES.fullmatch(name)
    if counted and counted[1] in known and "video" in _modality(known[counted[1]]):
        return replace(known[counted[1]], name=name, frames=int(counted[2]))
    raise ConfigError(f"there is no metric '{name}'{nearest(name, known)}")


def metric_names() -> tuple[str, ...]:
    """Every metric, without numbers of frames."""
    return tuple(_known())


def needs_video(metric: Metric) -> bool:
    """Whether the metric looks at frames."""
    return "video" in _modality(metric)


def needs_audio(metric: Metric) -> bool:
    """Whether the metric listens to the audio."""
    return "audio" in _modality(metric)


def _modality(metric: Metric) -> tuple[str, ...]:
    if metric.extractor in (ALIGNMENT, BRIGHTNESS):
        return ("video", "audio")
    return extractor_entry(metric.extractor).modality


@cache
def _known() -> Mapping[str, Metric]:
    return {metric.name: metric for metric in (*_video(), *_audio(), *_joint(), *_offline())}


def _set_metrics(short: str, extractor: str, output: str, question: str, **names: str) -> Iterable[Metric]:
    """Frechet and kernel distances of one network's features; `names` gives the names of forms other than usual."""
    kernel = Metric(
        name=names.get("kernel", f"kd_{short}"),
        form="kernel",
        extractor=extractor,
        outputs=(output,),
        better="lower",
        answers=question,
    )
    covariance = names.get("covariance", "n-1")
    yield replace(kernel, name=names.get("frechet", f"fd_{short}"), form="frechet", variant=covariance)
    yield kernel
    yield replace(kernel, name=f"kid_{short}", form="kid")
    yield replace(kernel, name=f"kad_{short}", form="kad")


def _video() -> Iterable[Metric]:
    question = "Do the generated videos look and move like the real ones, as a set?"
    for short, covariance in (("i3d_tats", "n-1"), ("i3d_mmd", "n-1"), ("i3d_sgv", "n")):
        yield from _set_metrics(
            short, short, "logits", question, frechet=f"fvd_{short}", kernel=f"kvd_{short}", covariance=covariance
        )
    question = "Are the videos sharp in class and varied? Says little of natural scenes: they have no class in UCF-101."
    for name, variant in (
        ("is_c3d_tgan2", "torch_fidelity"),
        ("is_c3d_tgan2_sgv", "stylegan_v"),
        ("is_c3d_tgan2_1s", "none"),
    ):
        yield _inception(name, "c3d_tgan2", variant, question)


def _audio() -> Iterable[Metric]:
    question = "Does the generated audio sound like the real audio, as a set?"
    yield from _set_metrics("vggish", "vggish", "embedding", question, frechet="fad_vggish")
    for short in ("cnn14_16k", "cnn14_32k", "passt"):
        yield from _set_metrics(short, short, "embedding", question)
        yield _inception(f"is_{short}_10s", short, "torch_fidelity", "Is the audio recognisable and varied?")
        yield from _divergences(short)
    yield Metric(
        name="clap_htsat_unfused",
        form="cosine",
        extractor="clap_htsat_unfused",
        outputs=("audio_embedding", "text_embedding"),
        better="higher",
        answers="Does the audio fit the caption?",
    )


def _joint() -> Iterable[Metric]:
    fits = "Does the audio fit the video in content?"
    yield _within("ib_score_avb", "cosine", "imagebind_avb", ("clip_embedding", "audio_embedding"), "higher", fits)
    yield _within("avh_score", "avh", "imagebind_javis", ("frame_embeddings", "whole_audio_embedding"), "higher", fits)
    question = "Does the audio fit the video at every half second?"
    yield _within(
        "javis_score", "javis", "imagebind_javis", ("frame_embeddings", "window_embeddings"), "higher", question
    )
    yield _within("pe_av_score", "cosine", "pe_audio_video", ("video_embedding", "audio_embedding"), "higher", fits)
    question = "How many seconds are audio and video apart?"
    yield replace(_within("desync_avb", "desync", "synchformer_avb", ("logits",), "lower", question), least_s=4.8)
    yield _within("desync_javis4s", "desync", "synchformer_javis", ("logits",), "lower", question)
    question = "Do onsets of the audio coincide with peaks of motion?"
    for variant in ("v1", "v2", "pr", "javis", "javis_native"):
        outputs = ("onsets_s", "native_onsets_s", "flow_px")
        name = f"av_align_{variant}"
        yield replace(_within(name, "av_align", ALIGNMENT, outputs, "higher", question), variant=variant)
    for variant in ("v1", "v2", "pr"):
        name = f"av_align_{BRIGHTNESS}_{variant}"
        of_brightness = _within(name, "av_align", BRIGHTNESS, ("onsets_s", "motion"), "higher", question)
        yield replace(of_brightness, variant=variant)


def _offline() -> Iterable[Metric]:
    question = "Offline tier: does the generated audio sound like the real audio, as a set? Not FAD, not FD."
    yield from _set_metrics("yamnet", "yamnet", "embedding", question)
    yield _inception("is_yamnet_10s", "yamnet", "torch_fidelity", "Offline tier: is the audio recognisable and varied?")
    yield from _divergences("yamnet")
    question = "Offline tier: are single frames as sharp and clean as real ones? Blind to time. Not FVD."
    yield from _set_metrics("effnet_lite0", "effnet_lite0", "embedding", question)
    question = "Offline tier: does motion freeze, jump or flicker? Blind to blur and noise. Not FVD."
    yield from _set_metrics("transnetv2", "transnetv2", "embedding", question)


def _divergences(short: str) -> Iterable[Metric]:
    question = "Does each clip's audio hold the same classes of sound as its real partner's?"
    forms: tuple[tuple[Form, str], ...] = (("kl_exact", "exact"), ("kl_eps6", "eps6"), ("kl_sigmoid", "sigmoid"))
    for form, suffix in forms:
        yield Metric(
            name=f"kl_{short}_{suffix}",
            form=form,
            extractor=short,
            outputs=("logits",),
            better="lower",
            answers=question,
        )


def _inception(name: str, extractor: str, variant: str, question: str) -> Metric:
    return Metric(
        name=name,
        form="inception",
        extractor=extractor,
        outputs=("logits",),
        better="higher",
        variant=variant,
        answers=question,
    )


def _within(
    name: str, form: Form, extractor: str, outputs: tuple[str, ...], better: Literal["lower", "higher"], question: str
) -> Metric:
    return Metric(name=name, form=form, extractor=extractor, outputs=outputs, better=better, answers=question)
