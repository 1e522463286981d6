# expect: accept
# attack: mean, deviation and extremes of both
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
        self.i = nn.Linear(3 * image_dim, dim)
        self.t = nn.Linear(3 * text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        def moments(x, m):
            mean = masked_mean(x, m)
            spread = masked_mean((x - mean[:, None]) ** 2, m).add(1e-6).sqrt()
            top = x.masked_fill(~m[..., None], -torch.inf).amax(1)
            top = torch.nan_to_num(top, neginf=0.0)
            return torch.cat([mean, spread, top], -1)
        
        return self.i(moments(image_tokens, image_mask)) * torch.sigmoid(self.t(moments(text_tokens, text_mask)))
