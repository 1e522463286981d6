# expect: accept
# attack: an enumeration and structural matching on a string
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


from enum import Enum


class Mode(Enum):
    SUM = "sum"
    PRODUCT = "product"


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        self.mode = Mode.PRODUCT

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        match self.mode.value:
            case "sum":
                return a + b
            case "product" | "hadamard":
                return a * b + a
            case _:
                return torch.maximum(a, b)
