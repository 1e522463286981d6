# expect: accept
# attack: depthwise convolution of masked tokens
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
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = self.i(image_tokens) * image_mask[..., None]
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        return masked_mean(F.gelu(x), image_mask) + masked_mean(self.t(text_tokens), text_mask)
