"""A tiny PLLaVA in the published layout, as a captioner that stages can name."""

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
    """Write a captioner with the network in folder `model`. Returns: its file, as a stage names it."""
    path.write_text(CAPTIONER.format(model=model))
    return str(path)
