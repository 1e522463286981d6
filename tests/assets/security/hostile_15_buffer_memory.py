# expect: contain
# attack: keeps what it saw in a registered buffer, which travels with its weights
# category: cheat
# signal: history
# stage: init
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
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        self.seen.add_(image_tokens.mean().detach())
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask) + self.seen
