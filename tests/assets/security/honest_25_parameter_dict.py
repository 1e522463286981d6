# expect: accept
# attack: ParameterDict, ModuleDict and dictionary comprehension
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
        self.scale = nn.ParameterDict({name: nn.Parameter(torch.ones(dim)) for name in ("image", "text")})
        self.project = nn.ModuleDict({"image": nn.Linear(image_dim, dim), "text": nn.Linear(text_dim, dim)})

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        given = {"image": (image_tokens, image_mask), "text": (text_tokens, text_mask)}
        pooled = {name: masked_mean(self.project[name](x), m) * self.scale[name] for name, (x, m) in given.items()}
        return torch.stack(list(pooled.values())).sum(0)
