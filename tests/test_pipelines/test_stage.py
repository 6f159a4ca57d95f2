"""Every stage in the repository keeps the contract; an unknown one is refused with the nearest name."""

import contextlib
import dataclasses
import pickle
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.manifest.table import SCHEMA
from pipelines.stage import Context, Resources, Stage, Store, known_stages, stage_class
from tests.support.fake_stages import rows
from tests.support.paths import ROOT
from uniform.errors import ConfigError, WeightsError
from uniform.fingerprint import canonical_json
from uniform.media.clip_file import write_clip
from uniform.media.notes import Note
from uniform.spec import TOY


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that looks for published weights must not wait for a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@contextlib.contextmanager
def weights_may_be_missing(name: str) -> Iterator[None]:
    try:
        yield
    except WeightsError as error:
        pytest.skip(f"{name} needs published weights: {str(error).splitlines()[0]}")


CHOSEN = {"caption_video": {"captioner": "server"}}
"""Options of stages whose defaults want weights, even to say what they are made of."""


@pytest.mark.parametrize("name", known_stages())
def test_every_stage_keeps_the_contract(name: str) -> None:
    found = stage_class(name)
    stage = found(**CHOSEN.get(name, {}))

    assert isinstance(stage, Stage)
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert isinstance(stage.resources, Resources)
    assert isinstance(stage.store, Store)
    assert bool(stage.gives) == (stage.store.kind != "ledger")
    assert set(getattr(stage, "reads", ())) <= set(SCHEMA.names)
    assert pickle.loads(pickle.dumps(stage)) == stage
    with weights_may_be_missing(name):
        assert canonical_json(stage.provenance(TOY)) == canonical_json(found(**CHOSEN.get(name, {})).provenance(TOY))


@pytest.mark.parametrize("name", known_stages())
def test_every_stage_accepts_a_unit_without_clips(name: str) -> None:
    with weights_may_be_missing(name):
        assert list(stage_class(name)(**CHOSEN.get(name, {})).open(Context(spec=TOY))(iter(()))) == []


def test_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no stage 'clip_medi'; did you mean 'clip_media'"):
        stage_class("clip_medi")


def test_the_stage_in_the_documentation_works(tmp_path: Path) -> None:
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding_a_stage.md").read_text(), flags=re.DOTALL)
    module = ModuleType("quiet")
    sys.modules["quiet"] = module
    exec(compile(code, "quiet.py", "exec"), module.__dict__)
    stage = module.Stage(floor_dbfs=-40.0)
    clips = []
    for name, loudness in (("loud", 0.3), ("quiet", 0.003)):
        frames = np.zeros((TOY.frames, TOY.height_px, TOY.width_px, 3), np.uint8)
        tone = loudness * np.sin(np.arange(TOY.samples) / 8).astype(np.float32)
        write_clip(tmp_path / f"{name}.mp4", frames, tone, Fraction(TOY.fps), TOY.rate_hz)
        clips.append(Clip(rows(1)[0], {"mp4": (tmp_path / f"{name}.mp4").read_bytes()}))

    loud, quiet = stage.open(Context(spec=TOY))(iter(clips))

    assert isinstance(stage, Stage)
    assert (loud.dropped, len(loud.notes)) == (None, 1)
    assert quiet.dropped is not None
    assert quiet.dropped.code == "silent"


def test_clips_are_values() -> None:
    clip = Clip(rows(1)[0], {"a": 1})

    changed = clip.with_fields(b=2).note(Note("late_ms", 5)).drop("still", "does not move")

    assert (clip.fields, clip.notes, clip.dropped) == ({"a": 1}, (), None)
    assert (dict(changed.fields), changed.notes, changed.dropped and changed.dropped.code) == (
        {"a": 1, "b": 2},
        (Note("late_ms", 5),),
        "still",
    )


def test_every_code_has_a_policy_and_a_meaning() -> None:
    assert all(
        code.meaning and code.policy in ("rejected", "permanent", "over_limit", "needs_credentials", "retryable")
        for code in CODES.values()
    )
