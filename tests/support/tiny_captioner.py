"""A captioner file for a tiny PLLaVA."""

from pathlib import Path

CAPTIONER = """
[[captioner]]
name = "small"
backend = "pllava"
model = "{model}"
prompt = "short"
frames = 4
pooling = [4, 2, 2]
dtype = "float32"
batch_clips = 2
decoding = {{ max_new_tokens = 10, no_repeat_tokens = 1 }}
again = {{ max_new_tokens = 12, repetition_penalty = 1.3, no_repeat_tokens = 1 }}
"""


def write_captioner(path: Path, model: Path) -> str:
    """Write the captioner file of the network in the folder `model`. Returns its path, for the option `captioner`."""
    path.write_text(CAPTIONER.format(model=model))
    return str(path)
