# expect: accept
# attack: an abstract base class
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F
from abc import ABC, abstractmethod


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class Base(nn.Module, ABC):
    def __init__(self, image_dim, text_dim, dim):
        nn.Module.__init__(self)
        self.project = nn.ModuleList([nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)])

    @abstractmethod
    def join(self, a, b): ...

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        pairs = zip(self.project, (image_tokens, text_tokens), (image_mask, text_mask), strict=True)
        return self.join(*(masked_mean(f(x), m) for f, x, m in pairs))


class FusionModule(Base):
    """Hyperbolic-looking join."""

    def join(self, a, b):
        return torch.asinh(a) + torch.atan(b) * a
