"""Extraction of features against a plain transformers loop, with the same weights and batch size.

    python benchmarks/feature_throughput.py --images 128 --repeats 5

Writes random weights of the published sizes and random photographs, then times in turns: our extraction (hashes,
decoding ahead of the network, shards on the disk), and a loop that opens a batch of files, lets transformers' own image
processor prepare it, runs the network and keeps the tokens in memory. Loading the weights counts for neither. Prints
the images a second of both and their ratio, ours over theirs.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasma.data.feature_store import FeatureStore
from chiasma.data.image import quiet_decoding
from chiasma.experiment.compose import load_config
from chiasma.experiment.extractors import Opened, open_extractor
from chiasma.experiment.features import preparing

MAX_PIXELS = 50_000_000
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "resnet": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
}


def main() -> None:
    """Print a line for each extractor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractors", nargs="+", choices=sorted(PROCESSORS), default=sorted(PROCESSORS))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        files = photographs(root / "photographs", options.images)
        for kind in options.extractors:
            weights = save_network(kind, root / kind)
            values = {"run.device": options.device, "run.precision": options.precision}
            config = load_config(None, data=None, overrides=(), values=values)
            opened = open_extractor(config, kind, modality="image", weights=str(weights), options={})
            plain = PlainLoop(kind, weights, options.device, options.precision, options.batch_size)
            print(f"{kind}: {compared(opened, plain, files, root / f'{kind}-kept', options.repeats)}", flush=True)


def compared(opened: Opened, plain: "PlainLoop", files: list[Path], kept: Path, repeats: int) -> str:
    """Return images a second of both, timed in turns, and their ratio."""
    ours, theirs = [], []
    # The first turn warms up both, and is dropped.
    for turn in range(repeats + 1):
        started = time.perf_counter()
        extract(opened, files, kept / str(turn), plain.batch_size)
        between = time.perf_counter()
        plain.run(files)
        ours.append(between - started)
        theirs.append(time.perf_counter() - between)
    fast, usual = (len(files) / statistics.median(seconds[1:]) for seconds in (ours, theirs))
    ratios = sorted(their / our for our, their in zip(ours[1:], theirs[1:], strict=True))
    turns = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    return f"{fast:.2f} images/s, plain loop {usual:.2f}; ratio of medians {fast / usual:.3f} (turns {turns})"


def photographs(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of the usual size, all different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return sorted(folder.iterdir())


def save_network(kind: str, folder: Path) -> Path:
    """Write a network of the published size with random weights."""
    import json

    import transformers as t

    if kind == "clip":
        network: Any = t.CLIPVisionModel(t.CLIPVisionConfig(patch_size=32))
    else:
        network = t.ResNetModel(t.ResNetConfig(depths=[3, 8, 36, 3]))
        for name, weight in network.named_parameters():
            if name.endswith("layer.2.normalization.weight"):
                # Fifty random blocks in a row grow beyond float16.
                torch.nn.init.constant_(weight, 0.1)
    network.save_pretrained(folder)
    usual = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": kind == "clip"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**usual, **PROCESSORS[kind]}))
    return folder


def extract(opened: Opened, files: list[Path], cache: Path, batch_size: int) -> None:
    """Extract as ``chiasma features`` does."""
    identity = opened.extractor.identity
    store = FeatureStore(cache, encoder=identity.name, weights=identity.weights, preprocessing=identity.preprocessing)
    prepare = preparing(opened.extractor, MAX_PIXELS)
    with quiet_decoding():
        done = store.extract(files, opened.extractor.encode, prepare=prepare, batch_size=batch_size)
    assert done.encoded == len(files)


class PlainLoop:
    """What one would write by hand."""

    def __init__(self, kind: str, weights: Path, device: str, precision: str, batch_size: int) -> None:
        import transformers as t

        self.processor = t.AutoImageProcessor.from_pretrained(weights, backend="pil")
        network: Any = t.CLIPVisionModel if kind == "clip" else t.ResNetModel
        self.network = network.from_pretrained(weights).eval().to(device)
        self.device, self.batch_size = device, batch_size
        self.dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]

    def run(self, files: list[Path]) -> None:
        """Return nothing: the tokens are dropped at the end."""
        tokens: list[np.ndarray] = []
        for start in range(0, len(files), self.batch_size):
            images = [Image.open(file).convert("RGB") for file in files[start : start + self.batch_size]]
            pixels = self.processor(images, return_tensors="pt")["pixel_values"].to(self.device)
            with torch.inference_mode(), torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None):
                seen = self.network(pixel_values=pixels).last_hidden_state
            tokens.append(seen.float().cpu().numpy().astype(np.float16))


if __name__ == "__main__":
    main()
