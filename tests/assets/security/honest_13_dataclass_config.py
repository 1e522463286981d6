# expect: accept
# attack: frozen dataclass with a property and a class method
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    dim: int
    expansion: float = 1.5

    @property
    def inner(self) -> int:
        return int(self.dim * self.expansion)

    @classmethod
    def small(cls, dim: int) -> "Config":
        return cls(dim=dim)


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        cfg = Config.small(dim)
        self.net = nn.Sequential(nn.Linear(image_dim + text_dim, cfg.inner), nn.SiLU(), nn.Linear(cfg.inner, dim))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return self.net(torch.cat([masked_mean(image_tokens, image_mask), masked_mean(text_tokens, text_mask)], -1))
