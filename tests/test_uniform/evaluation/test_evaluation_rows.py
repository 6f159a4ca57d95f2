"""Rows and sets that need more than two folders: codecs, captions, several samples, starts, windows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.small_evaluation import PROTOCOL, SmallNetwork, small_extractors, small_protocol, write_clips
from uniform.errors import InputError
from uniform.evaluation.extract import Codec
from uniform.evaluation.extractors.contract import AudioRule, VideoRule
from uniform.evaluation.protocol import Reading
from uniform.evaluation.reading import DecodedClip, chosen_frames, prepared_waveform, worst
from uniform.evaluation.run import Evaluation, Options, evaluate
from uniform.evaluation.sets import read_set
from uniform.evaluation.streams import Extractors
from uniform.evaluation.table import derangement, halves

COUNT = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_clips(folder / "real", COUNT)
    write_clips(folder / "generated", COUNT, noise=14)
    return folder


def _run(
    generated: Path,
    real: Path,
    folder: Path,
    text: str = PROTOCOL,
    extractors: Extractors | None = None,
    codec: Codec | None = None,
) -> Evaluation:
    return evaluate(
        generated,
        real,
        small_protocol(folder, text),
        Options(workers=1, codec=codec, cache=folder / "cache"),
        progress=lambda *state: None,
        given=extractors or small_extractors(),
    )


def test_the_codec_row_is_the_distance_of_what_the_codec_gives_back(made: Path, tmp_path: Path) -> None:
    seen = []

    def darker(frames: np.ndarray, waveform: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append((frames.shape, waveform.shape, rate_hz))
        return (frames // 3).astype(np.uint8), waveform / 4

    def perfect(frames: np.ndarray, waveform: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        return frames, waveform

    lossy = _run(
        made / "generated", made / "real", tmp_path, codec=Codec(name="darker", rate_hz=16_000, reconstruct=darker)
    )
    exact = _run(
        made / "generated", made / "real", tmp_path, codec=Codec(name="perfect", rate_hz=16_000, reconstruct=perfect)
    )

    assert seen == [((34, 64, 64, 3), (32_000,), 16_000)] * COUNT
    assert exact.table.cells["codec"]["fd_yamnet"].value == pytest.approx(0.0, abs=1e-3)
    assert (lossy.table.cells["codec"]["fd_yamnet"].value or 0.0) > 1.0
    assert lossy.table.cells["codec"]["kl_yamnet_exact"].clips == COUNT
    assert "codec" not in _run(made / "generated", made / "real", tmp_path).table.cells


class Captioned(SmallNetwork):
    """Embeds a caption by its length, and audio by its loudness."""

    outputs = ("audio_embedding", "text_embedding")

    def __init__(self) -> None:
        super().__init__("clap_htsat_unfused", "audio")
        self.outputs = ("audio_embedding", "text_embedding")
        self.texts: list[str] = []

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        assert waveform is not None
        assert texts is not None
        self.texts += texts
        angle = torch.tensor([len(text) / 10 for text in texts])
        embedding = torch.stack([angle.cos(), angle.sin()], dim=1)
        return {"audio_embedding": torch.tensor([[1.0, 0.0]]).repeat(len(texts), 1), "text_embedding": embedding}


def test_captions_reach_the_network_and_clips_without_one_are_counted(made: Path, tmp_path: Path) -> None:
    lines = [{"clip_id": f"clip-{n:03d}", "path": f"clip-{n:03d}.mp4", "text": "x" * n} for n in range(COUNT)]
    listing = made / "generated" / "list.jsonl"
    listing.write_text("\n".join(map(json.dumps, lines)))
    network = Captioned()
    text = PROTOCOL.replace('name = "kl_yamnet_exact"', 'name = "clap_htsat_unfused"')
    extractors = small_extractors()
    names = ("yamnet", "effnet_lite0", "transnetv2")
    given = Extractors(tmp_path, given={**{n: extractors.open(n) for n in names}, network.name: network})

    found = _run(listing, made / "real", tmp_path, text, given)

    cell = found.table.cells["generated"]["clap_htsat_unfused"]
    assert cell.clips == COUNT - 1  # the empty caption is none
    assert cell.value == pytest.approx(np.mean([np.cos(n / 10) for n in range(1, COUNT)]))
    assert sorted(network.texts) == ["x" * n for n in range(1, COUNT)]
    assert found.table.cells["generated"]["fd_yamnet"].clips == COUNT


def test_of_several_samples_distances_take_the_first_and_scores_the_mean(made: Path, tmp_path: Path) -> None:
    write_clips(made / "other", COUNT, noise=50)
    lines = [
        {"clip_id": f"clip-{n:03d}", "path": f"{side}/clip-{n:03d}.mp4", "sample": sample}
        for n in range(COUNT)
        for sample, side in enumerate(("generated", "other"))
    ]
    listing = made / "samples.jsonl"
    listing.write_text("\n".join(map(json.dumps, lines)))

    both = _run(listing, made / "real", tmp_path).table
    first = _run(made / "generated", made / "real", tmp_path).table
    second = _run(made / "other", made / "real", tmp_path).table

    def cell(table: object, name: str) -> float:
        return float(table.cells["generated"][name].value)  # type: ignore[attr-defined]

    assert cell(both, "fd_yamnet") == pytest.approx(cell(first, "fd_yamnet"))
    means = (cell(first, "kl_yamnet_exact") + cell(second, "kl_yamnet_exact")) / 2
    assert cell(both, "kl_yamnet_exact") == pytest.approx(means)
    assert both.cells["generated"]["kl_yamnet_exact"].clips == COUNT
    assert both.cells["generated"]["kl_yamnet_exact"].vectors == 2 * COUNT


def test_a_reference_set_stands_in_rows_of_its_own_at_its_own_n(made: Path, tmp_path: Path) -> None:
    write_clips(made / "training", COUNT + 3, first=100)
    options = Options(workers=1, cache=tmp_path / "cache", reference=made / "training")
    found = evaluate(
        made / "generated",
        made / "real",
        small_protocol(tmp_path),
        options,
        progress=lambda *state: None,
        given=small_extractors(),
    )
    against_itself = evaluate(
        made / "generated",
        made / "real",
        small_protocol(tmp_path),
        Options(workers=1, cache=tmp_path / "cache", reference=made / "real"),
        progress=lambda *state: None,
        given=small_extractors(),
    )

    assert len(found.reference) == COUNT + 3
    assert found.table.cells["reference"]["fd_yamnet"].clips == COUNT
    assert set(found.table.cells["generated_reference"]) == {
        "fd_yamnet",
        "kad_yamnet",
        "kad_effnet_lite0",
        "fd_transnetv2_16f",
    }
    rows = against_itself.table.cells
    assert rows["reference"]["fd_yamnet"].value == pytest.approx(0.0, abs=1e-6)
    assert rows["generated_reference"]["fd_yamnet"].value == pytest.approx(rows["generated"]["fd_yamnet"].value)
    assert "reference" not in _run(made / "generated", made / "real", tmp_path).table.cells


def test_shuffled_pairs_never_keep_a_clip_with_itself() -> None:
    for count in (2, 3, 10, 101):
        order = derangement(count, seed=1)
        assert sorted(order) == list(range(count))
        assert not (order == np.arange(count)).any()


def test_halves_are_disjoint_equal_and_the_same_each_time() -> None:
    members = [(f"c{n}", 0) for n in range(9)]
    first, second = halves(members, seed=0)

    assert len(first) == len(second) == 4
    assert not set(first) & set(second)
    assert (first, second) == halves(members[::-1], seed=0)
    with pytest.raises(InputError, match="too few for two halves"):
        halves(members[:3], seed=0)


def _clip(frames: int = 34, fps: float = 17.0, rate_hz: int = 44_100) -> DecodedClip:
    images = np.zeros((frames, 8, 8, 3), np.uint8) + np.arange(frames, dtype=np.uint8)[:, None, None, None]
    left = np.linspace(0.0, 0.5, rate_hz * frames // int(fps), dtype=np.float32)
    return DecodedClip(frames=images, channels=np.stack([left, left * 0]), rate_hz=rate_hz, fps=fps)


def _rule(fps: float | None, frames: int | None = None, least: int = 1) -> VideoRule:
    return VideoRule(fps=fps, frames=frames, min_frames=least, size_px=8, crop="none", filter="bilinear")


@pytest.mark.parametrize(
    ("fps", "frames", "wanted"),
    [
        (None, None, list(range(34))),
        (17.0, 3, [0, 1, 2]),
        (8.5, None, list(range(0, 34, 2))),
        (25.0, 6, [0, 0, 1, 2, 2, 3]),
        (0.5, None, [0]),
    ],
)
def test_frames_are_those_that_a_player_shows_at_each_time(
    fps: float | None, frames: int | None, wanted: list[int]
) -> None:
    found = chosen_frames(_clip(), _rule(fps), frames)
    assert found[:, 0, 0, 0].tolist() == wanted


def test_the_protocols_audio_rule_stands_before_the_networks() -> None:
    rule = AudioRule(rate_hz=16_000, channels="mean", remove_dc=True)
    clip = _clip()
    own = prepared_waveform(clip, rule, None)
    first = prepared_waveform(clip, rule, Reading(duration_s=2, fps=17, size_px=64, channels="first", remove_dc=False))

    assert own.shape == first.shape == (32_000,)
    assert abs(float(own.mean())) < 1e-3
    assert float(first[16_000]) == pytest.approx(0.25, abs=1e-3)
    assert float(own.max()) == pytest.approx(0.125, abs=0.01)


def test_the_worst_case_is_silent_and_frozen() -> None:
    found = worst(_clip())
    assert found.frames is not None
    assert found.channels is not None
    assert not found.channels.any()
    assert not found.frames.any()


def test_starts_of_a_list_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    lines = [{"clip_id": f"a-{ms}", "path": "a.mp4", "start_ms": ms} for ms in (0, 1500)]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))

    assert [clip.start_ms for clip in read_set(tmp_path / "l.jsonl", "real").clips] == [0, 1500]
