"""Weight files: published ones load whole or not at all, ours come back bit for bit."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.standin import stand_in_state
from uniform.errors import CheckpointError, WeightsError
from uniform.model.checkpoint import ModelMetadata, initialise_from, load_model, save_model
from uniform.model.config import ModelConfig
from uniform.model.convert import Origin
from uniform.model.stdit3 import STDiT3
from uniform.model.transformer import UniForm
from uniform.spec import Spec

SPEC = Spec(name="tiny", height_px=32, width_px=32, duration_s=1, mel_bins=8)
CONFIG = ModelConfig(depth=2, width=48, heads=2, text_width=16, text_tokens=6, qk_norm_spatial=False, input_sq_size=32)
METADATA = ModelMetadata(model=CONFIG, spec=SPEC, diffusion={"objective": "epsilon"}, identity={"a": "b"}, step=7)


def uniform(**changes: Any) -> UniForm:
    return UniForm(replace(CONFIG, **changes), SPEC.video_latent, SPEC.audio_latent)


def pixart_state(**extra: tuple[int, ...]) -> dict[str, Tensor]:
    """A PixArt `.pth` of CONFIG's size, in the published layout."""
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 4, 48), "y_embedder.y_embedding": (4, 16)}
    for key, value in STDiT3(CONFIG).state_dict().items():
        if not key.startswith(("temporal_blocks.", "rope.", "fps_embedder.", "y_embedder.y_embedding")):
            shape = tuple(value.shape)
            shapes[key.replace("spatial_blocks.", "blocks.")] = shape[:2] + shape[3:] if len(shape) == 5 else shape
    return stand_in_state({**shapes, **extra})


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pixart") / "transformer"
    PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        cross_attention_dim=48,
        sample_size=4,
        caption_channels=16,
        interpolation_scale=1,
    ).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_one_frame_without_qk_norm_equals_diffusers_pixart(diffusers_folder: Path) -> None:
    from diffusers import PixArtTransformer2DModel

    theirs = PixArtTransformer2DModel.from_pretrained(diffusers_folder).eval()
    ours = STDiT3(CONFIG).eval()
    report = initialise_from(ours, diffusers_folder)
    generator = torch.Generator().manual_seed(3)
    noisy, text = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 5, 16, generator=generator)
    mask, time = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]), torch.tensor([37.0, 912.0])

    wanted = theirs(noisy, text, timestep=time, encoder_attention_mask=mask).sample
    found = ours(noisy[:, :, None], time, text, mask.bool())[:, :, 0]

    assert report.origin is Origin.DIFFUSERS
    assert report.unused == []
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())


def test_diffusers_pipeline_folder_loads_into_uniform(diffusers_folder: Path) -> None:
    model = uniform(qk_norm_spatial=True)

    report = initialise_from(model, diffusers_folder.parent)

    assert "spatial_blocks.1.attn.qkv.weight" in report.taken
    assert report.taken["spatial_blocks.1.cross_attn.kv_linear.bias"] == (
        "transformer_blocks.1.attn2.to_k.bias",
        "transformer_blocks.1.attn2.to_v.bias",
    )
    assert {key.split(".")[0] for key in report.fresh} == {
        *("rope", "fps_embedder", "temporal_blocks", "task_embedder", "y_embedder", "spatial_blocks"),
    }
    assert any("at step 0 the outputs differ" in note for note in report.notes)


def test_the_null_caption_of_published_diffusers_folders_is_taken(diffusers_folder: Path, tmp_path: Path) -> None:
    name = "diffusion_pytorch_model.safetensors"  # what PixArt's authors published; today's diffusers saves it not
    null = torch.randn(6, 16, generator=torch.Generator().manual_seed(4))
    save_file({**load_file(diffusers_folder / name), "caption_projection.y_embedding": null}, tmp_path / name)
    model = uniform()

    report = initialise_from(model, tmp_path)

    assert report.taken["y_embedder.y_embedding"] == ("caption_projection.y_embedding",)
    assert torch.equal(model.y_embedder.y_embedding, null)


def test_weights_of_another_uniform_say_what_they_were_trained_on(tmp_path: Path) -> None:
    metadata = replace(METADATA, identity={"spec.fps": "17", "video codec": "dct 1"})
    save_model(tmp_path / "m.safetensors", uniform(), metadata)
    here = replace(metadata, diffusion={"objective": "flow"}, identity={"spec.fps": "17", "video codec": "other 2"})

    report = initialise_from(uniform(), tmp_path / "m.safetensors", here)
    assert report.notes == ["video codec was dct 1, and is other 2 here", "objective was epsilon, and is flow here"]

    tokens = replace(CONFIG, layout="tokens")
    with pytest.raises(WeightsError, match=r"model\.layout was grid, and is tokens here"):
        initialise_from(uniform(layout="tokens"), tmp_path / "m.safetensors", replace(here, model=tokens))


def test_numbered_parts_are_read_through_their_index(diffusers_folder: Path, tmp_path: Path) -> None:
    state = load_file(diffusers_folder / "diffusion_pytorch_model.safetensors")
    keys = sorted(state)
    names = {key: f"part-{index % 2}.safetensors" for index, key in enumerate(keys)}
    for name in set(names.values()):
        save_file({key: state[key] for key in keys if names[key] == name}, tmp_path / name)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    whole, parts = STDiT3(CONFIG), STDiT3(CONFIG)

    initialise_from(whole, diffusers_folder)
    initialise_from(parts, tmp_path)

    assert all(torch.equal(value, parts.state_dict()[key]) for key, value in whole.state_dict().items())
    index.write_text(json.dumps({"weight_map": {"a": "../evil.safetensors"}}))
    with pytest.raises(WeightsError, match="evil"):
        initialise_from(parts, tmp_path)


def test_pixart_pth_fills_every_spatial_block(tmp_path: Path) -> None:
    state = pixart_state()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "PixArt-XL-2-512x512.pth")
    model = uniform()

    report = initialise_from(model, tmp_path / "PixArt-XL-2-512x512.pth")

    own = model.state_dict()
    assert all(torch.equal(own[f"spatial_{key}"], value) for key, value in state.items() if key.startswith("blocks."))
    assert torch.equal(own["x_embedder.proj.weight"][:, :, 0], state["x_embedder.proj.weight"])
    assert torch.equal(own["y_embedder.y_embedding"][4:], state["y_embedder.y_embedding"][-1:].expand(2, -1))
    assert report.unused == ["pos_embed"]
    assert "PixArt (.pth)" in str(report)
    assert "temporal_blocks" in str(report)


def test_split_weights_start_as_copies_of_the_videos(tmp_path: Path) -> None:
    torch.save(pixart_state(), tmp_path / "pixart.pth")
    model = uniform(share="split")

    initialise_from(model, tmp_path / "pixart.pth")

    own = model.state_dict()
    assert torch.equal(own["audio_embedder.proj.weight"], own["x_embedder.proj.weight"])
    assert torch.equal(own["audio_final.linear.weight"], own["final_layer.linear.weight"])


def test_variance_half_is_left_out_of_a_head_without_it(tmp_path: Path) -> None:
    state = pixart_state()
    torch.save(state, tmp_path / "pixart.pth")
    model = uniform(learned_variance=False)

    report = initialise_from(model, tmp_path / "pixart.pth")

    wanted = state["final_layer.linear.bias"].view(4, 8)[:, :4].flatten()  # 4 cells a patch, 8 channels a cell
    assert torch.equal(model.final_layer.linear.bias.data, wanted)
    assert any("variance" in note for note in report.notes)


def test_micro_conditions_of_large_pixart_are_named_in_the_report(tmp_path: Path) -> None:
    torch.save(pixart_state(**{"csize_embedder.mlp.0.weight": (16, 256)}), tmp_path / "pixart.pth")

    report = initialise_from(uniform(), tmp_path / "pixart.pth")

    assert "csize_embedder.mlp.0.weight" in report.unused
    assert any("image sizes" in note for note in report.notes)


def test_opensora_stdit3_loads_whole_into_uniform(tmp_path: Path) -> None:
    source = STDiT3(replace(CONFIG, qk_norm_spatial=True))
    save_file(
        stand_in_state({k: tuple(v.shape) for k, v in source.state_dict().items()}), tmp_path / "model.safetensors"
    )
    model = uniform(qk_norm_spatial=True)

    report = initialise_from(model, tmp_path)

    assert report.origin is Origin.STDIT3
    assert report.fresh == ["task_embedder.weight"]
    assert len(report.taken) == len(source.state_dict())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("blocks.1.mlp.fc1.weight"), r"1 tensors are missing: spatial_blocks.1.mlp.fc1.weight"),
        (lambda state: state.update({"lora_A": torch.zeros(2)}), r"none that we expect: lora_A"),
        (
            lambda state: state.update({"blocks.0.attn.proj.bias": torch.zeros(3)}),
            r"another shape: .*\(3,\), wanted \(48,\)",
        ),
        (lambda state: state.update({"blocks.2.mlp.fc1.bias": torch.zeros(3)}), r"none that we expect: blocks.2"),
    ],
    ids=["missing", "unexpected", "shape", "deeper"],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path, change: Any, what: str) -> None:
    state = pixart_state()
    change(state)
    torch.save(state, tmp_path / "pixart.pth")
    model = uniform()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    with pytest.raises(WeightsError, match=what):
        initialise_from(model, tmp_path / "pixart.pth")

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_unknown_networks_are_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")

    with pytest.raises(WeightsError, match="unknown network"):
        initialise_from(uniform(), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="no weights found"):
        initialise_from(uniform(), tmp_path / "nothing")


def test_a_pickle_with_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Bomb()}, tmp_path / "evil.pth")

    with pytest.raises(WeightsError, match="cannot be read"):
        initialise_from(uniform(), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_saved_model_loads_bit_for_bit_with_its_metadata(tmp_path: Path) -> None:
    model = UniForm(CONFIG, SPEC.video_latent, SPEC.audio_latent, seed=5)

    save_model(tmp_path / "model.safetensors", model, METADATA)
    loaded, metadata = load_model(tmp_path / "model.safetensors")

    assert metadata == METADATA
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert not loaded.training


def training_folder(run: Path, step: int, seed: int) -> UniForm:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    values = {
        "format_version": 1,
        "config": {"model": asdict(CONFIG), "diffusion": {"objective": "v"}},
        "spec": SPEC.as_dict(),
        "codecs": {"video": {"name": "dct"}},
        "identity": {},
        "step": step,
    }
    model = UniForm(CONFIG, SPEC.video_latent, SPEC.audio_latent, seed=seed)
    averaged = UniForm(CONFIG, SPEC.video_latent, SPEC.audio_latent, seed=seed + 1)
    save_file(model.state_dict(), folder / "model.safetensors")
    save_file(averaged.state_dict(), folder / "ema.safetensors")
    values["files"] = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / "checkpoint.json").write_text(json.dumps(values))
    return averaged


def test_a_run_gives_its_newest_averaged_weights(tmp_path: Path) -> None:
    training_folder(tmp_path, 50, seed=0)
    newest = training_folder(tmp_path, 100, seed=2)

    averaged, metadata = load_model(tmp_path)
    raw, _ = load_model(tmp_path, ema=False)

    assert (metadata.step, metadata.diffusion, metadata.codecs) == (100, {"objective": "v"}, {"video": {"name": "dct"}})
    wanted = newest.state_dict()["task_embedder.weight"]
    assert torch.equal(averaged.state_dict()["task_embedder.weight"], wanted)
    assert not torch.equal(raw.state_dict()["task_embedder.weight"], wanted)


def test_weights_of_another_layout_are_refused(tmp_path: Path) -> None:
    training_folder(tmp_path, 50, seed=0)
    folder = tmp_path / "checkpoints" / "step-00000050"
    save_file(uniform(layout="tokens").state_dict(), folder / "ema.safetensors")
    values = json.loads((folder / "checkpoint.json").read_text())
    values["files"]["ema.safetensors"] = (folder / "ema.safetensors").stat().st_size
    (folder / "checkpoint.json").write_text(json.dumps(values))

    with pytest.raises(CheckpointError, match="missing, unknown or of another shape"):
        load_model(tmp_path)


def test_a_path_without_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")

    with pytest.raises(CheckpointError, match="neither"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no metadata"):
        load_model(tmp_path / "a.safetensors")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, uniform(), METADATA)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(CheckpointError):
        load_model(path)


def test_a_run_can_begin_with_another_runs_weights(tmp_path: Path) -> None:
    averaged = training_folder(tmp_path, 50, seed=0)
    model = uniform()

    report = initialise_from(model, tmp_path)

    assert report.fresh == []
    assert torch.equal(model.task_embedder.weight, averaged.task_embedder.weight)
