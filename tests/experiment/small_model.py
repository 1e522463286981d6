"""An untrained model over 8 x 8 images and short texts, for tests of what is done with models."""

import numpy as np

from chiasma.core.rng import seed_torch
from chiasma.data.batch import Sample
from chiasma.data.preprocessing import Preprocessing, PreprocessingSpec
from chiasma.data.signature import ImageInput, InputSpec, Signature, Target, TextInput, TokensInput
from chiasma.data.text import train_tokenizer
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.compose import load_config
from chiasma.experiment.saved import SavedModel

TEXTS = ["a red bird", "a blue fish", "no bird at all"]


def make_saved(target: Target, calibrator: Calibrator, *, image: InputSpec | None = None, **scale) -> SavedModel:
    """Return an untrained model over 8 x 8 images, or another kind of image input, and short texts."""
    kind = image or ImageInput(channels=3, height=8, width=8)
    signature = Signature(inputs={"image": kind, "text": TextInput(vocabulary=64, length=8)}, target=target)
    settings = ["model.dim=16", "model.encoders.text.kind=ngram", "model.encoders.text.buckets=64"]
    seed_torch(0)
    model = load_config(overrides=settings).design(signature).model.build(signature)
    tokenizer = train_tokenizer(TEXTS, vocabulary=64, lowercase=True).to_str()
    spec = PreprocessingSpec(signature=signature, **scale)
    return SavedModel(model.eval(), Preprocessing(spec, tokenizer), calibrator, {"run": "evolve-1"})


def classifier(**calibration) -> SavedModel:
    target = Target(task="classification", labels=("no", "yes"))
    return make_saved(target, Calibrator(task="classification", **calibration))


def token_classifier() -> SavedModel:
    """Return one that reads three ready-made tokens of width four in place of an image."""
    target = Target(task="classification", labels=("no", "yes"))
    return make_saved(target, Calibrator(task="classification"), image=TokensInput(count=3, dim=4))


def samples(count: int = 3) -> list[Sample]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Sample(str(k), {"image": pictures[k], "text": TEXTS[k % 3]}) for k in range(count)]
