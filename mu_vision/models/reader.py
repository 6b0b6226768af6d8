"""How a pipeline reads prompts: tokens, text states, and token embeddings that an attack may move."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UsageError
from .loading import quiet
from .text import TextStates, Tokens

ENCODERS = ("text_encoder", "text_encoder_2")


class PromptReader:
    """The part of a ``DiffusionModel`` that reads prompts.

    Attributes:
        pipeline: a StableDiffusionPipeline or StableDiffusionXLPipeline.
        name: short name for messages.
        is_xl: it has two text encoders.
    """

    pipeline: Any
    name: str
    is_xl: bool
    device: torch.device

    def __init__(self) -> None:
        self._texts: dict[str, TextStates] = {}
        self._texts_version: tuple[int, ...] = ()
        self._warned: set[str] = set()

    def encoders(self) -> dict[str, torch.nn.Module]:
        """The text encoders by their names in the pipeline."""
        found = {name: getattr(self.pipeline, name, None) for name in ENCODERS}
        return {name: module for name, module in found.items() if module is not None}

    def tokens(self, prompt: str) -> Tokens:
        """The tokens of a prompt, counted by the (first) tokenizer."""
        tokenizer = self.pipeline.tokenizer or self.pipeline.tokenizer_2
        length = tokenizer.model_max_length
        read = tokenizer(prompt, padding="max_length", max_length=length, truncation=True)
        longest = len(tokenizer(prompt).input_ids)
        return Tokens(tuple(read.input_ids), sum(read.attention_mask), longest > length)

    def encode_prompt(self, prompts: Sequence[str]) -> TextStates:
        """Text states [B, L, D], without gradients, remembered until a text encoder changes.

        Each text is encoded by itself, so that its states do not depend on its neighbours.
        """
        version = self._encoders_version()
        if version != self._texts_version:
            self._texts.clear()
            self._texts_version = version
        for prompt in prompts:
            if prompt not in self._texts:
                self._warn_if_cut(prompt)
                with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                    self._texts[prompt] = self._encode([prompt])
        return TextStates.cat([self._texts[prompt] for prompt in prompts])

    def encode_prompt_with_grad(self, prompts: Sequence[str]) -> TextStates:
        """Text states [B, L, D] that carry gradients to the text encoders; never remembered."""
        return self._encode(list(prompts))

    def null_text(self) -> TextStates:
        """What the pipeline's unconditional branch reads: "" encoded, or zeros for most SDXL."""
        empty = self.encode_prompt([""])
        if self.is_xl and self.pipeline.config.force_zeros_for_empty_prompt:
            return TextStates(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled))
        return empty

    def _encode(self, prompts: list[str]) -> TextStates:
        with quiet():
            if self.is_xl:
                states, _, pooled, _ = self.pipeline.encode_prompt(
                    prompts, device=self.device, do_classifier_free_guidance=False
                )
                return TextStates(states, pooled)
            states, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False)
        return TextStates(states)

    def _warn_if_cut(self, prompt: str) -> None:
        if prompt not in self._warned and self.tokens(prompt).truncated:
            self._warned.add(prompt)
            shown = prompt if len(prompt) < 60 else prompt[:57] + "..."
            warnings.warn(
                f"The text encoder reads only the beginning of the prompt {shown!r}.", stacklevel=3
            )

    def _encoders_version(self) -> tuple[int, ...]:
        return tuple(
            number
            for module in self.encoders().values()
            for number in (id(module), sum(p._version for p in module.parameters()))
        )

    # Text as embeddings ---------------------------------------------------------------------

    @property
    def vocabulary(self) -> torch.Tensor:
        """The table of token embeddings [V, D], before positions are added.

        Raises:
            UsageError: for a model of two text encoders, which has two tables.
        """
        if self.is_xl:
            raise UsageError(
                f"{self.name} reads a prompt through two text encoders; attacks on token"
                " embeddings are for models with one (Stable Diffusion 1 and 2)."
            )
        return self.pipeline.text_encoder.get_input_embeddings().weight

    def insert(self, prompts: Sequence[str], prefix: torch.Tensor) -> torch.Tensor:
        """Token embeddings [B, L, D] of prompts with a prefix after the begin-of-text token.

        The length stays L: as many end-of-text tokens fall off the end.

        Args:
            prompts: B texts.
            prefix: [B, k, D] embeddings.

        Raises:
            UsageError: if a prompt and the prefix are longer than the encoder reads.
        """
        k, rows = prefix.shape[1], []
        for prompt in prompts:
            rows.append(self.check_room(prompt, k).ids)
        ids = torch.tensor(rows, device=prefix.device)
        plain = self.vocabulary.detach()[ids]
        return torch.cat([plain[:, :1], prefix, plain[:, 1 : ids.shape[1] - k]], dim=1)

    def check_room(self, prompt: str, k: int) -> Tokens:
        """The tokens of a prompt that leaves room for k more.

        Raises:
            UsageError: if it does not.
        """
        tokens = self.tokens(prompt)
        if tokens.truncated or tokens.count + k > len(tokens.ids):
            count = f"more than {len(tokens.ids)}" if tokens.truncated else tokens.count
            raise UsageError(
                f"The prompt {prompt!r} has {count} tokens, begin and end included, and {k} more do"
                f" not fit: the text encoder reads {len(tokens.ids)}. Take a shorter prompt or"
                " fewer adversarial tokens."
            )
        return tokens

    def encode_embeddings(self, embeddings: torch.Tensor) -> TextStates:
        """Text states [B, L, D] of token embeddings [B, L, D]; gradients flow to both.

        The text encoder adds positions and runs as on ids, so the embeddings of a prompt's own
        tokens give the prompt's states.
        """
        table = self.pipeline.text_encoder.get_input_embeddings()
        # the encoder only takes ids, so its look-up is made to answer with ours
        hook = table.register_forward_hook(lambda module, args, found: embeddings)
        try:
            ids = torch.zeros(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
            states = self.pipeline.text_encoder(ids, return_dict=True).last_hidden_state
        finally:
            hook.remove()
        return TextStates(states)
