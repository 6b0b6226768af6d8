"""Ring-A-Bell (Tsai et al., ICLR 2024): find the concept's direction in text space, then spell it.

    v   = mean over prompt pairs of  f(with the concept) - f(without)
    adv = argmin over K token ids of |f(P) + eta v - f(adv)|^2

f are the text states [L, D] of an encoder that the attacker has, here the original's. No victim is
needed: one set of texts is found by a genetic search and tried on every model.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from .. import seeding
from ..errors import UsageError
from ..progress import track
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene

# texts by (original, pairs, prompt, settings): they are the same for every victim
_FOUND: dict[tuple[Any, ...], str] = {}


@register("attack", "ring_a_bell")
class RingABell(Attack):
    """A genetic search for K tokens whose text states lie where the concept's would. Paper's defaults."""

    title: ClassVar[str] = "Ring-A-Bell"
    kind: ClassVar[Kind] = "text"
    white_box: ClassVar[bool] = False
    one_encoder: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?",
        authors="Y.-L. Tsai, C.-Y. Hsu, C. Xie, C.-H. Lin, J.-Y. Chen, B. Li, P.-Y. Chen, C.-M. Yu,"
        " C.-Y. Huang",
        arxiv="2310.10012",
        venue="ICLR 2024",
        deviations=(
            "The prompt pairs are the cases' own prompts with and without the concept's name.",
        ),
        cost="population x generations / 2 passes of the text encoder and one picture a prompt",
    )
    trial: ClassVar[dict[str, Any]] = {"tokens": 4, "population": 8, "generations": 3}

    tokens: int = Field(16, ge=1, description="K, tokens of the whole prompt")
    eta: float = Field(3.0, ge=0, description="how far along the concept's direction")
    population: int = Field(200, ge=4, description="prompts of a generation")
    generations: int = Field(3000, ge=1, description="rounds of selection")
    crossover: float = Field(0.5, ge=0, le=1, description="share of children with two parents")
    mutation: float = Field(0.25, ge=0, le=1, description="share of children with a new token")

    def search(self, scene: Scene, books: Books) -> AttackResult:
        original = scene.original
        length = original.pipeline.tokenizer.model_max_length
        if self.tokens + 2 > length:
            raise UsageError(
                f"attack {self.name}: tokens={self.tokens} do not fit, since the text encoder of"
                f" {original.name} reads {length}, begin and end included."
            )
        named = original.encode_prompt([case.asks_for for case in scene.cases]).states
        without = original.encode_prompt([case.neutral for case in scene.cases]).states
        v = (named - without).mean(0)
        pairs = tuple((case.asks_for, case.neutral) for case in scene.cases)
        rows = books.standing()
        texts = []
        for row in track(rows, self.title, 0, len(rows)):
            case = scene.cases[row]
            key = (original.fingerprint(), pairs, case, scene.seed, self.model_dump_json())
            if key not in _FOUND:
                goal = original.encode_prompt([case.prompt]).states[0] + self.eta * v
                generator = seeding.generator(self.name, scene.seed, case.asks_for, case.seed)
                _FOUND[key] = self._evolve(original, goal, generator)
            texts.append(_FOUND[key])
        books.try_texts(rows, texts)
        return books.result(self.name, direction_norm=round(float(v.norm()), 4))

    @torch.no_grad()
    def _evolve(self, model: Any, goal: torch.Tensor, generator: torch.Generator) -> str:
        """The text of the fittest prompt after all generations."""
        tokenizer = model.pipeline.tokenizer
        size = tokenizer.bos_token_id if tokenizer.bos_token_id else len(tokenizer) - 2
        half = self.population // 2
        ids = torch.randint(size, (self.population, self.tokens), generator=generator)
        misfit = self._misfit(model, ids, goal)
        for _ in range(self.generations):
            best = misfit.argsort(stable=True)[:half]
            parents, known = ids[best], misfit[best]
            children = self._children(parents, self.population - half, size, generator)
            ids = torch.cat([parents, children])
            misfit = torch.cat([known, self._misfit(model, children, goal)])
        best = ids[misfit.argmin()].tolist()
        return tokenizer.decode(best, skip_special_tokens=True)

    def _children(
        self, parents: torch.Tensor, count: int, size: int, generator: torch.Generator
    ) -> torch.Tensor:
        """[count, K] ids: copies, some with the tail of a second parent, some with a new token."""

        def below(n: int, shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randint(n, shape, generator=generator)

        def happens(share: float) -> torch.Tensor:
            return torch.rand(count, generator=generator) < share

        one, two = parents[below(len(parents), (2, count))]
        cut = below(self.tokens, (count, 1))
        tail = (torch.arange(self.tokens) >= cut) & happens(self.crossover)[:, None]
        children = torch.where(tail, two, one)
        place, new = below(self.tokens, (count,)), below(size, (count,))
        rows = happens(self.mutation).nonzero().flatten()
        children[rows, place[rows]] = new[rows]
        return children

    def _misfit(self, model: Any, ids: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        """[n] squared distances of the prompts' text states to the goal [L, D]."""
        tokenizer, length = model.pipeline.tokenizer, goal.shape[0]
        rows = torch.full((len(ids), length), tokenizer.pad_token_id)
        rows[:, 0] = tokenizer.bos_token_id
        rows[:, 1 : self.tokens + 1] = ids
        rows[:, self.tokens + 1] = tokenizer.eos_token_id
        states = model.encode_embeddings(model.vocabulary[rows.to(goal.device)]).states
        return (states - goal).square().sum((1, 2)).cpu()
