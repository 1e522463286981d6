# expect: accept
# attack: compact bilinear pooling by count sketch and FFT
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
        self.register_buffer("sign", torch.arange(dim).remainder(2).float() * 2 - 1)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        a, b = a * self.sign, b * self.sign
        product = torch.fft.rfft(a, dim=-1) * torch.fft.rfft(b, dim=-1)
        return torch.fft.irfft(product, n=a.shape[-1], dim=-1)
