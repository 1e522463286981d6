"""Classical features: words and their pairs, shrunken pixels, means of ready-made tokens.

scikit-learn is imported where features are fitted: what only reads runs starts a second sooner without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from chiasma.data.batch import Tokens
from chiasma.data.dataset import Dataset
from chiasma.data.signature import ImageInput, InputSpec

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

SIDE = 16
COMPONENTS = 128
MOST_WORDS = 100_000
CHUNK = 1024

# A sparse array [n F]: what scipy's functions say they return does not agree among themselves.
Matrix = Any


class FeatureBlock(ABC):
    """Some features of every example, about one in norm, so that one strength of regularisation suits all blocks."""

    description: str

    @abstractmethod
    def fit(self, dataset: Dataset, rows: np.ndarray) -> None:
        """Learn vocabulary or scale from these rows."""

    @abstractmethod
    def transform(self, dataset: Dataset, rows: np.ndarray) -> Matrix:
        """Return the features ``[n F]``."""


class TextBlock(FeatureBlock):
    """TF-IDF of words and pairs of words; one-letter words count."""

    def __init__(self) -> None:
        self.description = "words and pairs of words (TF-IDF)"
        self._words: TfidfVectorizer | None = None

    def fit(self, dataset: Dataset, rows: np.ndarray) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(
            ngram_range=(1, 2),
            token_pattern=r"(?u)\b\w+\b",
            sublinear_tf=True,
            max_features=MOST_WORDS,
            dtype=np.float64,
        )
        texts = dataset.texts(rows)
        analyze = words.build_analyzer()
        self._words = words.fit(texts) if any(analyze(text) for text in texts) else None

    def transform(self, dataset: Dataset, rows: np.ndarray) -> Matrix:
        # Texts without a single word in train: nothing to learn from.
        if self._words is None:
            return sparse.csr_array((len(rows), 1))
        return sparse.csr_array(self._words.transform(dataset.texts(rows)))


class ImageBlock(FeatureBlock):
    """Pixels shrunk to 16 by 16, or the mean of ready-made tokens; standardised, then at most 128 principal components.

    Args:
        modality: Name of the input.
        kind: Its description in the signature.
    """

    def __init__(self, modality: str, kind: InputSpec) -> None:
        pixels = isinstance(kind, ImageInput)
        self.modality = modality
        self.description = "shrunken pixels" if pixels else f"the mean {modality} token"
        self._scale: Pipeline | None = None
        self._norm = 1.0

    def fit(self, dataset: Dataset, rows: np.ndarray) -> None:
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x = self._raw(dataset, rows)
        components = min(COMPONENTS, len(rows) - 1)
        reduce = [PCA(components, svd_solver="randomized", random_state=0)] if components < x.shape[1] else []
        scale = make_pipeline(StandardScaler(), *reduce)
        self._norm = float(np.sqrt((scale.fit_transform(x) ** 2).sum(1).mean())) or 1.0
        self._scale = scale

    def transform(self, dataset: Dataset, rows: np.ndarray) -> Matrix:
        if self._scale is None:
            raise ValueError(f"features of {self.modality!r} must be fitted before they are made.")
        return sparse.csr_array(self._scale.transform(self._raw(dataset, rows)) / self._norm)

    def _raw(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        parts = list(self._chunks(dataset, rows))
        return np.concatenate(parts) if parts else np.zeros((0, self._width))

    def _chunks(self, dataset: Dataset, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), CHUNK):
            value = dataset.batch(rows[start : start + CHUNK]).inputs[self.modality]
            if isinstance(value, Tokens):
                flat = value.mean()
            else:
                size = (min(SIDE, value.shape[2]), min(SIDE, value.shape[3]))
                flat = torch.nn.functional.adaptive_avg_pool2d(value.float(), size).flatten(1)
            self._width = flat.shape[1]
            yield flat.double().numpy()
