"""What every head keeps."""

from typing import Any

import pytest
import torch
from torch import nn

from chiasma.data.batch import TokenBatch
from chiasma.model.heads import Head, HeadSettings
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, ROWS, signature, spoiled, tokens

NO_TOKENS = TokenBatch({}, tuple(str(row) for row in range(ROWS)))


class HeadContract(ComponentContract):
    """Every head gives one finite score a label and row."""

    def build(self, spec: Any) -> nn.Module:
        return spec.build(DIM, signature(spec.kind).target)

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        output = module(tokens(4, seed=seed), NO_TOKENS)
        return output.logits if output.log_variances is None else output.logits + output.log_variances.sum()

    def test_there_is_one_score_a_label(self, spec: HeadSettings):
        module = self.fresh(spec)
        assert isinstance(module, Head)
        assert self.call(module).shape == (ROWS, 3)

    def test_scores_are_float32_whatever_the_precision(self, spec: HeadSettings):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert self.call(self.fresh(spec)).dtype == torch.float32

    def test_a_target_of_another_task_is_refused(self, spec: HeadSettings):
        other = next(task for task in ("classification", "regression") if task != spec.kind)
        with pytest.raises(ValueError, match=f"target's task '{other}', but it is '{spec.kind}'"):
            spec.build(DIM, signature(other).target)

    def test_padding_does_not_matter(self, spec: HeadSettings):
        module = self.fresh(spec)
        clean = module(tokens(4), NO_TOKENS).logits
        assert torch.equal(module(spoiled(tokens(4), float("nan")), NO_TOKENS).logits, clean)

    def test_rows_without_tokens_are_finite(self, spec: HeadSettings):
        nothing = tokens(4).only(torch.zeros(ROWS, dtype=torch.bool))
        assert self.fresh(spec)(nothing, NO_TOKENS).logits.isfinite().all()
