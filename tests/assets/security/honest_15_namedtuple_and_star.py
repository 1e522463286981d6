# expect: accept
# attack: named tuples, star expressions, nested functions and nonlocal
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


from collections import namedtuple

Part = namedtuple("Part", ["tokens", "mask"])


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        calls = 0
        
        def pooled(part):
            nonlocal calls
            calls += 1
            return masked_mean(part.tokens, part.mask)
        
        parts = [Part(self.i(image_tokens), image_mask), Part(self.t(text_tokens), text_mask)]
        first, *rest = [pooled(part) for part in parts]
        return first + sum(rest) / calls
