"""Rating by people: a page that does not show which set is where, and what the answers say."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from uniform.errors import InputError
from uniform.evaluation.rating_page import write_rating_page
from uniform.evaluation.ratings import krippendorff_alpha, preference

PAIRS = 12


@pytest.fixture
def page(tmp_path: Path) -> Path:
    for side in ("ours", "theirs"):
        (tmp_path / side).mkdir()
        for number in range(PAIRS):
            (tmp_path / side / f"clip {number}.mp4").write_bytes(f"{side}/{number}".encode())
    (tmp_path / "ours" / "clip 0.json").write_text(json.dumps({"request": {"text": "</script><b>dog</b>"}}))
    (tmp_path / "ours" / "alone.mp4").write_bytes(b"x")
    made = write_rating_page(tmp_path / "ours", tmp_path / "theirs", tmp_path / "rating.html", seed=3)
    assert (made.pairs, made.left_out) == (PAIRS, 1)
    return made.path


def _pairs(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="pairs">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _answers(page: Path, rater: str, choose: Any) -> Path:
    data = _pairs(page)
    rows = [{"pair": p["id"], "choice": choose(p), "seconds": 3.0, "key": p["key"]} for p in data["pairs"]]
    path = page.with_name(f"ratings-{rater}.json")
    path.write_text(json.dumps({"schema": 1, "page": data["page"], "rater": rater, "answers": rows}))
    return path


def _media(address: str) -> str:
    """What an embedded clip holds."""
    return base64.b64decode(address.removeprefix("data:video/mp4;base64,")).decode()


def _prefers(name: str) -> Any:
    return lambda pair: "left" if _media(pair["left"]).startswith(name) else "right"


def test_the_page_is_one_file_with_sides_exchanged_and_all_text_inert(page: Path) -> None:
    text = page.read_text()
    pairs = _pairs(page)["pairs"]

    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "</script><b>dog" not in text
    assert next(p["text"] for p in pairs if _media(p["left"]).endswith("s/0")) == "</script><b>dog</b>"
    ours_left = sum(_media(pair["left"]).startswith("ours/") for pair in pairs)
    assert 0 < ours_left < PAIRS
    assert [pair["id"] for pair in pairs] != sorted(pair["id"] for pair in pairs)


def test_no_address_shows_which_set_a_clip_is_from_unless_asked_to_link(page: Path, tmp_path: Path) -> None:
    assert "ours" not in page.read_text()
    assert "theirs" not in page.read_text()

    linked = write_rating_page(tmp_path / "ours", tmp_path / "theirs", tmp_path / "linked.html", embed=False)
    assert {pair["left"].split("/")[0] for pair in _pairs(linked.path)["pairs"]} == {"ours", "theirs"}


def test_more_media_than_a_page_holds_is_refused(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniform.evaluation.rating_page.MAX_EMBEDDED_BYTES", 20)
    with pytest.raises(InputError, match="--link"):
        write_rating_page(tmp_path / "ours", tmp_path / "theirs", tmp_path / "large.html")


def test_the_seed_decides_the_order(page: Path, tmp_path: Path) -> None:
    again = write_rating_page(tmp_path / "ours", tmp_path / "theirs", tmp_path / "again.html", seed=3)
    other = write_rating_page(tmp_path / "ours", tmp_path / "theirs", tmp_path / "other.html", seed=4, most=5)

    assert _pairs(again.path) == _pairs(page)
    assert other.pairs == len(_pairs(other.path)["pairs"]) == 5


def test_a_clear_preference_is_resolved_whichever_side_it_stood_on(page: Path) -> None:
    files = [_answers(page, name, _prefers("theirs")) for name in ("a", "b")]
    found = preference(files, page.with_suffix(".key.json"))

    assert (found.share_second, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.resolved
    assert (found.raters, found.clips, found.answers) == (2, PAIRS, 2 * PAIRS)
    assert found.alpha is None  # all answers are alike: agreement cannot be separated from a habit
    assert 0 < found.left_share < 1


def test_opposite_raters_resolve_nothing_and_agree_less_than_chance(page: Path) -> None:
    files = [_answers(page, "a", _prefers("theirs")), _answers(page, "b", _prefers("ours"))]
    found = preference(files, page.with_suffix(".key.json"))

    assert found.share_second == 0.5
    assert not found.resolved
    assert found.alpha is not None
    assert found.alpha < 0


def test_who_always_takes_the_left_side_is_seen(page: Path) -> None:
    found = preference([_answers(page, "a", lambda pair: "left")], page.with_suffix(".key.json"))

    assert found.left_share == 1.0
    assert found.alpha is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(page="0" * 16), "answers of another page"),
        (lambda content: content.update(answers="none"), "not a file of answers"),
        (lambda content: content["answers"][0].update(choice="both"), "found both"),
        (lambda content: content["answers"][0].update(key="0" * 16), "does not belong to this page"),
        (lambda content: content["answers"].append(content["answers"][0]), "stands twice"),
        (lambda content: content["answers"][0].pop("pair"), "has no pair"),
        (lambda content: content["answers"].clear(), "no answer"),
    ],
)
def test_answers_that_were_changed_are_refused(page: Path, change: Any, message: str) -> None:
    path = _answers(page, "a", _prefers("ours"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        preference([path], page.with_suffix(".key.json"))


def test_a_rater_counts_once_and_the_key_must_be_one(page: Path, tmp_path: Path) -> None:
    path = _answers(page, "a", _prefers("ours"))
    with pytest.raises(InputError, match="rater 'a' has a second file"):
        preference([path, path], page.with_suffix(".key.json"))
    with pytest.raises(InputError, match="not the key of a rating page"):
        preference([path], path)


def test_alpha_by_hand() -> None:
    """Krippendorff (2011), nominal data, two observers: alpha 0.095 of ten units of zeros and ones."""
    first = ["0", "1", "0", "0", "0", "0", "0", "0", "1", "0"]
    second = ["1", "1", "1", "0", "0", "1", "0", "0", "0", "0"]

    alpha = krippendorff_alpha(list(zip(first, second, strict=True)))
    assert alpha == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
