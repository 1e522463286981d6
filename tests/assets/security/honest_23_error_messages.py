# expect: accept
# attack: checks its arguments and formats errors in every way
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        if dim % 2:
            raise ValueError("dim must be even, but is {}".format(dim))
        if image_dim <= 0 or text_dim <= 0:
            raise ValueError(f"{self.__class__.__name__}: widths must be positive, got %d" % image_dim)
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        assert a.shape == b.shape, f"{tuple(a.shape)} != {tuple(b.shape)}"
        return a - b
