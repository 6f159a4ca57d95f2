"""Compare the stage caption_video with a plain loop over the same model, clip by clip, in one run.

    python benchmarks/captioning.py [CLIPS] [FOLDER] [DEVICE]

FOLDER holds a PLLaVA (`uniform weights fetch pllava-13b --copy-to FOLDER`); without one, a small PLLaVA with random
weights is made: it does the same work, and its captions are noise. Prints tokens/s of both, their ratio, and the share
of the stage's time that the model waits for frames.
"""

import dataclasses
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from pipelines.clip import Clip
from pipelines.estimate.codec_bench import generated_clip
from pipelines.stages.caption_video import CaptionWork, Stage
from uniform.captioning.base import Question
from uniform.captioning.frames import chosen
from uniform.media.clip_file import read_clip
from uniform.spec import PAPER

WORDS = 2_000
LAYERS: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "hidden_size": 256,
    "intermediate_size": 1024,
}
SIGNS = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]


def make_model(folder: Path) -> None:
    """Write a small PLLaVA with random weights and CLIP's image size."""
    names = [*SIGNS, *(f"word{number}" for number in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    signs = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    library: Any = PreTrainedTokenizerFast
    library(tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"}, **signs).save_pretrained(
        folder
    )
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **LAYERS}
    text = {"model_type": "llama", "vocab_size": len(names), "max_position_embeddings": 4096, **LAYERS}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=SIGNS.index("<image>"))
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)


def plain_loop(stage: Stage, work: CaptionWork, clips: list[Clip]) -> tuple[int, float]:
    """Caption clip by clip. Returns (tokens, seconds)."""
    system, user = stage.wording.filled({})
    captioner, began, tokens = work.captioner, time.monotonic(), 0
    for clip in clips:
        frames = chosen(read_clip(clip["mp4"], PAPER)[0], stage.settings.frames)
        (answer,) = captioner.answer([Question(captioner.prepare(frames), system, user)], stage.settings.decoding)
        tokens += getattr(answer, "tokens", 0)
    return tokens, time.monotonic() - began


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    device = sys.argv[3] if len(sys.argv) > 3 else "auto"
    with tempfile.TemporaryDirectory() as made:
        if len(sys.argv) > 2:
            model, limit = sys.argv[2], None
        else:
            make_model(Path(made))
            model, limit = made, 64
        faults = ("caption_cut", "caption_loop", "caption_language", "caption_empty", "caption_echo")
        stage = Stage(model=model, device=device, max_new_tokens=limit, again=False, accept=faults, batch_clips=8)
        if device == "cpu" or not torch.cuda.is_available():
            torch.set_num_threads(1)  # as in a worker of a run
            stage = dataclasses.replace(stage, dtype="float32")
        work = CaptionWork(stage, PAPER, stage.settings.open(device))
        clips = [generated_clip(n, PAPER) for n in range(number)]
        plain_loop(stage, work, clips[:1])  # warm up
        tokens, seconds = plain_loop(stage, work, clips)
        list(work.work(iter(clips)))
        speed, wait = work.last, work.waited_share
    print(f"plain loop: {tokens / seconds:.0f} tokens/s, {number / seconds:.2f} clips/s")
    print(f"stage:     {speed.tokens / speed.seconds:.0f} tokens/s, {speed.clips / speed.seconds:.2f} clips/s")
    print(
        f"ratio {speed.tokens / speed.seconds / (tokens / seconds):.2f}; {100 * wait:.1f} % of the stage's time waiting"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
