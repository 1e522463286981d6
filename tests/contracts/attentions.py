"""What every attention keeps, the kernel by itself and inside of multi-head attention."""

from typing import Any

import torch
from torch import nn

from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionKernel, AttentionSettings, MultiHeadAttention
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, ROWS, generator, spoiled, tokens

HEADS = 2


class AttentionContract(ComponentContract):
    """Every attention mixes only what the mask shows."""

    def build(self, spec: Any) -> nn.Module:
        return MultiHeadAttention(DIM, heads=HEADS, attention=spec)

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        queries, keys = self.inputs(seed)
        return module(queries, keys)[queries.mask]

    def inputs(self, seed: int = 0) -> tuple[Tokens, Tokens]:
        return tokens(4, seed=seed), tokens(6, seed=seed + 1)

    def knobs(self, spec: Any) -> list[str]:
        return [name for name in super().knobs(spec) if name != "projections"]

    def projected(self, spec: AttentionSettings) -> list[str]:
        """Return the projections that a user may switch."""
        return ["q", "k", "v", "o"]

    def chooses_keys(self, spec: AttentionSettings) -> bool:
        """Return whether it may leave out keys that are visible."""
        return False

    def test_the_kernel_keeps_the_shape_of_the_queries_and_sees_only_what_is_shown(self, spec: AttentionSettings):
        torch.manual_seed(0)
        kernel = spec.build(8).eval()
        assert isinstance(kernel, AttentionKernel)
        q = torch.randn(ROWS, HEADS, 4, 8, generator=generator(0))
        k, v = torch.randn(2, ROWS, HEADS, 6, 8, generator=generator(1)).unbind()
        mask = tokens(6).mask[:, None, None]
        out = kernel(q, k, v, mask)
        assert out.shape == q.shape
        hidden = ~mask.transpose(2, 3)
        torch.testing.assert_close(out, kernel(q, k.masked_fill(hidden, 7.0), v.masked_fill(hidden, -7.0), mask))
        torch.testing.assert_close(out, kernel(q, k, v, mask.expand(-1, -1, 4, -1)))

    def test_each_projection_flag_changes_the_parameters_and_the_output(self, spec: AttentionSettings):
        base = self.fresh(spec)
        for name in self.projected(spec):
            flipped = {name: not getattr(spec.projections, name)}
            other = spec.from_dict({**spec.to_dict(), "projections": {**spec.projections.to_dict(), **flipped}})
            module = self.fresh(other)
            assert sum(p.numel() for p in module.parameters()) != sum(p.numel() for p in base.parameters())
            assert not torch.allclose(self.call(module), self.call(base))

    def test_padding_does_not_matter_even_if_it_is_not_a_number(self, spec: AttentionSettings):
        module = self.fresh(spec)
        queries, keys = self.inputs()
        clean = module(queries, keys)[queries.mask]
        for noise in (1e9, float("nan"), float("inf")):
            module.zero_grad()
            out = module(spoiled(queries, noise), spoiled(keys, noise))
            torch.testing.assert_close(out[queries.mask], clean, atol=1e-6, rtol=1e-6)
            assert out.isfinite().all()
            out[queries.mask].square().sum().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    def test_a_row_without_keys_sees_nothing_and_stays_finite(self, spec: AttentionSettings):
        module = self.fresh(spec).train()
        queries, keys = self.inputs()
        nothing = torch.tensor([True, False, True, True, True])
        out = module(queries, keys.only(nothing))
        again = module(queries, Tokens(tokens(6, seed=9).x, keys.mask).only(nothing))
        assert out.isfinite().all()
        assert torch.equal(out[1], again[1])
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    def test_all_rows_without_keys_have_finite_gradients(self, spec: AttentionSettings):
        module = self.fresh(spec).train()
        queries, keys = self.inputs()
        out = module(queries, keys.only(torch.zeros(ROWS, dtype=torch.bool)))
        assert out.isfinite().all()
        out.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())

    def test_a_row_alone_gives_what_it_gives_in_a_batch(self, spec: AttentionSettings):
        module = self.fresh(spec)
        queries, keys = self.inputs()
        whole = module(queries, keys)
        for row in range(ROWS):
            one = slice(row, row + 1)
            alone = module(Tokens(queries.x[one], queries.mask[one]), Tokens(keys.x[one], keys.mask[one]))
            torch.testing.assert_close(alone[0][queries.mask[row]], whole[row][queries.mask[row]], atol=1e-5, rtol=1e-5)

    def test_gradients_reach_the_keys_that_count_and_no_others(self, spec: AttentionSettings):
        queries, keys = self.inputs()
        keys.x.requires_grad_()
        self.fresh(spec)(queries, keys).square().sum().backward()
        assert keys.x.grad is not None
        reached = keys.x.grad.abs().sum(-1) > 0
        assert not (reached & ~keys.mask).any()
        assert reached.any() if self.chooses_keys(spec) else torch.equal(reached, keys.mask)
