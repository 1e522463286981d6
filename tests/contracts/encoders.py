"""What every encoder keeps."""

from typing import Any

import torch
from torch import nn

from chiasma.data.batch import Tokens
from chiasma.model.encoders.encoder import Encoder, EncoderSettings
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, EXAMPLES, ROWS, example, rows_of, spoiled


class EncoderContract(ComponentContract):
    """Every encoder turns each row of its input into tokens, whatever the other rows are."""

    def build(self, spec: Any) -> nn.Module:
        return spec.build(DIM, self.input_of(spec))

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        return self.encode(module, seed).x

    def input_of(self, spec: Any) -> Any:
        return next(input for input in EXAMPLES if isinstance(input, spec.accepts))

    def encode(self, module: nn.Module, seed: int = 0) -> Tokens:
        return module(example(module.contract_input, seed=seed))

    def fresh(self, spec: Any, seed: int = 0) -> nn.Module:
        module = super().fresh(spec, seed)
        module.contract_input = self.input_of(spec)
        return module

    def test_it_is_an_encoder(self, spec: EncoderSettings):
        assert isinstance(self.fresh(spec), Encoder)

    def test_tokens_have_the_models_width(self, spec: EncoderSettings):
        out = self.encode(self.fresh(spec))
        assert out.x.shape[0] == ROWS
        assert out.x.shape[2] == DIM
        assert out.x.dtype == torch.float32
        assert out.mask.shape == out.x.shape[:2]
        assert out.x.isfinite().all()

    def test_a_row_alone_gives_what_it_gives_in_a_batch(self, spec: EncoderSettings):
        module = self.fresh(spec)
        value = example(self.input_of(spec))
        whole = module(value)
        for row in range(ROWS):
            alone = module(rows_of(value, torch.tensor([row])))
            torch.testing.assert_close(alone.x[0], whole.x[row], atol=1e-5, rtol=1e-5)
            assert torch.equal(alone.mask[0], whole.mask[row])

    def test_permuting_rows_permutes_the_output(self, spec: EncoderSettings):
        module = self.fresh(spec)
        value, order = example(self.input_of(spec)), torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(module(rows_of(value, order)).x, module(value).x[order], atol=1e-5, rtol=1e-5)

    def test_another_input_gives_another_output(self, spec: EncoderSettings):
        module = self.fresh(spec)
        assert not torch.allclose(self.call(module, 0).sum(1), self.call(module, 1).sum(1))

    def test_padding_does_not_matter_even_if_it_is_not_a_number(self, spec: EncoderSettings):
        value = example(self.input_of(spec))
        if not isinstance(value, Tokens):
            return
        module = self.fresh(spec)
        clean = module(value)
        for noise in (1e9, float("nan"), float("inf")):
            module.zero_grad()
            out = module(spoiled(value, noise))
            assert torch.equal(out.only(out.present()).x, clean.only(clean.present()).x)
            out.mean().square().sum().backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())

    def test_a_row_of_nothing_but_padding_is_finite(self, spec: EncoderSettings):
        module = self.fresh(spec).train()
        value = example(self.input_of(spec))
        nothing = Tokens(value.x * 0, value.mask & False, value.boxes) if isinstance(value, Tokens) else value * 0
        out = module(nothing)
        assert out.x.isfinite().all()
        out.mean().square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
