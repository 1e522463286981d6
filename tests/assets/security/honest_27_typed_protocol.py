# expect: accept
# attack: typing with Optional, Union, TypeVar and a Protocol
# category: benign
# signal: none
# stage: forward
import torch
import torch.nn as nn
import torch.nn.functional as F


def masked_mean(x, mask):
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


from typing import Optional, Protocol, TypeVar, Union

T = TypeVar("T", bound=nn.Module)


class Pool(Protocol):
    def __call__(self, x: torch.Tensor, mask: Union[torch.Tensor, None]) -> torch.Tensor: ...


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        self.t = nn.Linear(text_dim, dim)
        self.last: Optional[Pool] = None

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        a = masked_mean(self.i(image_tokens), image_mask)
        b = masked_mean(self.t(text_tokens), text_mask)
        return torch.lerp(a, b, 0.3)
