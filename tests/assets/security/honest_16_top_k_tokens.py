# expect: accept
# attack: only the best tokens count
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
        self.score = nn.Linear(dim, 1)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = self.i(image_tokens)
        s = self.score(x).squeeze(-1).masked_fill(~image_mask, -1e4)
        k = min(3, s.shape[1])
        best, where = s.topk(k, dim=1)
        kept = x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        w = best.softmax(-1).unsqueeze(-1)
        return (kept * w).sum(1) + masked_mean(self.t(text_tokens), text_mask)
