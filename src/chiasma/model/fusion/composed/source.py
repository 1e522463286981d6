"""A composed fusion as a Python file that a reader can follow, and that runs without Chiasma."""

import re

from chiasma.core.errors import ConfigError
from chiasma.model.attention import AttentionPlugin, DotProduct, Mean
from chiasma.model.fusion.composed import parts
from chiasma.model.fusion.composed.compile import CLASS, Emitter
from chiasma.model.fusion.composed.composed import Composed
from chiasma.model.fusion.composed.inlining import Inlined
from chiasma.model.fusion.composed.known import known_fusion_as
from chiasma.model.graph import parts as attention_parts
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.compile import CLASS as KERNEL
from chiasma.model.graph.compile import kernel_source

IMPORTS = {"torch.": "import torch", "nn.": "from torch import nn", "functional.": "from torch.nn import functional"}

TOKENS = '''class Tokens:
    """Vectors [B, N, D] with a mask [B, N] that is true where one counts."""

    def __init__(self, x, mask):
        self.x = x
        self.mask = mask

    def present(self):
        return self.mask.any(1)
'''
KERNEL_BASE = '''class AttentionKernel(nn.Module):
    """Mixes values where queries meet keys, for each head alike."""

    mixes_queries = False

    def __init__(self, head_dim=None):
        super().__init__()
'''
HEADS = """def __init__(self, dim, *, heads, attention, dropout):
    super().__init__()
    kernel, learned = attention
    self.heads = heads
    self.kernel = kernel(dim // heads)
    self.q = nn.Linear(dim, dim) if 'q' in learned else nn.Identity()
    self.k = nn.Linear(dim, dim) if 'k' in learned else nn.Identity()
    self.v = nn.Linear(dim, dim) if 'v' in learned else nn.Identity()
    self.o = nn.Linear(dim, dim) if 'o' in learned else nn.Identity()
    self.dropout = nn.Dropout(dropout)
"""


def source_of(fusion: Composed) -> str:
    """Return the source of a file that defines ``FusionModule(image_dim, text_dim, dim)``, and needs torch alone.

    ``forward(image_tokens, text_tokens, image_mask, text_mask)`` returns ``[B, dim]``, or ``[B, K, dim]`` where tokens
    are handed on; ``joint`` also returns which tokens count. ``ComposedFusion.tree``'s weights load into it strictly
    where all three widths are equal.

    Raises:
        ConfigError: A plugin is inside, whose source is not Chiasma's.
    """
    inlined = Inlined(
        replaced={"Tokens": TOKENS, "AttentionKernel": KERNEL_BASE}, constructors={"MultiHeadAttention": HEADS}
    )
    kernels = {place: _kernel(fusion, place, inlined) for place in range(len(fusion.tree.nodes))}
    module = inlined.text(_module(fusion, kernels), parts)
    known = known_fusion_as(fusion)
    title = f"{fusion.words}, {known.words}" if known else fusion.words
    body = "\n\n\n".join([*inlined.definitions, module])
    imports = "\n".join(line for name, line in IMPORTS.items() if re.search(rf"\b{re.escape(name)}", body))
    return f'"""{title}."""\n\n{imports}\n\n\n{body}\n'


def _module(fusion: Composed, kernels: dict[int, str]) -> str:
    emitter = Emitter(fusion.tree)
    made = emitter.constructors(kernels.__getitem__, f"{fusion.dropout:g}")
    sides = [f"{side}_in = nn.Linear({side}_dim, dim) if {side}_dim != dim else nn.Identity()" for side in _SIDES]
    lines = [f"        self.{line}\n" for line in [*sides, *(f"{name} = {code}" for name, code in made.items())]]
    projected = {
        f"{side} = parts.filled({side}, {side}_mask, 0.0)": f"{side} = parts.filled(self.{side}_in(parts.filled("
        f"{side}_tokens, {side}_mask, 0.0)), {side}_mask, 0.0)"
        for side in _SIDES
    }
    forward = "".join(f"        {projected.get(line, line)}\n" for line in emitter.forward())
    one = fusion.tree.kinds[-1] == "vector"
    inputs = "image_tokens, text_tokens, image_mask, text_mask"
    return (
        f'class {CLASS}(nn.Module):\n    """{fusion.words}"""\n\n'
        "    def __init__(self, image_dim, text_dim, dim):\n        super().__init__()\n"
        f"{''.join(lines)}\n    def joint(self, {inputs}):\n"
        f'        """Return joint tokens [B, K, dim] and which of them count [B, K]."""\n{forward}\n'
        f"    def forward(self, {inputs}):\n        x, _ = self.joint({inputs})\n"
        f"        return {'x[:, 0]' if one else 'x'}\n"
    )


_SIDES = ("image", "text")


def _kernel(fusion: Composed, place: int, inlined: Inlined) -> str:
    """Return how an attention is named in the file, and have its kernel defined there."""
    attention = fusion.tree.nodes[place].attention
    if attention is None:
        return ""
    if isinstance(attention, AttentionPlugin):
        raise ConfigError(
            f"This fusion looks by the plugin {attention.name!r}, whose source is not Chiasma's: it cannot be printed."
        )
    learned = "".join(name for name in ("q", "k", "v", "o") if getattr(attention.projections, name))
    if isinstance(attention, GraphAttention):
        name = f"Attention_{attention.graph.content_hash()[:6]}"
        inlined.need("AttentionKernel", "chiasma.model.kernel")
        inlined.define(name, kernel_source(attention.graph).replace(KERNEL, name, 1), attention_parts)
    else:
        assert isinstance(attention, DotProduct | Mean)
        name = type(attention.build(1)).__name__
        inlined.need(name, "chiasma.model.attention")
    return f"({name}, {learned!r})"
