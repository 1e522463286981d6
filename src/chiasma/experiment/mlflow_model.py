"""A saved model as MLflow calls it: ``mlflow.pyfunc.load_model(uri).predict(frame)``.

MLflow imports this module by name and gives it the folder of the saved model; nothing is unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.batch import Sample
from chiasma.data.manifest import Columns, DataSpec
from chiasma.data.signature import Signature, TokensInput
from chiasma.experiment.given_rows import GivenRows, given_rows, samples_of
from chiasma.experiment.saved import SavedModel

_TOKEN_PARTS = ("", ".boxes", ".mask")


class MlflowModel:
    """Predicts the rows of a frame.

    A frame has ``image`` (a path, the bytes of an image file, or an ``H W 3`` array) and ``text``, or what the columns
    of the training data were called; either may be missing where the model can do without. A model of ready-made
    tokens finds them as ``N D`` arrays in the column of the modality's name, with ``image.boxes`` beside it.

    Args:
        saved: The model.
    """

    def __init__(self, saved: SavedModel) -> None:
        self.saved = saved

    def predict(self, data: Any, params: Any = None) -> pd.DataFrame:
        """Return a frame with ``prediction``, and the probability of each label, or for a regression the values.

        Raises:
            DataError: An image cannot be read, or a row has nothing that the model reads.
        """
        logits = self.saved.logits(self._samples(given_rows(data)))
        scores = self.saved.scores(logits)
        values = {label: scores[:, place] for place, label in enumerate(self.saved.labels)}
        return pd.DataFrame({"prediction": self.saved.decide(logits), **values})

    def _samples(self, given: GivenRows) -> list[Sample]:
        reads = self.saved.signature.inputs
        tokens = token_columns(self.saved.signature)
        others = tuple(name for name in given.columns if name not in tokens)
        samples = [Sample(str(place), {}) for place in range(len(given.rows))]
        if others:
            columns = self.saved.columns_for(Columns(), others)
            raw = GivenRows(others, given.rows)
            samples = samples_of(raw, columns, image_dir=Path(), max_pixels=self.saved.max_pixels)
        whole: list[Sample] = []
        for sample, row in zip(samples, given.rows, strict=True):
            ready = {name: np.asarray(row[name], np.float32) for name in tokens if row.get(name) is not None}
            parts = {name: part for name, part in {**sample.parts, **ready}.items() if name.partition(".")[0] in reads}
            if not parts:
                raise DataError(f"The model reads {' and '.join(reads)}, but row {sample.id} has none of it.")
            whole.append(Sample(sample.id, parts))
        return whole


def token_columns(signature: Signature) -> tuple[str, ...]:
    """Return the columns in which a model finds ready-made tokens."""
    ready = [name for name, spec in signature.inputs.items() if isinstance(spec, TokensInput)]
    return tuple(f"{name}{part}" for name in ready for part in _TOKEN_PARTS)


def readable_columns(signature: Signature, data: DataSpec) -> tuple[str, ...]:
    """Return every column that :meth:`MlflowModel.predict` may find something in."""
    named: Mapping[str, Any] = data.columns.to_dict()
    chosen = [named["image"]] if named["image"] else []
    return tuple(dict.fromkeys([*signature.inputs, *chosen, *named["text"], *token_columns(signature)]))


def _load_pyfunc(folder: str) -> MlflowModel:
    """Return the model in a folder; MLflow looks for a function of this name."""
    return MlflowModel(SavedModel.load(Path(folder)))
