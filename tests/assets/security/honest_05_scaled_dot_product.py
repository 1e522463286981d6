# expect: accept
# attack: F.scaled_dot_product_attention with a boolean mask
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
        x, y = self.i(image_tokens), self.t(text_tokens)
        seen = F.scaled_dot_product_attention(y, x, x, attn_mask=image_mask[:, None, :].expand(-1, y.size(1), -1))
        return masked_mean(seen * y + y, text_mask)
