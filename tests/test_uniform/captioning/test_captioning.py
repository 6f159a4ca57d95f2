"""Prompts, captioners by name, and captioning: batches, retries, memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.hub_cache import COMMIT, put_in_cache, use_cache
from tests.support.pllava_folder import write_pllava
from uniform.captioning.base import Answer, Decoding, Failure, Frames, Question
from uniform.captioning.caption_retry import CaptionResult, CaptionRetry, Speed
from uniform.captioning.files import find_files
from uniform.captioning.frames import chosen
from uniform.captioning.gate import Rules
from uniform.captioning.prompts import known_prompts, read_prompt
from uniform.captioning.settings import known_captioners, read_captioner
from uniform.captioning.wording import label_words
from uniform.codecs.catalogue import catalogue
from uniform.codecs.fetch import fetch
from uniform.errors import ConfigError, WeightsError
from uniform.renamed import warn_renamed

GOOD = "A dog runs along the sea."


class Scripted:
    """A captioner with scripted answers that records its questions."""

    def __init__(self, script: dict[str, Sequence[Answer | Failure]], most: int = 100) -> None:
        self.script, self.most = script, most
        self.batches: list[list[str]] = []
        self.asked: dict[str, int] = {}

    def prepare(self, frames: Frames) -> None:
        return None

    def prompt_tokens(self, system: str, user: str) -> int:
        return len(user)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer | Failure]:
        names = [question.user for question in questions]
        if len(names) > self.most or "huge" in names:
            raise MemoryError("CUDA out of memory")
        self.batches.append(names)
        found = []
        for name in names:
            number = self.asked.setdefault(name, 0)
            self.asked[name] += 1
            answers = self.script.get(name, [Answer(GOOD, "stop", 7)])
            found.append(answers[min(number, len(answers) - 1)])
        return found


AGAIN = Decoding(repetition_penalty=1.2)


def asked(
    script: dict[str, Sequence[Answer | Failure]], names: Sequence[str], again: Decoding | None = AGAIN, most: int = 100
) -> tuple[list[CaptionResult | None], Scripted, CaptionRetry, Speed]:
    captioner, speed = Scripted(script, most), Speed()
    retry = CaptionRetry(captioner, Decoding(), again, Rules(), batch_clips=4)
    found = retry.caption([Question(None, "", name) for name in names], speed)
    return found, captioner, retry, speed


def test_questions_go_in_batches_by_length_and_answers_come_back_in_order() -> None:
    names = ["ffffff", "a", "eeeee", "bb", "dddd", "ccc"]

    found, captioner, _, speed = asked({name: [Answer(f"{name} {GOOD}", "stop", 3)] for name in names}, names)

    assert captioner.batches == [["a", "bb", "ccc", "dddd"], ["eeeee", "ffffff"]]
    assert [result and result.caption.split()[0] for result in found] == names
    assert (speed.clips, speed.tokens, speed.retried) == (6, 18, 0)


def test_a_bad_caption_is_retried_once_and_the_second_is_kept() -> None:
    bad, good = Answer("very very very very big", "length", 5), Answer(GOOD, "stop", 7)

    found, captioner, _, speed = asked({"x": [bad, good, bad]}, ["x", "y"])

    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].caption, found[0].attempt, found[0].code) == (GOOD, 2, None)
    assert found[0].notes[0].startswith("retried after caption_loop: 'very' comes 4 times")
    assert (found[1].attempt, found[1].notes) == (1, ())
    assert captioner.asked == {"x": 2, "y": 1}
    assert (speed.retried, dict(speed.codes)) == (1, {})


def test_two_bad_captions_drop_the_clip_with_the_second_code_and_both_reasons() -> None:
    loop, refusal = Answer("very very very very big", "stop", 5), Answer("I'm sorry.", "stop", 3)

    found, _, _, speed = asked({"x": [loop, refusal]}, ["x"])

    assert found[0] is not None
    assert (found[0].code, found[0].attempt) == ("caption_refusal", 2)
    assert "caption_loop" in found[0].reason
    assert speed.codes == {"caption_refusal": 1}


def test_an_empty_answer_has_a_drop_code() -> None:
    found, captioner, _, _ = asked({"x": [Answer("", "stop", 0)]}, ["x"])

    assert found[0] is not None
    assert (found[0].code, captioner.asked["x"]) == ("caption_empty", 2)


def test_a_cut_caption_is_fixed_only_after_the_retry_failed() -> None:
    cut = Answer(f"{GOOD} In the", "length", 9)

    fixed, captioner, _, _ = asked({"x": [cut, Answer("no no no no", "stop", 4)]}, ["x"])
    alone, other, _, _ = asked({"x": [cut]}, ["x"], again=None)

    assert captioner.asked["x"] == 2
    assert other.asked["x"] == 1
    for found in (fixed[0], alone[0]):
        assert found is not None
        assert (found.caption, found.attempt, found.finish, found.code) == (GOOD, 1, "length", None)
        assert "cut to its whole sentences" in found.notes[0]


def test_out_of_memory_halves_the_batch_and_loses_no_clip() -> None:
    names = [f"{'x' * n}" for n in range(1, 8)]

    found, captioner, retry, _ = asked({}, names, most=2)

    assert all(result is not None and result.caption == GOOD for result in found)
    assert max(map(len, captioner.batches)) == 2
    assert retry.batches.size == 2


def test_a_clip_that_does_not_fit_alone_has_no_result_and_the_others_do() -> None:
    found, _, _, _ = asked({}, ["a", "huge", "b"])

    assert found[1] is None
    assert [result and result.caption for result in (found[0], found[2])] == [GOOD, GOOD]


def test_a_question_without_an_answer_has_a_retryable_code() -> None:
    found, _, _, _ = asked({"x": [Failure("HTTP 500")]}, ["x", "y"])

    assert found[0] is not None
    assert (found[0].code, found[0].reason) == ("caption_server", "HTTP 500")
    assert found[1] is not None
    assert found[1].code is None


@pytest.mark.parametrize("name", known_prompts())
def test_every_built_in_prompt_can_be_filled(name: str) -> None:
    prompt = read_prompt(name)
    system, user = prompt.filled({**label_words(["rain", "dog"]), "dataset": "x"})

    assert prompt.version >= 1
    assert user
    assert "\n" not in system + user
    assert prompt.names_labels == ("rain, dog" in system + user)


@pytest.mark.parametrize("name", known_captioners())
def test_every_built_in_captioner_has_a_prompt_and_a_retry(name: str) -> None:
    settings = read_captioner(name)

    assert read_prompt(settings.prompt).user
    assert settings.again is not None
    assert settings.again != settings.decoding
    assert settings.backend != "pllava" or settings.pooling[0] == settings.frames


def test_the_captioner_of_the_paper_is_that_of_open_sora() -> None:
    settings = read_captioner("opensora")

    assert (settings.model, settings.frames, settings.pooling) == ("ermu2001/pllava-13b", 4, (4, 12, 12))
    assert settings.decoding == Decoding(max_new_tokens=256)
    assert read_captioner("pllava").pooling == (16, 12, 12)


def test_a_prompt_can_be_given_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('version = 3\nsystem = "Be\\n brief."\nuser = "What is it? ({label})"\n')

    prompt = read_prompt(str(path))

    assert (prompt.name, prompt.version, prompt.system) == ("mine", 3, "Be brief.")
    assert prompt.filled(label_words(["{0} <b>"]))[1] == "What is it? ({0} <b>)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('version = 1\nuser = "{lable}"', "mine.toml:2: user '{lable}': unknown field 'lable'; did you mean 'label'"),
        ('version = 1\nuser = "{labels"', "write a field as"),
        ('version = 1\nuser = " "', "'user' is empty"),
        ('version = 1\nuser = "a"\nsystm = "b"', "unknown key 'systm'; did you mean 'system'"),
        ('user = "a"', "'version' is missing"),
    ],
)
def test_a_wrong_prompt_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(ConfigError) as stopped:
        read_prompt(str(path))

    assert message in str(stopped.value)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no prompt 'scenes'; did you mean 'scene"):
        read_prompt("scenes")
    with pytest.raises(ConfigError, match="no captioner 'open-sora'; did you mean 'opensora'"):
        read_captioner("open-sora")


def test_a_captioner_file_holds_one_block(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    block = '[[captioner]]\nname = "mine"\nbackend = "server"\nmodel = "m"\naddress = "http://localhost:1/v1"\n'
    path.write_text(block)

    assert read_captioner(str(path)).changed(model="n", frames=None).model == "n"
    path.write_text(block * 2)
    with pytest.raises(ConfigError, match=r"holds 2 .*wanted one"):
        read_captioner(str(path))
    path.write_text(block + "pooling = [4, 12]\n")
    with pytest.raises(ConfigError, match=r"pooling is \[4, 12\]"):
        read_captioner(str(path))


def test_a_captioner_file_with_the_old_name_of_metadata_fps_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[captioner]]\nname = "mine"\nbackend = "chat"\nmodel = "m"\ntold_fps = 4.0\n')
    warn_renamed.cache_clear()

    assert read_captioner(str(path)).metadata_fps == 4.0
    assert "'told_fps' is now called 'metadata_fps'" in caplog.text


def test_five_thousand_labels_and_right_to_left_ones_make_a_bounded_prompt() -> None:
    words = label_words([f"نوع {n}" for n in range(5_000)], most=24)

    assert words["labels"].count(",") == 23
    assert words["label"] == "نوع 0"


def test_one_frame_is_enough() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)

    assert chosen(frames, 4).shape == (4, 8, 8, 3)


def test_every_captioner_from_the_hub_can_be_fetched_by_name() -> None:
    fetched = {entry.hub_id for entry in catalogue().values() if entry.kind == "captioner"}

    assert {one.model for one in known_captioners().values() if one.backend != "server"} <= fetched


def test_a_captioner_is_found_in_the_cache_whole_and_at_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pllava(tmp_path / "made")
    use_cache(monkeypatch, tmp_path / "cache")
    put_in_cache(tmp_path / "cache", "ermu2001/pllava-7b", folder)

    files = find_files("small", "ermu2001/pllava-7b")
    fetched = fetch("pllava-7b")

    assert [path.name for path in files.weights] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert COMMIT in str(files.config)
    assert files.provenance() == find_files("small", str(folder)).provenance()
    assert {path.name for path in (files.config, *files.weights, *files.others)} <= fetched.files.keys()
    with pytest.raises(WeightsError, match=r"small: config\.json of ermu2001/pllava-9b .* cannot be fetched"):
        find_files("small", "ermu2001/pllava-9b")
