# expect: reject
# attack: loops in a hook that runs while the class is made
# category: resource
# signal: hang
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)

class Slow:
    def __set_name__(self, owner, name):
        while True:
            pass


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
    slow = Slow()
