# expect: accept
# attack: nn.TransformerEncoder over both, with types and a class token
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
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.kind = nn.Embedding(2, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        x = self.i(image_tokens) + self.kind.weight[0]
        y = self.t(text_tokens) + self.kind.weight[1]
        cls = self.cls.expand(len(x), -1, -1)
        mask = torch.cat([torch.ones_like(image_mask[:, :1]), image_mask, text_mask], 1)
        return self.encoder(torch.cat([cls, x, y], 1), src_key_padding_mask=~mask)[:, 0]
