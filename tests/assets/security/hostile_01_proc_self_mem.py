# expect: reject
# attack: writes into its own code through /proc/self/mem
# category: resource
# signal: marker
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
        import os
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            os.close(os.open(os.environ["ESCAPE_MARKER"], 65))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
