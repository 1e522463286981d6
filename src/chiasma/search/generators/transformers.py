"""A causal language model in a folder of this machine: nothing is sent anywhere."""

import time
from pathlib import Path
from typing import Any

import torch

from chiasma.core.errors import ConfigError
from chiasma.core.rng import kept_torch_generator, seed_torch
from chiasma.search.generators.generator import Answer, Generator, Request, UnansweredError
from chiasma.search.generators.settings import LanguageModel


class TransformersGenerator(Generator):
    """Answers with a model that ``transformers`` reads from a folder; the request's seed decides what it samples.

    Code that comes with the model is not run, and weights are read from safetensors alone.

    Args:
        settings: The folder, the device, and how many tokens an answer may have.

    Raises:
        ConfigError: ``transformers`` is missing, or the folder holds no causal language model.
    """

    def __init__(self, settings: LanguageModel) -> None:
        self.settings = settings
        self._tokenizer, self._model = _load(settings)

    def answer(self, request: Request) -> Answer:
        """Return the answer; it costs nothing but time.

        Raises:
            UnansweredError: The request is longer than the model's context, or the memory does not suffice.
        """
        started = time.monotonic()
        ids = self._prompt(request)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        room = request.max_tokens if longest is None else min(request.max_tokens, longest - ids.shape[1])
        if room < 1:
            raise UnansweredError(
                f"{request.model}: the request has {ids.shape[1]} tokens, but the model reads at most {longest}.",
                reason="refused_request",
            )
        written = self._generate(ids, request, room=room)
        ended = len(written) < room or (len(written) > 0 and int(written[-1]) in self._ends())
        return Answer(
            text=str(self._tokenizer.decode(written, skip_special_tokens=True)),
            prompt_tokens=int(ids.shape[1]),
            answer_tokens=len(written),
            seconds=time.monotonic() - started,
            finish="stop" if ended else "length",
        )

    def _prompt(self, request: Request) -> torch.Tensor:
        """Return the tokens of the conversation, in the model's own form where it has one."""
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            encoded = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            text = "".join(f"### {turn['role']}\n{turn['content']}\n\n" for turn in turns) + "### assistant\n"
            encoded = self._tokenizer(text, return_tensors="pt")
        return encoded["input_ids"].to(self._model.device)

    def _generate(self, ids: torch.Tensor, request: Request, *, room: int) -> list[int]:
        """Return the tokens that the model adds."""
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {"do_sample": True, "temperature": request.temperature, "top_p": 0.95, "top_k": 0}
        padding = self._tokenizer.pad_token_id
        with kept_torch_generator(), torch.inference_mode():
            seed_torch(request.seed, "llm")
            try:
                whole = self._model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=room,
                    pad_token_id=next(iter(self._ends()), 0) if padding is None else padding,
                    **sampling,
                )
            except (MemoryError, torch.OutOfMemoryError) as error:
                words = f"{request.model}: out of memory: {str(error).splitlines()[0] if str(error) else 'no details'}"
                raise UnansweredError(words, reason="failed") from None
        return whole[0, ids.shape[1] :].tolist()

    def _ends(self) -> list[int]:
        """Return the tokens that end an answer."""
        ends: Any = self._model.generation_config.eos_token_id
        if ends is None:
            return []
        return [int(ends)] if isinstance(ends, int) else [int(end) for end in ends]


def folder_of(settings: LanguageModel) -> Path:
    """Return the folder of the model.

    Raises:
        ConfigError: None is named, or there is no model in it.
    """
    if settings.folder is None:
        raise ConfigError("llm.folder: the folder of a model is needed, but none is given: --set llm.folder=FOLDER.")
    folder = Path(settings.folder).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(f"llm.folder: {folder} holds no model: it has no config.json.")
    return folder


def _load(settings: LanguageModel) -> tuple[Any, Any]:
    folder = folder_of(settings)
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ConfigError('llm.folder: transformers is not installed: pip install "chiasma[pretrained]".') from None
    try:
        tokenizers: Any = AutoTokenizer
        models: Any = AutoModelForCausalLM
        tokenizer = tokenizers.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = models.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto"
        )
        return tokenizer, model.eval().to(settings.device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        words = str(error).strip().splitlines()
        raise ConfigError(
            f"llm.folder: {folder} holds no causal language model that can be used: {words[0] if words else error!r}"
        ) from None
