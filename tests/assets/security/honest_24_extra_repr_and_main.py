# expect: accept
# attack: extra_repr, __all__ and a main guard
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["FusionModule"]


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        self.dim = dim

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        return torch.logaddexp(a, b)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


if __name__ == "__main__":
    module = FusionModule(8, 8, 8)
    print(module, sum(p.numel() for p in module.parameters()))
