# expect: accept
# attack: layers made by setattr and found by getattr
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
        self.depth = 2
        for n in range(self.depth):
            setattr(self, f"image_{n}", nn.Linear(image_dim if n == 0 else dim, dim))
            setattr(self, f"text_{n}", nn.Linear(text_dim if n == 0 else dim, dim))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x, y = image_tokens, text_tokens
        for n in range(self.depth):
            x = F.relu(getattr(self, f"image_{n}")(x))
            y = F.relu(getattr(self, f"text_{n}")(y))
        return masked_mean(x, image_mask) + masked_mean(y, text_mask)
