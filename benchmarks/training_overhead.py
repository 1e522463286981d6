"""What our training loop costs over a bare PyTorch loop: same model, data, order, steps and optimiser kernels.

    python benchmarks/training_overhead.py --repeats 9

Both loops build the model, train, and evaluate once on ``steer``. They take turns, so that a busy machine slows both;
the figures are ratios of medians, in processor time (robust against other programs) and in wall time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional

from chiasma.core.rng import seed_torch
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec
from chiasma.train.optim import decayed_names
from chiasma.train.order import DataOrder
from chiasma.train.schedule import rate_factor
from chiasma.train.trainer import Trainer


def design(width: int) -> Design:
    """Return a multimodal design whose evaluation and restoring cost next to nothing."""
    model = ModelSpec.from_dict(
        {
            "dim": width,
            "encoders": {
                "image": {"kind": "convolution", "widths": (width // 4, width // 2), "grid": 4, "pool": "flatten"},
                "text": {"kind": "bert", "depth": 1},
            },
            "fusion": {"kind": "multiplicative"},
        }
    )
    return Design(model=model, training=TrainingSpec(loop=LoopSpec(epochs=1, evaluations=1)))


def bare(design: Design, data: Dataset) -> torch.nn.Module:
    """Train as a careful person would by hand."""
    optim, loop = design.training.optim, design.training.loop
    seed_torch(0, "init")
    model = design.model.build(data.signature)
    decayed = decayed_names(model)
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decayed], "weight_decay": optim.weight_decay},
        {"params": [p for n, p in model.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, fused=True)
    order = DataOrder(data.rows("train"), batch_size=loop.batch_size, seed=0)
    for step in range(order.steps_per_epoch):
        rows = order.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * rate_factor(optim, step=step, total_steps=order.steps_per_epoch)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(data.batch(rows)).logits, data.labels(rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    steer = data.rows("steer")
    with torch.inference_mode():
        for start in range(0, len(steer), 256):
            model(data.batch(steer[start : start + 256])).logits.argmax(1)
    return model


def ours(design: Design, data: Dataset) -> torch.nn.Module:
    """Train with the product's loop."""
    return Trainer(design, data, seed=0, device="cpu").fit().model


def timed(run: Callable[[Design, Dataset], torch.nn.Module], design: Design, data: Dataset) -> tuple[float, float]:
    """Return processor and wall seconds of one training."""
    wall, processor = time.perf_counter(), time.process_time()
    run(design, data)
    return time.process_time() - processor, time.perf_counter() - wall


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--width", type=int, default=64, help="width of the model: the smaller, the more overhead shows"
    )
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    with TemporaryDirectory() as cache:
        data, _ = prepare(DataSpec(rows=settings.rows), seed=0, cache=Path(cache))
        chosen = design(settings.width)
        for run in (bare, ours):
            run(chosen, data)
        pairs = [(timed(bare, chosen, data), timed(ours, chosen, data)) for _ in range(settings.repeats)]
    for position, clock in enumerate(("processor", "wall")):
        by_hand, product = (statistics.median(pair[side][position] for pair in pairs) for side in (0, 1))
        print(f"{clock} seconds an epoch: bare {by_hand:.3f}, ours {product:.3f}, ratio {product / by_hand:.3f}")


if __name__ == "__main__":
    main()
