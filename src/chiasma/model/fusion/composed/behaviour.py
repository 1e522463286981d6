"""What a fusion does, whatever it is written like: a hash of its outputs on fixed inputs with fixed weights."""

import torch

from chiasma.core.rng import kept_torch_generator
from chiasma.data.batch import Tokens
from chiasma.model.fusion.composed.composed import Composed
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.behaviour import SCALES, digest, fill, numbers, starts

DIM = 16  # Every number of heads divides it.
IMAGES, TEXTS = (36, 21, 0, 9), (33, 17, 5, 0)
"""Tokens of each row; longer than the largest number of keys that an attention chooses, and none."""


def fusion_fingerprint(fusion: Composed) -> str:
    """Return 16 hexadecimal digits that are equal for fusions that compute the same.

    The fusion runs in double precision on four fixed rows, padded ones and ones without image or text among them, with
    weights that depend on what a parameter is for and on how many such there were before it. Fusions that differ by
    less than rounding to three digits count as the same; two that are the same only after their weights are renamed
    may count as different. Dropout does not count.
    """
    image, text = _tokens("image", IMAGES), _tokens("text", TEXTS)
    outs: list[float] = []
    with kept_torch_generator(), torch.no_grad():
        module = fusion.build(DIM).double().eval()
        for scale in SCALES:
            fill(module, scale, purposes=OPS, below="tree.")
            joint = module(image, text)
            outs += (joint.x[joint.mask] + 0.0).flatten().tolist()
    attentions = [node.attention for node in fusion.tree.nodes]
    begun = [word for each in attentions if isinstance(each, GraphAttention) for word in starts(each)]
    return digest(outs, begun)


def _tokens(purpose: str, lengths: tuple[int, ...]) -> Tokens:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Tokens(numbers(torch.empty(len(lengths), max(lengths), DIM, dtype=torch.float64), purpose), mask)
