"""Byte-level BPE in CLIP's own format, and captions as rows of token ids.

Every byte has a token of its own, with and without the end-of-word mark, so any string encodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.cards import DatasetCard

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: list[str], folder: Path, size: int, length: int) -> CLIPTokenizer:
    """Learn merges from the texts and save a ``CLIPTokenizer`` folder.

    Args:
        texts: what to learn merges from.
        folder: where to write ``vocab.json``, ``merges.txt`` and the configuration.
        size: number of entries of the vocabulary, at least 514 + merges.
        length: ``model_max_length`` in tokens, start and end included.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = CLIPTokenizer()._tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(byte + "</w>" for byte in alphabet)]
    # Equally frequent merges are ordered by the numbers of their parts, and the learner numbers
    # letters at the end of a word in random order, unless it is told of them before.
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        special_tokens=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    state = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokens = [*letters, *(left + right for left, right in merges)]
    tokens += [START, END]
    vocabulary = {token: k for k, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = [f"{left} {right}" for left, right in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    return tokenizer


def all_captions(card: DatasetCard) -> list[str]:
    """Every caption that training may show; none of the held-out ones."""
    pairs = [
        caption
        for thing in card.object_names
        for style in card.style_names
        for caption in card.captions(thing, style)
    ]
    styles = [c for style in card.style_names for c in card.style_captions(style)]
    return pairs + styles + [c for thing in card.object_names for c in card.object_captions(thing)]


@dataclass
class CaptionSampler:
    """Draws a caption for each picture: mostly both labels, sometimes one of them alone.

    Attributes:
        tokens: [n, L] ids of all captions, tokenised once.
        pairs: (object, style) -> rows of ``tokens``; ``styles`` and ``things`` likewise.
        alone: probability of a caption that names the style alone, and the object alone.
    """

    tokens: torch.Tensor
    pairs: list[list[torch.Tensor]]
    styles: list[torch.Tensor]
    things: list[torch.Tensor]
    alone: float

    @classmethod
    def build(cls, card: DatasetCard, tokenizer: CLIPTokenizer, alone: float) -> CaptionSampler:
        texts: list[str] = []

        def rows(captions: list[str]) -> torch.Tensor:
            texts.extend(captions)
            return torch.arange(len(texts) - len(captions), len(texts))

        pairs = [[rows(card.captions(o, s)) for s in card.style_names] for o in card.object_names]
        styles = [rows(card.style_captions(s)) for s in card.style_names]
        things = [rows(card.object_captions(o)) for o in card.object_names]
        return cls(tokenize(tokenizer, texts), pairs, styles, things, alone)

    def draw(self, objects: list[int], styles: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [B, L], and which labels each caption names [B, 2] bool (object, style)."""
        chosen, named = self.choose(objects, styles)
        return self.tokens[chosen], named

    def choose(self, objects: list[int], styles: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [B] of ``tokens``, and which labels each caption names [B, 2] bool."""
        chosen, named = [], []
        for thing, style, u in zip(objects, styles, torch.rand(len(objects)).tolist()):
            if u < self.alone:
                options, names = self.styles[style], (False, True)
            elif u < 2 * self.alone:
                options, names = self.things[thing], (True, False)
            else:
                options, names = self.pairs[thing][style], (True, True)
            chosen.append(options[torch.randint(len(options), ())])
            named.append(names)
        return torch.stack(chosen), torch.tensor(named)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids [B, model_max_length], padded with the end token as Stable Diffusion does."""
    return tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
