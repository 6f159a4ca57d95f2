"""PLLaVA on the LLaVA of transformers: CLIP features of every frame, projected, then averaged over time and space.

The class of transformers accepts the averaged features, so no subclass is needed: under another name it would leave
tensors of old checkpoints at their random initial values.
B clips, T frames, S x S pixels, G x G patches, D width, N visual tokens of a clip.

Source: PLLaVA (arXiv:2404.16994) and its code; docs/captions.md.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.captioning.base import Answer, Decoding, Frames, Question
from uniform.captioning.files import ModelFiles, find_files
from uniform.captioning.generation import decoded, left_padded, library_decoding
from uniform.captioning.pllava_weights import merged_shapes, merged_tensors
from uniform.captioning.settings import Settings
from uniform.codecs.device import pick_device, pick_dtype
from uniform.codecs.weights import read_json, require_finite, require_layout
from uniform.errors import ConfigError, WeightsError

CODE_VERSION = 1
"""Raised with every change of this file that changes captions."""
IMAGE = "<image>"
_DIALOGUE = ("{system} USER:", " {user} ASSISTANT:")
"""The prompt before and after the visual tokens."""


class Pllava:
    """PLLaVA with its weights.

    Args:
        network: transformers' LlavaForConditionalGeneration.
        tokenizer: its tokenizer; `<image>` is one token.
        pooling: frames, rows, columns of the visual tokens.
        device: where the network is.
    """

    def __init__(self, network: Any, tokenizer: Any, pooling: tuple[int, ...], device: torch.device) -> None:
        from transformers import CLIPImageProcessorPil

        self.network, self._tokenizer, self._pooling, self._device = network, tokenizer, pooling, device
        size = int(network.config.vision_config.image_size)
        self._images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})

    def prepare(self, frames: Frames) -> Tensor:
        """Resize and normalise frames for CLIP: float32 (T, 3, S, S), bicubic, shorter side S, centre crop."""
        pixels: Tensor = self._images(list(frames), return_tensors="pt")["pixel_values"]
        return pixels

    def prompt_tokens(self, system: str, user: str) -> int:
        """Tokens of the prompt, visual ones included."""
        return len(self.prompt_ids(system, user))

    def prompt_ids(self, system: str, user: str) -> list[int]:
        """Token ids of the prompt; the image token is repeated for each visual token."""
        texts = {"system": self._without_special_tokens(system), "user": self._without_special_tokens(user)}
        before, after = (part.format_map(texts) for part in _DIALOGUE)
        ids: list[int] = self._tokenizer(f"{before.lstrip()}{IMAGE}{after}")["input_ids"]
        place, image = ids.index(self._image_id), [self._image_id]
        frames, rows, columns = self._pooling
        return ids[:place] + image * (frames * rows * columns) + ids[place + 1 :]

    def pooled(self, pixels: Tensor) -> Tensor:
        """Visual tokens: (B, T, 3, S, S) -> (B, N, D), averages of the projected features over time and space."""
        clips = len(pixels)
        weight = next(self.network.parameters())
        flat = pixels.flatten(0, 1).to(self._device, weight.dtype)  # (B * T, 3, S, S)
        features = torch.stack(list(self.network.model.get_image_features(flat, return_dict=True).pooler_output))
        grid = int(features.shape[1] ** 0.5)  # (B * T, G * G, D)
        volume = features.float().reshape(clips, -1, grid, grid, features.shape[-1])  # (B, T, G, G, D)
        frames, rows, columns = self._pooling
        means = F.adaptive_avg_pool3d(volume.permute(0, 4, 1, 2, 3), (frames, rows, columns))  # (B, D, T', h, w)
        return means.flatten(2).transpose(1, 2).to(weight.dtype)  # (B, N, D)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """One caption per question; prompts of different lengths are padded on the left."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        prompts = [self.prompt_ids(question.system, question.user) for question in questions]
        self._require_fit(max(map(len, prompts)), decoding)
        ids, mask = left_padded(prompts, self._pad_id, self._device)
        with torch.inference_mode():
            visual = self.pooled(torch.stack([question.frames for question in questions]))
            each: Any = list(visual)  # the library declares one tensor and accepts one per image
            features = {"image": BaseModelOutputWithPooling(pooler_output=each)}
            whole = self.network.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_encoder_outputs=features,
                generation_config=library_decoding(decoding, self._tokenizer, self._pad_id),
            )
        return decoded(self._tokenizer, whole[:, ids.shape[1] :])

    @property
    def _image_id(self) -> int:
        return int(self.network.config.image_token_id)

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if pad is None else pad)

    def _without_special_tokens(self, text: str) -> str:
        """`text` without special tokens: a label must not end the prompt or add an image."""
        for token in {*self._tokenizer.all_special_tokens, IMAGE}:
            text = text.replace(token, " ")
        return text

    def _require_fit(self, prompt: int, decoding: Decoding) -> None:
        most = int(self.network.config.text_config.max_position_embeddings)
        if prompt + decoding.max_new_tokens > most:
            raise ConfigError(
                f"a prompt of {prompt} tokens and {decoding.max_new_tokens} new ones do not fit into the {most} of "
                f"the language model. Use fewer frames, a smaller pooling, or a shorter prompt."
            )


def provenance(settings: Settings) -> dict[str, Any]:
    """Everything about the model that changes captions."""
    files = find_files(settings.name, settings.model, settings.revision)
    return {
        **files.provenance(),
        "code_version": CODE_VERSION,
        "pooling": list(settings.pooling),
        "lora_alpha": settings.lora_alpha,
        "dtype": settings.dtype,
    }


def open_captioner(settings: Settings, device: str) -> Pllava:
    """Open PLLaVA from its published weight files, or from a folder with merged weights.

    Raises: WeightsError where a tensor is missing, surplus, of another shape or not finite, and where the tokenizer
        belongs to another model; ConfigError.
    """
    where, dtype = pick_device(device), pick_dtype(settings.dtype)
    files = find_files(settings.name, settings.model, settings.revision)
    network = _network(files, settings, dtype)
    tokenizer = _tokenizer(files, network.config, settings.name)
    return Pllava(network.to(where), tokenizer, settings.pooling, where)


def _network(files: ModelFiles, settings: Settings, dtype: torch.dtype) -> Any:
    from transformers import LlavaForConditionalGeneration

    config = _config(files, settings.name)
    where = f"{settings.name}: {files.folder}"
    with torch.device("meta"):
        skeleton = LlavaForConditionalGeneration(config)
    wanted = {key: tuple(tensor.shape) for key, tensor in skeleton.state_dict().items()}
    require_layout(merged_shapes(files.weights, where), wanted, where)
    state = dict(merged_tensors(files.weights, settings.lora_alpha, dtype))
    require_finite(state.items(), where)
    library: Any = LlavaForConditionalGeneration
    network, loading = library.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        raise WeightsError(f"{where}: transformers did not load the weights as they are: {wrong}")
    return network.requires_grad_(False).eval()


def _config(files: ModelFiles, name: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlavaConfig

    values = read_json(files.config)
    if values.get("model_type") != "llava":
        raise WeightsError(
            f"{name}: {files.config} is of model type '{values.get('model_type')}', wanted 'llava', as for PLLaVA. "
            f'For another model use backend = "chat".'
        )
    try:
        return LlavaConfig.from_dict(values)
    except (TypeError, ValueError, RuntimeError, KeyError, StrictDataclassError) as error:
        raise WeightsError(f"{name}: {files.config} is not a LLaVA config ({error}). Fetch it again.") from error


def _tokenizer(files: ModelFiles, config: Any, name: str) -> Any:
    from transformers import AutoTokenizer, LlamaTokenizer

    # From tokenizer.model alone, AutoTokenizer of transformers 5 omits the space that Llama puts before a text.
    whole = (files.folder / "tokenizer.json").is_file()
    library: Any = AutoTokenizer if whole else LlamaTokenizer
    try:
        tokenizer = library.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{name}: {files.folder} holds no tokenizer ({error}). Fetch it again.") from error
    found = tokenizer.convert_tokens_to_ids(IMAGE)
    if found != config.image_token_id:
        raise WeightsError(
            f"{name}: the tokenizer in {files.folder} gives '{IMAGE}' the id {found}, the model wants "
            f"{config.image_token_id}: they do not belong together."
        )
    if len(tokenizer) > config.text_config.vocab_size:
        raise WeightsError(
            f"{name}: the tokenizer in {files.folder} has {len(tokenizer)} tokens, the model "
            f"{config.text_config.vocab_size}: they do not belong together."
        )
    return tokenizer
