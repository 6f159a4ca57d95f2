"""A child process that was taken over costs one clip: the parent believes none of its answers, files or links."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from uniform.errors import MediaError
from uniform.media.sandbox import MediaSandbox
from uniform.spec import TOY

CHILD = """
import json, os, sys
if "uniform.media.child" in sys.orig_argv:
    folder = sys.orig_argv[sys.orig_argv.index("uniform.media.child") + 1]
    os.write(1, b"ready\\n")
    for line in sys.stdin:
{attack}
    os._exit(0)
"""


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], MediaError]:
    """The error of a sandbox whose child runs `attack` for each job."""

    def run(attack: str) -> MediaError:
        (tmp_path / "sitecustomize.py").write_text(CHILD.format(attack=textwrap.indent(attack, " " * 8)))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with MediaSandbox(time_limit_s=20) as sandbox, pytest.raises(MediaError) as caught:
            sandbox.normalise(tmp_path / "any.mp4", TOY)
        return caught.value

    return run


@pytest.mark.parametrize(
    "attack",
    [
        r"os.write(1, b'\xff not json\n')",
        r"os.write(1, b'[' * 20000 + b'\n')",
        r"os.write(1, b'{\"notes\": [\"audio_gap_ms=1\"]}\n')",
        r"os.write(1, b'[1]\n')",
        r"os.write(1, b'{\"code\": 7, \"reason\": \"x\"}\n')",
        r"os.write(1, b'{\"notes\": []}\n')",
        "while True: os.write(1, b'x' * 60000)",
        "os._exit(3)",
        r"os.mkfifo(folder + '/clip.mp4'); os.write(1, b'{\"notes\": []}\n')",
        r"os.symlink('/etc/passwd', folder + '/clip.mp4'); os.write(1, b'{\"notes\": []}\n')",
        r"os.truncate(os.open(folder + '/clip.mp4', 66, 384), 1 << 40); os.write(1, b'{\"notes\": []}\n')",
    ],
)
def test_a_false_answer_costs_one_clip(attack: str, attacked: Callable[[str], MediaError]) -> None:
    assert attacked(attack).code == "decode_crash"


def test_the_child_sees_no_secret_of_the_environment(
    attacked: Callable[[str], MediaError], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "secret-of-the-test")
    answer = attacked("print(json.dumps({'code': 'answer', 'reason': json.dumps(dict(os.environ))}), flush=True)")
    assert answer.code == "answer"
    assert "PYTHONPATH" in answer.reason
    assert "secret-of-the-test" not in answer.reason


@pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX")
def test_the_limits_of_the_child_cannot_be_raised(attacked: Callable[[str], MediaError]) -> None:
    answer = attacked(
        "import resource\n"
        "from uniform.media.child import _limit\n"
        "_limit(512)\n"
        "kinds = (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)\n"
        "print(json.dumps({'code': 'answer', 'reason': str([resource.getrlimit(kind) for kind in kinds])}), flush=True)"
    )
    assert answer.reason == str([(512 << 20, 512 << 20), (64, 64), (1 << 30, 1 << 30)])
