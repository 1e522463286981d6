# expect: accept
# attack: rotary positions from a buffer and slicing
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
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        half = dim // 2
        self.register_buffer("freq", 1.0 / 10000 ** (torch.arange(half) / half), persistent=False)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        def rotate(x):
            angle = torch.arange(x.shape[1], device=x.device)[:, None] * self.freq
            c, s = angle.cos(), angle.sin()
            u, w = x[..., ::2], x[..., 1::2]
            return torch.stack([u * c - w * s, u * s + w * c], -1).flatten(-2)
        
        return masked_mean(rotate(self.i(image_tokens)), image_mask) + masked_mean(rotate(self.t(text_tokens)), text_mask)
