"""What every fusion keeps."""

from typing import Any

import pytest
import torch
from torch import nn

from chiasma.data.batch import Tokens
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from tests.contracts.component import ComponentContract
from tests.contracts.inputs import DIM, ROWS, spoiled, tokens

NOTHING = torch.zeros(ROWS, dtype=torch.bool)


class FusionContract(ComponentContract):
    """Every fusion joins image and text row by row, obeys both masks, and does with what is there."""

    def build(self, spec: Any) -> nn.Module:
        return spec.build(DIM)

    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        joint = module(*self.inputs(seed))
        return torch.cat([joint.mean(), joint.mask.sum(1, keepdim=True)], dim=1)

    def inputs(self, seed: int = 0) -> tuple[Tokens, Tokens]:
        return tokens(6, seed=seed), tokens(5, seed=seed + 1)

    def test_it_is_a_fusion(self, spec: FusionSettings):
        assert isinstance(self.fresh(spec), Fusion)

    def test_joint_tokens_have_the_models_width(self, spec: FusionSettings):
        out = self.fresh(spec)(*self.inputs())
        assert out.x.shape[0] == ROWS
        assert out.x.shape[2] == DIM
        assert out.x.dtype == torch.float32
        assert out.mask.shape == out.x.shape[:2]
        assert out.present().all()

    @pytest.mark.parametrize(("images", "texts"), [(1, 1), (3, 1), (1, 4)])
    def test_any_count_of_tokens_will_do(self, spec: FusionSettings, images: int, texts: int):
        assert self.fresh(spec)(tokens(images), tokens(texts)).mean().isfinite().all()

    def test_gradients_reach_both_inputs(self, spec: FusionSettings):
        image, text = self.inputs()
        image.x.requires_grad_()
        text.x.requires_grad_()
        self.fresh(spec).train()(image, text).mean().square().sum().backward()
        for part in (image, text):
            assert part.x.grad is not None
            reached = part.x.grad.abs().sum(-1) > 0
            assert reached[part.mask].all()
            assert not reached[~part.mask].any()

    def test_padding_does_not_matter_even_if_it_is_not_a_number(self, spec: FusionSettings):
        module = self.fresh(spec)
        image, text = self.inputs()
        clean = module(image, text).mean()
        for noise in (1e9, float("nan"), float("-inf")):
            module.zero_grad()
            out = module(spoiled(image, noise), spoiled(text, noise)).mean()
            torch.testing.assert_close(out, clean, atol=1e-6, rtol=1e-6)
            out.square().sum().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    @pytest.mark.parametrize("absent", ["image", "text", "both"])
    def test_an_absent_modality_counts_nothing_and_the_other_still_counts(self, spec: FusionSettings, absent: str):
        module = self.fresh(spec)
        outputs = []
        for seed in (0, 2):
            image, text = self.inputs(seed)
            kept = self.inputs(0)
            image = Tokens(image.x, image.mask & False) if absent in ("image", "both") else kept[0]
            text = Tokens(text.x, text.mask & False) if absent in ("text", "both") else kept[1]
            outputs.append(module(image, text).mean())
        assert outputs[0].isfinite().all()
        assert torch.equal(outputs[0], outputs[1])
        differs = not torch.allclose(outputs[0][0], outputs[0][1])
        assert differs == (absent != "both")

    def test_rows_without_anything_have_finite_gradients(self, spec: FusionSettings):
        module = self.fresh(spec).train()
        image, text = (part.only(NOTHING) for part in self.inputs())
        module(image, text).mean().square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())

    def test_an_absent_row_leaves_the_others_alone(self, spec: FusionSettings):
        module = self.fresh(spec)
        image, text = self.inputs()
        some = torch.tensor([True, False, True, True, True])
        out = module(image.only(some), text).mean()
        torch.testing.assert_close(out[some], module(image, text).mean()[some], atol=1e-6, rtol=1e-6)

    def test_a_row_alone_gives_what_it_gives_in_a_batch(self, spec: FusionSettings):
        module = self.fresh(spec)
        image, text = self.inputs()
        whole = module(image, text).mean()
        for row in range(ROWS):
            one = slice(row, row + 1)
            alone = module(Tokens(image.x[one], image.mask[one]), Tokens(text.x[one], text.mask[one])).mean()
            torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=1e-5)

    def test_permuting_rows_permutes_the_output(self, spec: FusionSettings):
        module = self.fresh(spec)
        image, text = self.inputs()
        order = torch.tensor([3, 0, 4, 1, 2])
        out = module(Tokens(image.x[order], image.mask[order]), Tokens(text.x[order], text.mask[order])).mean()
        torch.testing.assert_close(out, module(image, text).mean()[order], atol=1e-5, rtol=1e-5)
