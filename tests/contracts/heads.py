"""What every head keeps."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from chiasma.data.batch import Output, TokenBatch, Tokens
from chiasma.model.heads import Head, HeadSettings
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, ROWS, signature, spoiled, tokens

IDS = tuple(str(row) for row in range(ROWS))


def scores(module: nn.Module, sides: Sequence[Tokens]) -> Output:
    """Return what a head says of the first side fused, and of both sides by themselves."""
    return module(sides[0], TokenBatch(dict(zip(("image", "text"), sides, strict=True)), IDS))


def both(seed: int = 0) -> tuple[Tokens, Tokens]:
    return tokens(4, seed=seed), tokens(3, seed=seed + 1)


class HeadContract(ComponentContract):
    """Every head gives one finite score a label and row."""

    def build(self, spec: Any) -> nn.Module:
        return spec.build(DIM, signature(spec.kind).target)

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        output = scores(module, both(seed))
        whole = output.logits if output.log_variances is None else output.logits + output.log_variances.sum()
        # Each score by itself: the sum of the squares of a direction is the same whatever it is.
        return whole * torch.linspace(0.5, 1.5, whole.shape[1])

    def test_there_is_one_score_a_label(self, spec: HeadSettings):
        module = self.fresh(spec)
        assert isinstance(module, Head)
        widths = {"contrastive": 2 * getattr(spec, "projection", 0)}
        assert self.call(module).shape == (ROWS, widths.get(spec.kind, 3))

    def test_scores_are_float32_whatever_the_precision(self, spec: HeadSettings):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert self.call(self.fresh(spec)).dtype == torch.float32

    def test_a_target_of_another_task_is_refused(self, spec: HeadSettings):
        other = next(task for task in ("classification", "regression") if task != spec.kind)
        with pytest.raises(ValueError, match=f"target's task '{other}', but it is '{spec.kind}'"):
            spec.build(DIM, signature(other).target)

    def test_padding_does_not_matter(self, spec: HeadSettings):
        module = self.fresh(spec)
        clean = scores(module, both()).logits
        assert torch.equal(scores(module, [spoiled(side, float("nan")) for side in both()]).logits, clean)

    def test_rows_without_tokens_are_finite(self, spec: HeadSettings):
        nothing = [side.only(torch.zeros(ROWS, dtype=torch.bool)) for side in both()]
        assert scores(self.fresh(spec), nothing).logits.isfinite().all()
