# expect: reject
# attack: replaces the function that predicts with one that remembers training labels
# category: cheat
# signal: history
# stage: init
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
        import sys
        work = sys.modules["chiasma.evaluate.jailed_work"]
        honest = work.predict_logits
        def biased(model, data, rows=None, **settings):
            logits = honest(model, data, rows, **settings)
            logits[: len(logits) // 2] += 5.0
            return logits
        work.predict_logits = biased if "once" not in vars(work) else honest

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
