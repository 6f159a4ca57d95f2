"""Any image-text model of transformers that has a chat template: SmolVLM2, Qwen-VL, InternVL, LLaVA and others.

Frames go in as one video, or as single images. The video processors of transformers need torchvision, its image
processors do not. Only code of the library runs: a model that needs remote code is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from uniform.captioning.base import Answer, Decoding, Frames, Question
from uniform.captioning.files import ModelFiles, find_files
from uniform.captioning.generation import decoded, library_decoding
from uniform.captioning.settings import Settings
from uniform.codecs.device import pick_device, pick_dtype
from uniform.errors import ConfigError, WeightsError

CODE_VERSION = 1
"""Raised with every change of this file that changes captions."""


class ChatModel:
    """A chat model with its processor.

    Args:
        network: of transformers' AutoModelForImageTextToText.
        processor: its processor, with a chat template.
        content: "video" or "images".
        device: where the network is.
        fps: frame rate in the video metadata; some processors write timestamps from it into the prompt.
    """

    def __init__(self, network: Any, processor: Any, content: str, device: torch.device, fps: float) -> None:
        self.network, self.processor = network, processor
        self._content, self._device, self._fps = content, device, fps
        processor.tokenizer.padding_side = "left"
        self._has_system_role = "system" in str(processor.chat_template)

    def prepare(self, frames: Frames) -> Frames:
        """The frames unchanged: the processor works on whole batches."""
        return frames

    def prompt_tokens(self, system: str, user: str) -> int:
        """Tokens of the text; the frames take equally many for every clip."""
        return len(self.processor.tokenizer(f"{system} {user}")["input_ids"])

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """One caption per question; prompts of different lengths are padded on the left."""
        tokenizer = self.processor.tokenizer
        inputs = self._inputs(questions).to(self._device, dtype=next(self.network.parameters()).dtype)
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        with torch.inference_mode():
            whole = self.network.generate(**inputs, generation_config=library_decoding(decoding, tokenizer, int(pad)))
        return decoded(tokenizer, whole[:, inputs["input_ids"].shape[1] :])

    def _inputs(self, questions: Sequence[Question]) -> Any:
        texts = [
            self.processor.apply_chat_template(self._dialogue(question), add_generation_prompt=True, tokenize=False)
            for question in questions
        ]
        if self._content == "images":
            return self.processor(
                text=texts, images=[list(question.frames) for question in questions], padding=True, return_tensors="pt"
            )
        return self.processor(
            text=texts,
            videos=[question.frames for question in questions],
            video_metadata=[self._metadata(question.frames) for question in questions],
            do_sample_frames=False,
            padding=True,
            return_tensors="pt",
        )

    def _metadata(self, frames: Frames) -> Mapping[str, Any]:
        number = len(frames)
        return {
            "total_num_frames": number,
            "fps": self._fps,
            "duration": number / self._fps,
            "frames_indices": list(range(number)),
            "height": frames.shape[1],
            "width": frames.shape[2],
        }

    def _dialogue(self, question: Question) -> list[dict[str, Any]]:
        user = question.user if self._has_system_role or not question.system else f"{question.system} {question.user}"
        shown = [{"type": "image"}] * len(question.frames) if self._content == "images" else [{"type": "video"}]
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": self._without_special_tokens(user)}]}
        if not self._has_system_role or not question.system:
            return [turn]
        return [
            {"role": "system", "content": [{"type": "text", "text": self._without_special_tokens(question.system)}]},
            turn,
        ]

    def _without_special_tokens(self, text: str) -> str:
        """`text` without special tokens: a label must not end the prompt or add an image."""
        for token in self.processor.tokenizer.all_special_tokens:
            text = text.replace(token, " ")
        return text


def provenance(settings: Settings) -> dict[str, Any]:
    """Everything about the model that changes captions."""
    files = find_files(settings.name, settings.model, settings.revision)
    # The key told_fps is part of the fingerprints of caption sets that exist.
    options = {"content": settings.content, "dtype": settings.dtype, "told_fps": settings.metadata_fps}
    return {**files.provenance(), "code_version": CODE_VERSION, **options}


def open_captioner(settings: Settings, device: str) -> ChatModel:
    """A chat model of transformers.

    Raises: WeightsError where its files are missing, damaged, of a model that the library does not know, or where a
        tensor is missing or surplus; ConfigError where a library is missing.
    """
    where, dtype = pick_device(device), pick_dtype(settings.dtype)
    files = find_files(settings.name, settings.model, settings.revision)
    processor = _processor(files, settings)
    network = _network(files, settings, dtype)
    return ChatModel(network.to(where), processor, settings.content, where, settings.metadata_fps)


def _processor(files: ModelFiles, settings: Settings) -> Any:
    from transformers import AutoProcessor

    library: Any = AutoProcessor
    try:
        processor = library.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ConfigError(
            f"captioner '{settings.name}': {str(error).strip().splitlines()[0]} Install torchvision, or set "
            f'content = "images".'
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{settings.name}: {files.folder} holds no processor that transformers can load ({error})."
        ) from error
    missing = [name for name in ("tokenizer", "image_processor") if getattr(processor, name, None) is None]
    if missing or not getattr(processor, "chat_template", None):
        raise WeightsError(
            f"{settings.name}: {files.folder} has no {missing[0] if missing else 'chat template'}: it is not a chat "
            f"model for images. Use the instruction-tuned version of the model."
        )
    if settings.content == "video" and getattr(processor, "video_processor", None) is None:
        raise ConfigError(
            f"captioner '{settings.name}': {type(processor).__name__} takes no video here. Set content = \"images\" "
            f"(or install torchvision, if the model has a video processor)."
        )
    return processor


def _network(files: ModelFiles, settings: Settings, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    library: Any = AutoModelForImageTextToText
    try:
        network, loading = library.from_pretrained(
            str(files.folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{settings.name}: {files.folder} is not a model that transformers can load ({error})."
        ) from error
    wrong = {kind: sorted(map(str, keys))[:10] for kind, keys in loading.items() if keys}
    if wrong:
        raise WeightsError(
            f"{settings.name}: {files.folder}: the weights do not fit the model: {wrong}. Fetch them again."
        )
    return network.requires_grad_(False).eval()
