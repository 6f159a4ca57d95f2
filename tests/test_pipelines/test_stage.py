"""Every stage in the repository keeps the contract; an unknown one is refused with the nearest name."""

import dataclasses
import pickle

import pytest

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.manifest import SCHEMA
from pipelines.stage import Context, Resources, Stage, Store, known_stages, stage_class
from tests.test_pipelines.fakes import rows
from uniform.errors import ConfigError
from uniform.fingerprint import canonical_json
from uniform.spec import TOY


@pytest.mark.parametrize("name", known_stages())
def test_every_stage_keeps_the_contract(name: str) -> None:
    found = stage_class(name)
    stage = found()

    assert isinstance(stage, Stage)
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert isinstance(stage.resources, Resources)
    assert isinstance(stage.store, Store)
    assert bool(stage.gives) == (stage.store.kind != "ledger")
    assert set(getattr(stage, "reads", ())) <= set(SCHEMA.names)
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert canonical_json(stage.provenance(TOY)) == canonical_json(found().provenance(TOY))


@pytest.mark.parametrize("name", known_stages())
def test_every_stage_accepts_a_unit_without_clips(name: str) -> None:
    assert list(stage_class(name)().open(Context(spec=TOY))(iter(()))) == []


def test_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no stage 'clip_medi'; did you mean 'clip_media'"):
        stage_class("clip_medi")


def test_clips_are_values() -> None:
    clip = Clip(rows(1)[0], {"a": 1})

    changed = clip.with_fields(b=2).note("late").reject("still", "does not move")

    assert (clip.fields, clip.notes, clip.verdict) == ({"a": 1}, (), None)
    assert (dict(changed.fields), changed.notes, changed.verdict and changed.verdict.code) == (
        {"a": 1, "b": 2},
        ("late",),
        "still",
    )


def test_every_code_has_a_policy_and_a_meaning() -> None:
    assert all(code.meaning and code.policy in ("rejected", "permanent", "transient") for code in CODES.values())
