# expect: reject
# attack: opens a file by the raw system call, past every hook in Python
# category: torch-path
# signal: marker
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
        import ctypes, os
        libc = ctypes.CDLL(None)
        number = 2 if os.uname().machine == "x86_64" else 1024
        libc.syscall(number, os.environ["ESCAPE_MARKER"].encode(), 65, 0o644)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
