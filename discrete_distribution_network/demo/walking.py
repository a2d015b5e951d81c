"""A walk through the latent tree by hand, one choice after another.

A place in the tree is the codes chosen so far, a tuple of integers, which can be copied, pasted and shared. At a level
with patches the choices are made patch by patch, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.model.candidates import Candidates
from discrete_distribution_network.model.code_distribution import CodeDistribution, Pick, chosen_temperature, draw_codes
from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.selection import FixedCodes, PriorSampling
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.counts import Frequencies
from discrete_distribution_network.random_state import random_generator

Codes = tuple[int, ...]


class Choice(NamedTuple):
    """The candidates at a place in the tree.

    Attributes:
        level, patch: of the choice; patch is None at a level with one code for the whole image.
        candidates: all K, (K, C, p, p) of a patch, else as `images`.
        images: the image so far with each of the K candidates in place, (K, C, h, w).
        chances: probabilities of the candidates by the prior, (K,); None without one.
    """

    level: int
    patch: int | None
    candidates: Tensor
    images: Tensor
    chances: Tensor | None


class Walker:
    """Moves through the latent tree of a model.

    Its prior gives the probabilities of candidates, and draws codes; without one they are uniform.

    Args:
        label: class, for a class-conditional network or prior.
    """

    def __init__(self, ddn: DDN, label: int | None = None):
        self.ddn, self.prior, self.label = ddn, ddn.prior, label
        self.starts = [sum(ddn.codes_per_level[:level]) for level in range(ddn.num_levels)]

    def level_of(self, codes: Codes) -> tuple[int, int]:
        """The level of the next choice, and the number of codes already chosen there."""
        level = next(i for i in reversed(range(self.ddn.num_levels)) if self.starts[i] <= len(codes))
        return level, len(codes) - self.starts[level]

    def done(self, codes: Codes) -> bool:
        """Whether all codes are chosen."""
        return len(codes) == sum(self.ddn.codes_per_level)

    @torch.no_grad()
    def choice(self, codes: Codes) -> Choice:
        """The candidates after these codes, which must not be all."""
        level, made = self.level_of(codes)
        start = self.starts[level]
        look = _Look(self._by_level(codes[:start]), codes[start:], self.prior, self._labels(self.prior))
        self.ddn.walk(look, 1, level + 1, self._labels(self.ddn))
        sampler = look.sampler
        patch = None if sampler.patch_size is None else made
        candidates = images = look.candidates(patch).nodes(0, sampler.codebook_size)[0]
        if patch is not None:
            images = self._in_place(look, codes[self.starts[level] :], candidates)
        chances = look.part.scores[made].softmax(0) if look.part.scores else None
        return Choice(level, patch, candidates, images, chances)

    def _in_place(self, look: _Look, made: Codes, images: Tensor) -> Tensor:
        """The image so far (K, C, h, w) with each of the candidates (K, C, p, p) as its next patch."""
        p = images.shape[-1]
        assert look.residual is not None
        columns = look.residual.shape[3] // p

        def area(whole: Tensor, patch: int) -> Tensor:
            top, left = patch // columns * p, patch % columns * p
            return whole[..., top : top + p, left : left + p]

        image = look.residual.clone()
        for patch, code in enumerate(made):
            area(image, patch).copy_(look.candidates(patch).at(torch.tensor([code])))
        whole = image.repeat(len(images), 1, 1, 1)
        area(whole, len(made)).copy_(images)
        return whole

    def _labels(self, conditional: object) -> Tensor | None:
        has_classes = getattr(conditional, "num_classes", None) is not None
        return torch.tensor([self.label or 0]) if has_classes else None

    def _by_level(self, codes: Codes) -> list[Tensor]:
        return self.ddn.split_codes(torch.tensor([codes], dtype=torch.long))

    @torch.no_grad()
    def image(self, codes: Codes) -> Float[Tensor, "channels height width"]:
        """The image so far, in [0, 1]; grey before the first choice."""
        ddn = self.ddn
        if not codes:
            return torch.full((ddn.channels, *ddn.image_size), 0.5)
        if self.done(codes) or self.level_of(codes)[1] == 0:
            return ddn.decode(torch.tensor([codes]), self._labels(ddn))[0].clamp(0, 1)
        chosen = self.choice(codes[:-1]).images[codes[-1]]
        return resize(chosen.unsqueeze(0), ddn.image_size)[0].clamp(0, 1)

    @torch.no_grad()
    def finish(self, codes: Codes, seed: int | None = None) -> Codes:
        """These codes and the rest, drawn as by `ddn sample` from the prior or uniformly."""
        start = self.starts[self.level_of(codes)[0]]
        prior = self.prior or Frequencies([torch.zeros(size) for size in self.ddn.codebook_sizes], self.ddn.code_shapes)
        select = _Finish(
            self._by_level(codes[:start]),
            codes[start:],
            prior,
            1,
            labels=self._labels(self.prior),
            temperature=chosen_temperature(prior, None),
            generator=random_generator(seed),
        )
        return tuple(self.ddn.walk(select, 1, None, self._labels(self.ddn)).codes[0].tolist())

    def follow(self, image: Float[Tensor, "channels height width"]) -> Codes:
        """The codes of an image."""
        return tuple(self.ddn.encode(image.unsqueeze(0), labels=self._labels(self.ddn))[0].tolist())

    def parse(self, text: str) -> Codes:
        """Codes from text, the inverse of `written`.

        Raises:
            InvalidInput: the text is something else, or too long, or a code is not below K.
        """
        words = text.replace("|", " ").replace(",", " ").split()
        if not all(word.isdecimal() and len(word) < 10 for word in words):
            raise InvalidInput(f"expected numbers and bars, such as 12 | 7, got {text[:40]!r}; paste a copied code")
        total = sum(self.ddn.codes_per_level)
        require(len(words) <= total, f"at most {total} codes", len(words))
        codes = tuple(map(int, words))
        sizes = [
            size
            for size, count in zip(self.ddn.codebook_sizes, self.ddn.codes_per_level, strict=True)
            for _ in range(count)
        ]
        for code, size in zip(codes, sizes, strict=False):
            require(code < size, f"codes below {size}", code)
        return codes

    def written(self, codes: Codes) -> str:
        """Codes as text, with bars between levels."""
        ends = [*self.starts[1:], sum(self.ddn.codes_per_level)]
        parts = [codes[start:end] for start, end in zip(self.starts, ends, strict=True)]
        return " | ".join(" ".join(map(str, part)) for part in parts if part)


class _Part:
    """Picks the given codes of the first patches of a level, then `pick`s; keeps the scores (K,) of each patch."""

    def __init__(self, codes: Codes, pick: Pick):
        self.codes, self.pick = codes, pick
        self.scores: list[Tensor] = []

    def __call__(self, scores: Tensor) -> Tensor:
        picked, done = self.pick(scores), len(self.scores)
        self.scores += scores.flatten(0, -2).unbind()
        given = self.codes[done : len(self.scores)]
        picked.view(-1)[: len(given)] = torch.tensor(given, dtype=torch.long)
        return picked


class _Look:
    """A selection that takes given codes, and keeps the input of the level after them to show its candidates."""

    sampler: GuidedSampler
    features: Tensor
    residual: Tensor | None

    def __init__(self, codes: Sequence[Tensor], part: Codes, prior: CodeDistribution | None, labels: Tensor | None):
        self.given, self.prior = FixedCodes(codes), prior
        self.part = _Part(part, lambda scores: scores.argmax(-1))
        self.state = None if prior is None else prior.begin(1, labels)

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        if level < len(self.given.codes):
            step = self.given(level, sampler, features, residual)
            if self.prior is not None:
                self.state = self.prior.follow(level, step.codes, self.state)
            return step
        self.sampler, self.features, self.residual = sampler, features, residual
        if self.prior is not None:
            draw_codes(self.prior, level, features, self.state, self.part)
        return sampler.draw(features, torch.zeros(sampler.codes_shape(features), dtype=torch.long), residual)

    def candidates(self, patch: int | None) -> Candidates:
        return self.sampler.candidates(self.features, self.residual, patch)


class _Finish(PriorSampling):
    """A selection that takes given codes, of whole levels and of a part of the next, and draws the rest."""

    def __init__(self, whole: Sequence[Tensor], part: Codes, prior: CodeDistribution, batch_size: int, **options: Any):
        super().__init__(prior, batch_size, **options)
        self.given, self.part = whole, _Part(part, super().pick)

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        if level >= len(self.given):
            return super().__call__(level, sampler, features, residual)
        self.state = self.prior.follow(level, self.given[level], self.state)
        return sampler.draw(features, self.given[level], residual)

    def pick(self, logits: Tensor) -> Tensor:
        return self.part(logits)
