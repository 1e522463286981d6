# expect: reject
# attack: reaches into objects through a nested format specification
# category: introspection
# signal: secret
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

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        raise RuntimeError("{0:{1.__class__}}".format(1, torch))
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
