"""Train one design on your own table and predict with it, with the loop in your hands.

    python examples/train_on_your_table.py [MANIFEST] [EPOCHS]

MANIFEST is a JSONL, CSV or Parquet file with the columns id, img, text and label; without one, the built-in digits.
"""

import sys
from pathlib import Path

from chiasma import Trainer
from chiasma.core.spec import replace_at
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.config import default_design
from chiasma.store.folders import cache_folder
from chiasma.train.metrics import measure
from chiasma.train.predicting import predict_logits


def main(source: str = "digit_claims", epochs: str = "3") -> None:
    dataset, report = prepare(DataSpec(source=source), seed=0, cache=Path(cache_folder()))
    print("\n".join(report.lines()))

    design = default_design(dataset.signature)
    design = replace_at(design, "model.dim", 32)
    design = replace_at(design, "training.loop.epochs", float(epochs))
    fit = Trainer(design, dataset, seed=0).fit()

    rows = dataset.rows("select")
    metrics = measure(predict_logits(fit.model, dataset, rows), dataset.labels(rows).numpy(), dataset.signature.target)
    print(f"{fit.steps} steps in {fit.seconds:.0f} s; on select: {metrics}")


if __name__ == "__main__":
    main(*sys.argv[1:])
