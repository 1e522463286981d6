# expect: accept
# attack: hand-written multi-head attention with view and transpose
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
        self.h = 4
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x, y = self.i(image_tokens), self.t(text_tokens)
        b, m, d = y.shape
        q = self.q(y).view(b, m, self.h, d // self.h).transpose(1, 2)
        k = self.k(x).view(b, -1, self.h, d // self.h).transpose(1, 2)
        v = self.v(x).view(b, -1, self.h, d // self.h).transpose(1, 2)
        score = q @ k.transpose(-2, -1) / (d // self.h) ** 0.5
        score = score.masked_fill(~image_mask[:, None, None, :], torch.finfo(score.dtype).min)
        out = (score.softmax(-1) @ v).transpose(1, 2).reshape(b, m, d)
        return masked_mean(out + y, text_mask)
