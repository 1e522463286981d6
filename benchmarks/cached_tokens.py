"""Is an epoch over cached tokens bound by computing or by reading?

    python benchmarks/cached_tokens.py PATH/TO/daquar

Reads every batch of one epoch without a model, then trains that epoch, and prints both times and the share of reading.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec
from chiasma.train.order import DataOrder
from chiasma.train.trainer import Trainer

MODEL = {
    "dim": 64,
    "encoders": {"image": {"kind": "features"}, "text": {"kind": "ngram"}},
    "fusion": {"kind": "multiplicative"},
}


def main() -> None:
    """Print seconds of reading and of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of DAQUAR with manifest.jsonl and mobilenet_v2_tokens.npz")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features = {"image": str(options.folder / "mobilenet_v2_tokens.npz")}
    spec = DataSpec(source=str(options.folder / "manifest.jsonl"), features=features)
    with TemporaryDirectory() as cache:
        data, _ = prepare(spec, seed=0, cache=Path(cache))
        loop = LoopSpec(epochs=options.epochs, evaluations=1)
        design = Design(model=ModelSpec.from_dict(MODEL), training=TrainingSpec(loop=loop))
        order = DataOrder(data.rows("train"), batch_size=loop.batch_size, seed=0)
        steps = options.epochs * order.steps_per_epoch
        for step in range(order.steps_per_epoch):
            data.batch(order.batch(step))
        started = time.perf_counter()
        for step in range(steps):
            rows = order.batch(step)
            data.batch(rows), data.labels(rows)
        reading = (time.perf_counter() - started) / options.epochs
        started = time.perf_counter()
        Trainer(design, data, device="cpu").fit()
        whole = (time.perf_counter() - started) / options.epochs
    print(f"{len(order.rows)} rows, {data.signature.inputs['image']}")
    print(f"an epoch: reading {reading:.2f} s, reading and computing {whole:.2f} s; reading is {reading / whole:.0%}")


if __name__ == "__main__":
    main()
