# expect: accept
# attack: Sinkhorn alignment of tokens
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
        x, y = F.normalize(self.i(image_tokens), dim=-1), F.normalize(self.t(text_tokens), dim=-1)
        valid = image_mask[:, :, None] & text_mask[:, None, :]
        plan = torch.where(valid, torch.exp(x @ y.mT), torch.zeros(()))
        for _ in range(4):
            plan = plan / plan.sum(2, keepdim=True).clamp_min(1e-6)
            plan = plan / plan.sum(1, keepdim=True).clamp_min(1e-6)
        moved = plan.transpose(1, 2) @ x
        return masked_mean(moved * y + y, text_mask)
