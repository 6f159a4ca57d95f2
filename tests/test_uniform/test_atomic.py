from pathlib import Path

import pytest

from uniform.atomic import TEMPORARY_PREFIX, replacing, write_bytes
from uniform.errors import MediaError
from uniform.fingerprint import canonical_json, digest, file_sha256


def test_a_file_appears_whole_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "a.bin", b"content")

    assert [(p.name, p.read_bytes()) for p in (tmp_path / "new").iterdir()] == [("a.bin", b"content")]


def test_a_block_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert temporary.name.startswith(TEMPORARY_PREFIX)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()

    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest(None)) == 16


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")

    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_media_error_crosses_processes_with_its_code() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("truncated", "ends at 2.1 s")))

    assert (error.code, error.reason, str(error)) == ("truncated", "ends at 2.1 s", "truncated: ends at 2.1 s")
