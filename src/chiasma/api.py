"""``Classifier``: the whole search behind scikit-learn's conventions."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from chiasma.core.errors import DataError
from chiasma.data.batch import Sample
from chiasma.data.manifest import Columns, resolve_roles
from chiasma.data.records import read_records
from chiasma.experiment.captioned_rows import captions_for
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evolve import evolve
from chiasma.experiment.given_rows import GivenRows, given_rows, samples_of, write_manifest
from chiasma.experiment.results import Results
from chiasma.experiment.saved import SavedModel
from chiasma.store.folders import cache_folder


class Classifier(ClassifierMixin, BaseEstimator):
    """Finds and trains the best image+text classifier within a budget.

    ``X`` is the path of a manifest (JSONL, CSV, Parquet), a pandas frame, or a list of dicts with ``image``, ``text``
    and ``label``; an image is a path, a PIL image or a uint8 array. Numeric matrices are not accepted: there is
    nothing to see or to read in them.

    Args:
        budget: What the search may spend: ``10m``, ``1h``, or a number of trials such as ``200``. None, here and
            below, is what ``config`` says, or the usual.
        metric: What is maximised; None is accuracy.
        config: A preset's name or a YAML file.
        settings: More settings by dotted path: ``{"model.dim": 32}``.
        image_column: Column of images; None is ``img`` or ``image``.
        text_columns: Columns of texts; None is ``text``.
        label_column: Column of labels where ``y`` is not given; None is ``label``.
        image_dir: What image paths are below; None is the manifest's folder, or the working directory.
        seed: All randomness follows from it.
        workers: Worker processes.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        run_folder: Folder that holds the runs.
        verbose: Print progress to standard error.

    Attributes:
        classes_: The labels, sorted, in the type they were given in.
        results_: What the search found, with the sealed test's figures.
        run_path_: The run's folder, with the report.
    """

    def __init__(
        self,
        budget: str | int | None = None,
        *,
        metric: str | None = None,
        config: str | None = None,
        settings: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        image_dir: str | None = None,
        seed: int | None = None,
        workers: int | None = None,
        device: str | None = None,
        run_folder: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.budget = budget
        self.metric = metric
        self.config = config
        self.settings = settings
        self.image_column = image_column
        self.text_columns = text_columns
        self.label_column = label_column
        self.image_dir = image_dir
        self.seed = seed
        self.workers = workers
        self.device = device
        self.run_folder = run_folder
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 scikit-learn's name
        """Search, train and prove the best classifier; part of the rows is sealed for the test.

        Args:
            X: A manifest's path, a pandas frame, or a list of dicts.
            y: The labels; None where ``X`` has them in a column.

        Raises:
            DataError: The rows or labels cannot be used.
            ConfigError: A setting cannot be used.
        """
        if isinstance(X, str | Path):
            if y is not None:
                raise DataError("y must be None when X is a manifest: its labels are in a column (label_column).")
            data = {"data.source": str(X), "data.image_dir": self.image_dir}
            config, columns = self._compose({**data, **self._column_settings()}), None
            classes = _classes_of_manifest(Path(X), str(config.data.columns.label or "label"))
        else:
            given = given_rows(X)
            classes, config = self._prepare_rows(given, y)
            roles = resolve_roles(given.columns, self._columns(), labelled=False)
            columns = [*roles["image"], *roles["text"]]
        console = _PrintingConsole() if self.verbose else SilentConsole()
        outcome = evolve(config, console=console, command=["Classifier.fit"])
        self._adopt(SavedModel.load(outcome.model_path, device=config.run.device), classes, columns)
        self.results_: Results = outcome.results
        self.run_path_ = str(outcome.run_path)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return calibrated probabilities ``[n C]``, columns as in ``classes_``.

        Raises:
            NotFittedError: ``fit`` was not called.
            DataError: A row cannot be read.
        """
        saved = self._fitted()
        return saved.predict_proba(self._samples(X))[:, self._order]

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the predicted labels, in the type they were given in.

        Raises:
            NotFittedError: ``fit`` was not called.
            DataError: A row cannot be read.
        """
        saved = self._fitted()
        names = saved.predict(self._samples(X))
        place = {name: position for position, name in enumerate(self._names)}
        return self.classes_[[place[name] for name in names]]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the accuracy on rows that were not used in ``fit``.

        Args:
            X: As in :meth:`fit`.
            y: The labels; None where ``X`` has them in a column.
            sample_weight: Weight of each row; None for equal ones.
        """
        predicted = self.predict(X)
        truth = self._labels_of(X) if y is None else [str(label) for label in y]
        right = np.array(
            [str(said).strip() == label.strip() for said, label in zip(predicted, truth, strict=True)], dtype=float
        )
        return float(np.average(right, weights=sample_weight))

    def save(self, folder: str | Path) -> None:
        """Write the fitted classifier into a folder that can be moved anywhere and used with ``chiasma predict``.

        Raises:
            NotFittedError: ``fit`` was not called.
            StorageError: The folder cannot be written to.
        """
        saved = self._fitted()
        classifier = {
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "columns": list(self.feature_names_in_),
            "parameters": self.get_params(),
        }
        card = {**saved.card, "classifier": classifier}
        replace(saved, card=card).save(Path(folder))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> "Classifier":
        """Return a classifier that :meth:`save` wrote, or one around the model of any run.

        Raises:
            StorageError: There is no saved model.
            CorruptFileError: A file is not what was written.
        """
        saved = SavedModel.load(Path(folder), device=device)
        known = saved.card.get("classifier")
        classifier = cls(**(known["parameters"] if known else {}))
        classes = np.array(known["classes"], dtype=known["dtype"]) if known else None
        classifier._adopt(saved, classes, known["columns"] if known else None)
        return classifier

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a model."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        """Say that rows are pictures and texts, not numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.dict = True
        tags.input_tags.allow_nan = True
        tags.target_tags.required = False
        tags.non_deterministic = True
        tags.no_validation = True
        return tags

    def _prepare_rows(self, given: GivenRows, y: Any) -> tuple[np.ndarray, RunConfig]:
        """Write rows in memory as a manifest, and return the classes with settings that read it."""
        if y is None:
            column = self.label_column or "label"
            if column not in given.columns:
                raise DataError(f"y is None and X has no column {column!r}; it has: {', '.join(given.columns)}.")
            y = given.values(column)
        labels = np.asarray(y).ravel()
        if len(labels) != len(given.rows):
            raise DataError(f"y must have a label for each row of X, but has {len(labels)} for {len(given.rows)} rows.")
        absent = [place for place, label in enumerate(labels) if _is_missing(label)]
        if absent:
            raise DataError(f"y must have a label for each row, but that of row {absent[0]} is missing.")
        labels = _stripped(labels)
        classes = np.unique(labels)
        manifest, root = write_manifest(
            given,
            self._columns(),
            [str(label) for label in labels],
            image_dir=Path(self.image_dir) if self.image_dir else Path.cwd(),
            folder=cache_folder() / "given",
        )
        return classes, self._compose({"data.source": str(manifest), "data.image_dir": str(root)})

    def _compose(self, data: Mapping[str, Any]) -> RunConfig:
        chosen = {
            "run.budget": self.budget,
            "run.seed": self.seed,
            "run.workers": self.workers,
            "run.device": self.device,
            "run.folder": self.run_folder,
            "evaluate.metric": self.metric,
            "data.task": "classification",
            **(self.settings or {}),
            **data,
        }
        return load_config(self.config, values={path: value for path, value in chosen.items() if value is not None})

    def _columns(self) -> Columns:
        return Columns(image=self.image_column, text=tuple(self.text_columns or ()))

    def _column_settings(self) -> dict[str, Any]:
        texts = list(self.text_columns) if self.text_columns else None
        return {
            "data.columns.image": self.image_column,
            "data.columns.text": texts,
            "data.columns.label": self.label_column,
        }

    def _adopt(self, saved: SavedModel, classes: np.ndarray | None, columns: Sequence[str] | None) -> None:
        """Take over a model, and put its outputs into the order of the classes."""
        given = np.array(sorted(saved.labels)) if classes is None else classes
        self.classes_ = np.array([label for label in given if str(label) in saved.labels], dtype=given.dtype)
        self._names = [str(label) for label in self.classes_]
        self._order = [saved.labels.index(name) for name in self._names]
        self.feature_names_in_ = np.array(columns or list(saved.signature.inputs), dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.model_ = saved

    def _fitted(self) -> SavedModel:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("This Classifier is not fitted yet: call fit with rows and labels first.")
        return self.model_

    def _samples(self, table: Any) -> list[Sample]:
        given, image_dir = self._rows_to_predict(table)
        saved = self._fitted()
        columns = saved.columns_for(self._columns(), given.columns)
        device = str(next(saved.model.parameters()).device)
        captions = captions_for(saved, asked=None, device=device, console=SilentConsole())
        if captions.captions is not None and captions.captions.column is not None:
            texts = captions.text_columns(columns.text or ("text",), given.columns)
            columns = columns.model_copy(update={"text": texts})
        found = samples_of(given, columns, image_dir=image_dir, max_pixels=saved.max_pixels)
        return captions.written(found)

    def _rows_to_predict(self, table: Any) -> tuple[GivenRows, Path]:
        if not isinstance(table, str | Path):
            return given_rows(table), Path(self.image_dir) if self.image_dir else Path.cwd()
        records = read_records(Path(table))
        if records.bad:
            raise DataError(f"{table}, {records.bad[0].detail}.")
        root = Path(self.image_dir) if self.image_dir else Path(table).parent
        return GivenRows(records.columns, records.rows), root

    def _labels_of(self, table: Any) -> list[str]:
        given, _ = self._rows_to_predict(table)
        column = str(self.label_column or self._fitted().data("rows").columns.label or "label")
        if column not in given.columns:
            raise DataError(f"y is None and X has no column {column!r}; it has: {', '.join(given.columns)}.")
        return [str(label) for label in given.values(column)]


def _stripped(labels: np.ndarray) -> np.ndarray:
    """Return labels as the data layer reads them: texts without surrounding space."""
    if not all(isinstance(label, str) for label in labels):
        return labels
    return np.array([label.strip() for label in labels], dtype=labels.dtype)


def _is_missing(label: Any) -> bool:
    return label is None or label != label


def _classes_of_manifest(path: Path, column: str) -> np.ndarray | None:
    """Return the labels of a manifest file in the type they have there; None where that is no single type."""
    if not path.is_file():
        return None
    records = read_records(path)
    labels = [row.get(column) for row in records.rows if row.get(column) is not None]
    kinds = {type(label) for label in labels}
    return np.unique(_stripped(np.array(labels))) if kinds in ({int}, {bool}, {str}) else None


class _PrintingConsole(SilentConsole):
    """Prints the lines that stay."""

    def say(self, text: str) -> None:
        """Print one line to standard error."""
        print(text, file=sys.stderr)
