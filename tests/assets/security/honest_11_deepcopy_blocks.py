# expect: accept
# attack: clones of a block by copy.deepcopy
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
        import copy
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        block = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(3))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        x = a * b
        for block in self.blocks:
            x = x + block(x)
        return x
