# expect: accept
# attack: latents that look twice, with a shared block and try/except for attention
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
        self.latents = nn.Parameter(nn.init.trunc_normal_(torch.empty(4, dim), std=0.02))
        self.look = nn.MultiheadAttention(dim, 2, batch_first=True, kdim=dim, vdim=dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = torch.cat((self.i(image_tokens), self.t(text_tokens)), 1)
        hidden = ~torch.cat((image_mask, text_mask), 1)
        z = self.latents.repeat(x.shape[0], 1, 1)
        for _ in range(2):
            try:
                seen, _weights = self.look(self.norm(z), x, x, key_padding_mask=hidden)
            except RuntimeError as error:
                raise RuntimeError("attention failed: " + str(error)) from error
            z = z + seen
        return z.mean(1)
