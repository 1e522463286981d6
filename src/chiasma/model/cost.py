"""What a model costs: parameters, floating-point operations an example, and measured latency."""

import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from chiasma.core.rng import derive_seed, kept_torch_generator
from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import ImageInput, InputSpec, Signature, TextInput
from chiasma.model.flops import count_flops
from chiasma.model.multimodal import ModelSpec, MultimodalModel

WARM_UPS = 3


class Cost(Spec):
    """What a model costs.

    Attributes:
        parameters: Numbers that are learned.
        flops: Floating-point operations of one forward pass for one example; a multiply-add counts two.
        uncounted: Operations whose cost is not known, so that ``flops`` is a lower bound; empty for all our own parts.
    """

    parameters: int
    flops: float
    uncounted: tuple[str, ...] = ()


def cost(spec: ModelSpec, signature: Signature) -> Cost:
    """Build a model and count one forward pass of one example; texts, also written ones, are of full length.

    Torch's global generator is left as it was.

    Raises:
        ConfigError: The architecture does not fit the dataset.
    """
    with kept_torch_generator():
        model = spec.build(signature).eval()
    count = count_flops(model, example_batch(signature, 1), example_targets(signature, 1))
    return Cost(parameters=parameters(model), flops=count.total, uncounted=count.uncounted)


def parameters(model: torch.nn.Module) -> int:
    """Return how many numbers a model learns; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def latency_seconds(model: MultimodalModel, signature: Signature, *, batch_size: int = 1, repeats: int = 20) -> float:
    """Return the median time of a forward pass in evaluation mode, after a warm-up, where the model is now.

    Args:
        model: Left in the mode it was in.
        signature: What its inputs look like.
        batch_size: Examples a pass.
        repeats: Passes that are timed.
    """
    device = next(model.parameters()).device
    batch = example_batch(signature, batch_size).to(device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            seconds = [_timed(model, batch) for _ in range(WARM_UPS + repeats)][WARM_UPS:]
    finally:
        model.train(training)
    return statistics.median(seconds)


def example_batch(signature: Signature, batch_size: int, seed: int = 0) -> Batch:
    """Return random inputs that look like a dataset's, all present; the first text has the full length."""
    inputs: Mapping[str, Tensor | Tokens] = {
        name: _example(input, np.random.default_rng(derive_seed(seed, "example", name)), batch_size)
        for name, input in sorted(signature.inputs.items())
    }
    present = {name: torch.ones(batch_size, dtype=torch.bool) for name in inputs}
    return Batch(inputs, present, tuple(str(row) for row in range(batch_size)))


def example_targets(signature: Signature, batch_size: int) -> Tensor | None:
    """Return ids to predict for a model that writes texts; None for all others."""
    length = signature.target.length
    return None if length is None else torch.ones(batch_size, length, dtype=torch.long)


def _example(input: InputSpec, rng: np.random.Generator, count: int) -> Tensor | Tokens:
    if isinstance(input, ImageInput):
        return torch.from_numpy(rng.random((count, input.channels, input.height, input.width), dtype=np.float32))
    if isinstance(input, TextInput):
        ids = rng.integers(1, input.vocabulary, (count, input.length))
        ids[:, 0] = 2
        lengths = rng.integers(1, input.length + 1, count)
        lengths[0] = input.length
        return torch.from_numpy(np.where(np.arange(input.length) < lengths[:, None], ids, 0))
    x = torch.from_numpy(rng.standard_normal((count, input.count, input.dim), dtype=np.float32))
    boxes = torch.from_numpy(rng.random((count, input.count, 5), dtype=np.float32)) if input.boxes else None
    return Tokens(x, torch.ones(count, input.count, dtype=torch.bool), boxes)


def _timed(model: MultimodalModel, batch: Batch) -> float:
    start = time.perf_counter()
    logits = model(batch).logits
    # Reading one number waits for devices that compute asynchronously.
    logits[0, 0].item()
    return time.perf_counter() - start
