# expect: accept
# attack: iterative routing by agreement
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

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = torch.cat([self.i(image_tokens), self.t(text_tokens)], 1)
        mask = torch.cat([image_mask, text_mask], 1)
        logits = torch.zeros_like(mask, dtype=x.dtype)
        for _ in range(3):
            c = logits.masked_fill(~mask, float("-1e9")).softmax(1)
            s = torch.einsum("bn,bnd->bd", c, x)
            v = s / (1 + s.norm(dim=-1, keepdim=True))
            logits = logits + (x * v[:, None]).sum(-1)
        return v
