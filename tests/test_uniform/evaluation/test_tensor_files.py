"""Weights files from strangers: every published form is read, nothing is run, and nothing else is accepted."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.evaluation_standin import checkpoint, holder_of, published_shapes, write_script
from uniform.errors import WeightsError
from uniform.evaluation.extractors.catalogue import PublishedFile
from uniform.evaluation.extractors.i3d import I3d
from uniform.evaluation.extractors.tensor_files import (
    NPZ,
    NUMPY_NAMES,
    SCRIPT,
    STATE_DICT,
    Layout,
    load_network,
    read_tensors,
    shapes_of,
)

Write = Callable[[dict[str, Tensor], Path], None]
ANY_FORM = STATE_DICT | SCRIPT | NPZ


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()


def _state() -> dict[str, Tensor]:
    return dict(_network().state_dict())


def _write_script(state: dict[str, Tensor], path: Path) -> None:
    write_script(holder_of(state), torch.zeros(1), path)


def _write_npz(state: dict[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{key: tensor.numpy() for key, tensor in state.items()})


WRITERS: dict[str, Write] = {
    "safetensors": lambda state, path: save_file(state, path),
    "state dict": lambda state, path: torch.save(state, path),
    "old state dict": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "TorchScript": _write_script,
    "npz": _write_npz,
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_back_its_tensors_and_its_digest(form: str, tmp_path: Path) -> None:
    import hashlib

    state, path = _state(), tmp_path / "weights.bin"  # the name says nothing
    WRITERS[form](state, path)

    found, record = read_tensors(path, Layout(shapes=shapes_of(_network()), forms=frozenset({form})))

    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.bytes == path.stat().st_size
    with pytest.raises(WeightsError, match=f"a file of the form '{form}'; wanted"):
        read_tensors(path, Layout(shapes=shapes_of(_network()), forms=ANY_FORM - {form}))


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.weight"), r"1 missing:\n  0\.weight"),
        (lambda state: state.update({"1.running_var": torch.ones(3)}), r"1\.running_var: found \(3,\), wanted \(2,\)"),
        (lambda state: state["0.bias"].fill_(torch.nan), r"NaN or infinity in 1 tensors:\n  0\.bias"),
        (lambda state: state["1.weight"].fill_(torch.inf), r"NaN or infinity in 1 tensors:\n  1\.weight"),
    ],
)
def test_missing_misshaped_and_broken_tensors_are_named(
    form: str, change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
) -> None:
    state, path = {key: tensor.clone() for key, tensor in _state().items()}, tmp_path / "weights"
    change(state)
    WRITERS[form](state, path)

    with pytest.raises(WeightsError, match=message):
        read_tensors(path, Layout(shapes=shapes_of(_network()), forms=ANY_FORM))


def test_a_surplus_tensor_is_named(tmp_path: Path) -> None:
    torch.save(_state() | {"extra.weight": torch.zeros(1)}, tmp_path / "w")

    with pytest.raises(WeightsError, match=r"1 surplus:\n  extra\.weight"):
        read_tensors(tmp_path / "w", Layout(shapes=shapes_of(_network())))


def test_counters_of_batches_may_be_absent_and_numbers_of_another_type_may_not(tmp_path: Path) -> None:
    state = _state()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "fewer")
    torch.save(state | {"0.bias": torch.zeros(2, dtype=torch.long)}, tmp_path / "whole")

    network = _network()
    load_network(network, tmp_path / "fewer", Layout(shapes=shapes_of(network)))

    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(WeightsError, match=r"another type in 1 tensors:\n  0\.bias"):
        load_network(_network(), tmp_path / "whole", Layout(shapes=shapes_of(network)))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_stands_beside_the_weights_is_left_alone(tmp_path: Path, zipped: bool) -> None:
    sampler = {"indexes": np.arange(5), "pointer": np.int64(3), "name": b"bytes"}
    content = {"iteration": 3, "model": _state(), "sampler": sampler}
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=zipped)
    layout = Layout(shapes=shapes_of(_network()), inside="model", inert_names=NUMPY_NAMES)

    found, _ = read_tensors(tmp_path / "w", layout)

    assert torch.equal(found["0.weight"], content["model"]["0.weight"])
    with pytest.raises(WeightsError, match=r"it names numpy\._core\.multiarray\._reconstruct"):
        read_tensors(tmp_path / "w", Layout(shapes=shapes_of(_network()), inside="model"))
    with pytest.raises(WeightsError, match="no table 'weights' in it"):
        read_tensors(tmp_path / "w", Layout(shapes={}, inside="weights", inert_names=NUMPY_NAMES))


def test_views_and_half_precision_are_read_as_they_are(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"turned": base.T, "row": base[1], "half": base.half(), "brain": base.bfloat16(), "none": torch.zeros(0, 2)}
    for zipped in (True, False):
        torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=zipped)
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}

        found, _ = read_tensors(tmp_path / "w", Layout(shapes=shapes))

        assert all(
            torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype for key, tensor in state.items()
        )


def test_all_344_tensors_of_a_traced_i3d_give_the_same_features(tmp_path: Path) -> None:
    original = I3d(eps=1e-3).eval()
    original.load_state_dict(checkpoint(published_shapes("i3d"), 1.4))
    clip = torch.linspace(-1, 1, 3 * 9 * 224 * 224).reshape(1, 3, 9, 224, 224)
    write_script(original, clip, tmp_path / "traced.pt")
    read = I3d(eps=1e-3)

    found, _ = read_tensors(tmp_path / "traced.pt", Layout(shapes=shapes_of(read), forms=SCRIPT))
    load_network(read, tmp_path / "traced.pt", Layout(shapes=shapes_of(read), forms=SCRIPT))

    assert len(found) == 344
    assert all(torch.equal(found[key], tensor) for key, tensor in original.state_dict().items())
    with torch.no_grad():
        assert torch.equal(read(clip), original(clip))


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _with_pickle(archive: Path, target: Path, content: bytes) -> None:
    """A copy of a torch archive with another `data.pkl`."""
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(target, "w") as after:
        for member in before.infolist():
            kept = content if member.filename.endswith("/data.pkl") else before.read(member)
            after.writestr(zipfile.ZipInfo(member.filename), kept)


def test_nothing_foreign_is_run_whatever_the_container(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    evil = {"0.weight": torch.zeros(1), "x": _Evil(proof)}
    torch.save(evil, tmp_path / "zip")
    torch.save(evil, tmp_path / "old", _use_new_zipfile_serialization=False)
    _write_script(_state(), tmp_path / "script")
    _with_pickle(tmp_path / "script", tmp_path / "traced", pickle.dumps(_Evil(proof), protocol=2))
    torch.save(_network(), tmp_path / "module")
    for name, foreign in (
        ("zip", r"posix\.mkdir|nt\.mkdir"),
        ("old", r"posix\.mkdir|nt\.mkdir"),
        ("traced", r"posix\.mkdir|nt\.mkdir"),
        ("module", r"torch\.nn\.modules"),
    ):
        with pytest.raises(WeightsError, match=rf"refused: it names ({foreign}).*nothing in it is run"):
            read_tensors(tmp_path / name, Layout(shapes={"0.weight": (1,)}, forms=ANY_FORM))
    for protocol in range(6):
        (tmp_path / "bare").write_bytes(pickle.dumps(evil | {"0.weight": 0}, protocol=protocol))
        with pytest.raises(WeightsError, match="A bare pickle is a program and is never read"):
            read_tensors(tmp_path / "bare", Layout(shapes={"0.weight": (1,)}, forms=ANY_FORM))
    np.savez(tmp_path / "objects.npz", w=np.array([_Evil(proof)], dtype=object))
    with pytest.raises(WeightsError, match="holds object; only plain numbers"):
        read_tensors(tmp_path / "objects.npz", Layout(shapes={"w": (1,)}, forms=ANY_FORM))
    assert not proof.exists()


GIGABYTE_FLOATS = 2**28


def _claim(elements: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of {"w": tensor}, with a storage of `elements` floats."""
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in shape)
    steps = b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in strides)
    text = [b"X" + struct.pack("<i", len(part)) + part for part in (b"w", b"storage", b"0", b"cpu")]
    storage = b"(" + text[1] + b"ctorch\nFloatStorage\n" + text[2] + text[3] + b"\x8a\x08" + struct.pack("<q", elements)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQK\x00(" + numbers + b"t(" + steps + b"t\x89"
    return b"\x80\x02}" + text[0] + tensor + b"ccollections\nOrderedDict\n)RtRs."


def _claiming_zip(path: Path, content: bytes, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", data, compression)


def test_a_gigabyte_claimed_by_a_small_file_is_refused_without_taking_memory(tmp_path: Path) -> None:
    huge = Layout(shapes={"w": (GIGABYTE_FLOATS,)}, forms=ANY_FORM)
    large, whole = (GIGABYTE_FLOATS,), np.zeros(2**18, np.float32).tobytes()
    _claiming_zip(tmp_path / "storage", _claim(GIGABYTE_FLOATS, large, (1,)), whole)
    _claiming_zip(tmp_path / "shape", _claim(2**18, large, (1,)), whole)
    _claiming_zip(tmp_path / "deflated", _claim(2**18, large, (1,)), whole, zipfile.ZIP_DEFLATED)
    _claiming_zip(tmp_path / "text", b"\x80\x02X\xff\xff\xff\x7f", whole)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": large})
    with zipfile.ZipFile(tmp_path / "npz", "w") as archive:
        archive.writestr("w.npy", head.getvalue() + whole)
    text = b'{"w":{"dtype":"F32","shape":[268435456],"data_offsets":[0,1073741824]}}'
    (tmp_path / "safetensors").write_bytes(struct.pack("<Q", len(text)) + text + whole)
    torch.save({"w": torch.zeros(7)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old").read_bytes()
    (tmp_path / "old").write_bytes(old.replace(struct.pack("<q", 7), struct.pack("<q", GIGABYTE_FLOATS)))
    stored = (tmp_path / "storage").read_bytes()
    (tmp_path / "directory").write_bytes(stored.replace(struct.pack("<I", 2**20), struct.pack("<I", 2**30)))

    tracemalloc.start()
    try:
        for name in ("storage", "shape", "deflated", "npz", "safetensors", "old", "directory", "text"):
            layout = huge if name != "old" else Layout(shapes={"w": (7,)}, forms=ANY_FORM)
            with pytest.raises(WeightsError, match=r"refused|not a whole"):
                read_tensors(tmp_path / name, layout)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_a_stride_of_zero_cannot_make_a_small_storage_large(tmp_path: Path) -> None:
    _claiming_zip(tmp_path / "w", _claim(1, (GIGABYTE_FLOATS,), (0,)), b"\0\0\0\0")

    with pytest.raises(WeightsError, match=r"found \(268435456,\), wanted \(4,\)"):
        read_tensors(tmp_path / "w", Layout(shapes={"w": (4,)}))


def test_a_pickle_that_doubles_itself_ends(tmp_path: Path) -> None:
    twice = b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(60))  # each list holds the one before it two times
    doubling = b"\x80\x02](K\x01e" + twice
    _claiming_zip(tmp_path / "w", b"\x80\x02}X\x01\x00\x00\x00w" + doubling[2:] + b"s.", b"")

    with pytest.raises(WeightsError, match="tables inside tables without end"):
        read_tensors(tmp_path / "w", Layout(shapes={"w": (4,)}))


@pytest.mark.parametrize("form", WRITERS)
def test_damaged_bytes_end_in_an_error_of_ours_or_in_whole_tensors(form: str, tmp_path: Path) -> None:
    path, layout = tmp_path / "w", Layout(shapes=shapes_of(_network()), forms=ANY_FORM)
    WRITERS[form](_state(), path)
    whole = path.read_bytes()
    random = np.random.default_rng(20)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for position in random.integers(0, len(whole), 3):
            damaged[position] = random.integers(256)
        cut = len(whole) if random.random() < 0.7 else int(random.integers(len(whole)))
        path.write_bytes(damaged[:cut])
        try:
            found, _ = read_tensors(path, layout)
        except WeightsError:
            refused += 1
        else:
            assert {key: tuple(tensor.shape) for key, tensor in found.items()} == layout.shapes
    assert refused > 40


def test_a_digest_is_known_only_where_it_is_the_published_one(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "w"
    torch.save(_state(), path)
    sha256, md5 = (hashlib.new(name, path.read_bytes()).hexdigest() for name in ("sha256", "md5"))
    layout = Layout(shapes=shapes_of(_network()))

    def known(**stated: str) -> bool:
        return read_tensors(path, layout, PublishedFile(name="w", bytes=1, **stated))[1].known  # type: ignore[arg-type]

    assert known(sha256=sha256)
    assert known(sha256_head=sha256[:8])
    assert known(md5=md5)
    assert not known()
    assert not known(sha256="0" * 64, md5=md5)
    assert not known(sha256_head="0000")
    assert not known(md5="0" * 32)


def test_constants_of_the_method_must_agree(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "window": torch.arange(3.0)}, tmp_path / "w")

    found, _ = read_tensors(tmp_path / "w", Layout(shapes={"w": (2,)}, constants={"window": torch.arange(3.0)}))

    assert list(found) == ["w"]
    with pytest.raises(WeightsError, match="window differs from what the method defines"):
        read_tensors(tmp_path / "w", Layout(shapes={"w": (2,)}, constants={"window": torch.arange(3.0) + 0.01}))


def test_a_folder_an_empty_file_and_a_missing_one_are_plain_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, message in ((".", "cannot be read"), ("empty", "neither safetensors nor"), ("none", "not found")):
        with pytest.raises(WeightsError, match=message):
            read_tensors(tmp_path / name, Layout(shapes={}))
