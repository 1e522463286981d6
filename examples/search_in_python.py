"""Search for the best classifier from Python, as with any scikit-learn estimator.

    python examples/search_in_python.py [BUDGET] [SETTING=VALUE ...]

BUDGET is a time such as 2m, or a number of trials such as 20. Settings are those of ``chiasma config show``.
"""

import sys
import tempfile

import numpy as np
from sklearn.datasets import load_digits

from chiasma import Classifier


def claims(count: int = 600) -> list[dict[str, object]]:
    """Return handwritten digits with a claim about each, and whether it is true."""
    digits, rng = load_digits(), np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for k in range(count):
        pixels = np.repeat((digits.images[k] * 15).astype(np.uint8)[..., None], 3, axis=2)
        true = digits.target[k] % 2 == 0
        says_even = bool(rng.integers(2))
        text = "this is an even number" if says_even else "this is an odd number"
        rows.append({"image": pixels, "text": text, "label": "right" if true == says_even else "wrong"})
    return rows


def main(budget: str = "2m", *words: str) -> None:
    rows = claims()
    learned, fresh = rows[:500], rows[500:]
    settings = {name: value for name, _, value in (word.partition("=") for word in words)}
    classifier = Classifier(budget=budget, settings=settings, verbose=True).fit(learned)
    print(f"accuracy on fresh rows: {classifier.score(fresh):.3f}; report: {classifier.run_path_}/report.html")

    folder = tempfile.mkdtemp()
    classifier.save(folder)
    again = Classifier.load(folder)
    print(dict(zip(again.classes_, again.predict_proba(fresh[:1])[0], strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
