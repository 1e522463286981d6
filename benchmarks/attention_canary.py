"""Search attention on shuffled labels: whatever it hands back must not be better than chance, and must say so.

    python benchmarks/attention_canary.py --budget 5m

Writes the built-in digits and claims as a manifest whose labels are shuffled, searches, and looks at the front: no
mechanism may have an interval above the most frequent answer, and the report must say that there was nothing to find.
"""

import argparse
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from chiasma.data.digit_claims import digit_claims
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.compose import load_config


class Terminal:
    """Prints what is said."""

    interrupted = False

    def say(self, text: str) -> None:
        print(text, flush=True)

    def status(self, text: str) -> None:
        """Drop it."""


def main() -> None:
    """Print the best interval and whether the report says that nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_shuffled(folder, rows=options.rows, seed=options.seed)
        overrides = [f"run.folder={folder / 'runs'}", f"run.cache={folder / 'cache'}", "data.near_duplicate_bits=null"]
        config = load_config(
            "digit_claims_cpu",
            data=str(folder / "shuffled.jsonl"),
            overrides=[*overrides, f"run.budget={options.budget}"],
        )
        front = search_attention(config, console=Terminal()).front
        report = (folder / "runs" / front.run / "report.html").read_text()
    best = max(front.mechanisms, key=lambda each: each.score.value)
    said = "there was nothing to find" in report
    low, high = best.score.low, best.score.high
    print(f"chance {front.chance:.4f}; best {best.name} {best.score.value:.4f} ({low:.4f} to {high:.4f})")
    print(f"{front.candidates} candidates, {front.trainings} trainings; any above chance: {front.above_chance}")
    print(f"the report says that there was nothing to find: {said}")
    raise SystemExit(0 if said and front.above_chance is False else 1)


def write_shuffled(folder: Path, *, rows: int, seed: int) -> None:
    """Write images and a manifest whose labels belong to other rows."""
    claims = digit_claims("digit_claims", pairs=rows)
    for name, pixels in claims.images.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    labels = claims.frame["label"].tolist()
    random.Random(seed).shuffle(labels)
    lines = [
        json.dumps({"id": row.id, "img": f"{row.image}.png", "text": row.text, "label": label})
        for row, label in zip(claims.frame.itertuples(), labels, strict=True)
    ]
    (folder / "shuffled.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
