from dataclasses import replace
from pathlib import Path

import pytest

from uniform.errors import InputError
from uniform.sampling.request import Request, numbered_requests, read_prompts, task_by_name
from uniform.tasks import Task

T2AV = Request(name="a", task=Task.T2AV, text="a red ball bounces")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "needs a text"),
        ({"text": "  "}, "prompt is empty"),
        ({"name": "../a"}, "not a plain file name"),
        ({"name": ""}, "not a plain file name"),
        ({"name": "ö" * 101}, "longer than 200 bytes"),
        ({"media": Path("x.wav")}, "takes no media file"),
        ({"task": Task.A2V}, "needs an audio file"),
        ({"task": Task.V2A, "media": Path("nowhere.mp4")}, "is not a file"),
        ({"start_ms": -1}, "-1 ms"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(T2AV, **change).check()


def test_numbered_requests_differ_in_name_and_seed() -> None:
    assert [(r.name, r.seed) for r in numbered_requests(replace(T2AV, seed=7), 2)] == [("a-000", 7), ("a-001", 8)]


def test_a_number_of_samples_below_1_is_refused() -> None:
    with pytest.raises(InputError, match="1 or more"):
        numbered_requests(T2AV, 0)


def test_the_digest_changes_with_the_bytes_of_the_media_file(tmp_path: Path) -> None:
    audio = tmp_path / "a.wav"
    audio.write_bytes(b"1")
    request = Request(name="a", task=Task.A2V, media=audio)
    before = request.digest()
    audio.write_bytes(b"2")

    assert request.digest() != before


def test_a_text_file_is_one_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("﻿first\n\n second\r\n", encoding="utf-8")

    found = read_prompts(file, replace(T2AV, seed=3))

    assert [(r.text, r.name, r.seed) for r in found] == [
        ("first", "prompts-000001", 3),
        ("second", "prompts-000003", 5),
    ]


def test_a_jsonl_file_can_set_every_field(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"task": "a2v", "media": "x.wav", "seed": 9, "name": "mine", "start_ms": 500}\n')

    assert read_prompts(file, replace(T2AV, text=None)) == [
        Request(name="mine", task=Task.A2V, media=tmp_path / "x.wav", seed=9, start_ms=500)
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txt": "a"}', "did you mean 'text'"),
        ('{"seed": "a"}', "'seed' is 'a'; wanted int"),
        ("[1]", "p.jsonl:1: not a JSON object"),
        ("{", "p.jsonl:1: not a JSON object"),
        ('{"task": "t2v", "text": "a"}', "p.jsonl:1: .*did you mean 't2av'"),
        ('{"name": "a", "text": "a"}\n{"name": "a", "text": "b"}', "two samples are called 'a'"),
        ("\n", "holds no prompt"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(line)

    with pytest.raises(InputError, match=message):
        read_prompts(file, T2AV)


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'v2a'"):
        task_by_name("v2aa")
