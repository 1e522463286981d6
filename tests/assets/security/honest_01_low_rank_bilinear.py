# expect: accept
# attack: MUTAN-like low-rank bilinear pooling
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
        rank = 4
        self.i = nn.ModuleList(nn.Linear(image_dim, dim) for _ in range(rank))
        self.t = nn.ModuleList(nn.Linear(text_dim, dim) for _ in range(rank))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a, b = masked_mean(image_tokens, image_mask), masked_mean(text_tokens, text_mask)
        return sum(torch.tanh(f(a)) * torch.tanh(g(b)) for f, g in zip(self.i, self.t))
