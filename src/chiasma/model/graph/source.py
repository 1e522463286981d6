"""A mechanism as a Python file that a reader can follow and run: the kernel, and the projections around it."""

from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.compile import CLASS, kernel_source

IMPORTS = {
    "torch.": "import torch",
    "nn.": "from torch import nn",
    "functional.": "from torch.nn import functional",
    "parts.": "from chiasma.model.graph import parts",
    "AttentionKernel": "from chiasma.model.kernel import AttentionKernel",
}
GROUPS = (("torch.", "nn.", "functional."), ("parts.", "AttentionKernel"))
CALL = {"q": "queries", "k": "keys", "v": "keys"}


def module_source(attention: GraphAttention) -> str:
    """Return the source of a file with two classes: the kernel, and multi-head attention around it.

    Weights of Chiasma's own attention load into the second one by name.
    """
    classes = f"{kernel_source(attention.graph)}\n\n{_multi_head(attention)}"
    groups = [[IMPORTS[name] for name in group if name in classes] for group in GROUPS]
    imports = "\n\n".join("\n".join(group) for group in groups if group)
    words = f"{attention.words}, {attention.known}" if attention.known else attention.words
    return f'"""{words}."""\n\n{imports}\n\n\n{classes}'


def _multi_head(attention: GraphAttention) -> str:
    """Return the class that has the projections; those that are not learned do not appear."""
    learned = [name for name in ("q", "k", "v", "o") if getattr(attention.projections, name)]
    layers = "".join(f"        self.{name} = nn.Linear(dim, dim)\n" for name in learned)
    given = [f"self.{name}({CALL[name]})" if name in learned else CALL[name] for name in CALL]
    out = "self.o(mixed)" if "o" in learned else "mixed"
    return f'''class MultiHeadAttention(nn.Module):
    """Queries [B, Q, dim] look at keys [B, K, dim]; mask [B, 1, Q or 1, K] is true where they may."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.kernel = {CLASS}(dim // heads)
{layers}
    def forward(self, queries, keys, mask):
        q, k, v = (self._split(x) for x in ({", ".join(given)}))
        mixed = self.kernel(q, k, v, mask).transpose(1, 2).flatten(2)
        return {out}

    def _split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
'''
