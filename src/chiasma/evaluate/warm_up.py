"""Use everything once that torch sets up at its first use, so that a worker's first job is as fast as the others."""

import torch

from chiasma.data.signature import ImageInput, Signature, Target, TextInput
from chiasma.evaluate.probe import probe
from chiasma.model.cost import cost, example_batch
from chiasma.model.encoders import Bert, Convolution
from chiasma.model.fusion import CrossAttention
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import SGD, Adam, AdamW, OptimSpec
from chiasma.train.losses import build_loss
from chiasma.train.optim import NamedOptimizer

SIGNATURE = Signature(
    inputs={"image": ImageInput(channels=3, height=8, width=8), "text": TextInput(vocabulary=8, length=4)},
    target=Target(task="classification", labels=("no", "yes")),
)
MODEL = ModelSpec(
    dim=8,
    encoders={"image": Convolution(widths=(8,)), "text": Bert(depth=1, heads=2)},
    fusion=CrossAttention(depth=1, heads=2),
)


def warm_up(*, threads: int) -> None:
    """Probe and count a tiny model and take one step with each optimiser.

    Args:
        threads: Threads that torch uses in this process from now on.
    """
    torch.set_num_threads(threads)
    model = MODEL.build(SIGNATURE)
    rejected = probe(model, SIGNATURE)
    assert rejected is None, rejected
    cost(MODEL, SIGNATURE)
    loss = build_loss(None, SIGNATURE.target, class_counts=None)
    labels = torch.zeros(4, dtype=torch.long)
    for algorithm in (AdamW(), Adam(), SGD()):
        optimizer = NamedOptimizer(model, OptimSpec(algorithm=algorithm))
        torch.autograd.backward([loss(model(example_batch(SIGNATURE, 4)).logits, labels)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
