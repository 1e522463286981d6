# expect: accept
# attack: returns several tokens from learned queries
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
        self.queries = nn.Parameter(torch.randn(3, dim) * 0.02)
        self.attention = nn.MultiheadAttention(dim, 4, batch_first=True)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = torch.cat([self.i(image_tokens), self.t(text_tokens)], dim=1)
        mask = torch.cat([image_mask, text_mask], dim=1)
        q = self.queries.unsqueeze(0).expand(x.size(0), -1, -1)
        return self.attention(q, x, x, key_padding_mask=mask.logical_not(), need_weights=False)[0] + x.new_zeros(1)
