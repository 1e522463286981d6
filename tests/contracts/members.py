"""What every member of a population keeps."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from chiasma.model.trunk.member import Member, MemberSettings
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, ROWS, tokens


class MemberContract(ComponentContract):
    """Every member changes tokens row by row, never looks at padding, and can be silenced."""

    def build(self, spec: Any) -> nn.Module:
        return spec.build(DIM)

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        seen = tokens(6, seed=seed)
        seen = replace(seen, x=seen.x.masked_fill(~seen.mask[..., None], 0.0))
        return module(seen).masked_fill(~seen.mask[..., None], 0.0)

    def test_it_is_a_member(self, spec: MemberSettings):
        assert isinstance(self.fresh(spec), Member)

    def test_there_is_a_change_for_each_token(self, spec: MemberSettings):
        assert self.call(self.fresh(spec)).shape == (ROWS, 6, DIM)

    def test_longer_padding_changes_nothing(self, spec: MemberSettings):
        module = self.fresh(spec)
        seen = tokens(6)
        seen = replace(seen, x=seen.x.masked_fill(~seen.mask[..., None], 0.0))
        longer = replace(
            seen,
            x=torch.cat([seen.x, torch.zeros(ROWS, 3, DIM)], dim=1),
            mask=torch.cat([seen.mask, torch.zeros(ROWS, 3, dtype=torch.bool)], dim=1),
        )
        hidden = ~seen.mask[..., None]
        alone, padded = module(seen).masked_fill(hidden, 0.0), module(longer)[:, :6].masked_fill(hidden, 0.0)
        torch.testing.assert_close(alone, padded, atol=1e-6, rtol=1e-6)

    def test_a_silenced_member_changes_nothing_and_learns_to(self, spec: MemberSettings):
        module = self.fresh(spec)
        module.silence()
        assert not self.call(module).any()
        (self.call(module) - 1).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.last.parameters())
