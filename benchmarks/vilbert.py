"""ViLBERT from scratch beside the fusions of the spine, on DAQUAR with ready-made tokens as regions.

    python benchmarks/vilbert.py PATH/TO/daquar --seeds 81 82 83 84 85 --epochs 8

Every arm sees the same tokens (the first of the whole image, then nine cells of a grid), the same questions in the same
order and as many epochs, each with the learning rate of its own preset. ViLBERT alone is told where the cells lie; the
others learn a vector for each place. Everything is measured on ``select``, which decides nothing here: the test split
stays sealed. What is trained is kept in ``--out``, so that an interrupted table goes on where it was.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasma.data.dataset import Dataset
from chiasma.data.prepare import prepare
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.cost import cost
from chiasma.store.folders import cache_folder
from chiasma.train.predicting import predict_logits
from chiasma.train.trainer import Trainer

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vilbert": ("vilbert_small", {"model.encoders.image": {"kind": "regions", "boxes": "grid", "whole": "first"}}),
    "concat": ("concat", {}),
    "cross_attention": ("cross_attention", {}),
    "alternating": ("cross_attention", {"model.fusion": {"kind": "alternating"}}),
}
"""By name: the preset and what is changed of it."""


def main() -> None:
    """Train every arm on every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of DAQUAR with manifest.jsonl and mobilenet_v2_tokens.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[81, 82, 83, 84, 85])
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("vilbert_table"), help="folder for what is trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    configs = {name: config_of(name, options.folder, options.epochs) for name in ARMS}
    dataset = prepare(configs["vilbert"].data, seed=0, cache=cache_folder(), progress=lambda text: None)[0]
    found = {
        name: np.stack([trained(name, config, dataset, seed=seed, out=options.out) for seed in options.seeds])
        for name, config in configs.items()
    }
    print_table(found, configs, dataset)


def config_of(name: str, folder: Path, epochs: float) -> RunConfig:
    """Return the settings of one arm."""
    preset, changes = ARMS[name]
    values = {"data.features": {"image": str(folder / "mobilenet_v2_tokens.npz")}, "train.epochs": epochs, **changes}
    return load_config(preset, data=str(folder / "manifest.jsonl"), values=values)


def trained(name: str, config: RunConfig, dataset: Dataset, *, seed: int, out: Path) -> np.ndarray:
    """Return what one training says on select; trained once, then kept."""
    file = out / f"{name}-{seed}-{config.train.epochs:g}.npy"
    if file.exists():
        return np.load(file, allow_pickle=False)
    started = time.process_time()
    fit = Trainer(config.design(dataset.signature), dataset, seed=seed, device="cpu").fit()
    rows = dataset.rows("select")
    logits = predict_logits(fit.model, dataset, rows)
    right = (logits.argmax(1) == dataset.labels(rows).numpy()).mean()
    print(f"{name}, seed {seed}: {right:.4f} on select, {time.process_time() - started:.0f} s", flush=True)
    np.save(file, logits)
    return logits


def print_table(found: Mapping[str, np.ndarray], configs: Mapping[str, RunConfig], dataset: Dataset) -> None:
    """Print accuracy with its interval, what each costs, and what ViLBERT gains over the others."""
    bootstrap = Bootstrap.over(dataset, dataset.rows("select"))
    for name, logits in found.items():
        score = bootstrap.interval(logits, "accuracy")
        price = cost(configs[name].design(dataset.signature).model, dataset.signature)
        size = f"{price.parameters:,} parameters, {price.flops / 1e6:.1f} MFLOPs"
        print(f"{name:16} accuracy {score.value:.4f} ({score.low:.4f} to {score.high:.4f}), {size}")
    for name in [each for each in found if each != "vilbert"]:
        gain = bootstrap.gain_against(name, found["vilbert"], found[name], metric="accuracy")
        value = gain.gain
        print(f"vilbert over {name}: {value.value:+.4f} ({value.low:+.4f} to {value.high:+.4f}), {gain.verdict}")


if __name__ == "__main__":
    main()
