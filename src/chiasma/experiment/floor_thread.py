"""Fit the classical floors beside the search, and stop between two of them when the run must end."""

import logging
import threading
from types import TracebackType
from typing import Self

from chiasma.data.dataset import Dataset
from chiasma.experiment.floors import ClassicalFloor, classical_floors

log = logging.getLogger(__name__)


class ClassicalFloors:
    """A thread that fits one floor after the other; a context manager that ends it.

    Args:
        dataset: What to fit on.
        seed: Of the sample where the data are too large to be used whole.
    """

    def __init__(self, dataset: Dataset, *, seed: int) -> None:
        self.dataset = dataset
        self._floors = classical_floors(dataset.signature, seed=seed)
        self._fitted: list[ClassicalFloor] = []
        self._errors: list[Exception] = []
        self._stop = threading.Event()
        # A daemon, because a fit cannot be stopped: it must not hold up the end of the process.
        self._thread = threading.Thread(target=self._fit, name="floors", daemon=True)

    def start(self) -> None:
        """Begin to fit."""
        self._thread.start()

    def fitted(self, *, within_seconds: float | None = None) -> tuple[ClassicalFloor, ...]:
        """Return the floors that are fitted, waiting for the others at most so long; None waits for all."""
        if self._thread.ident is not None:
            self._thread.join(within_seconds)
        self._stop.set()
        return tuple(self._fitted)

    def missing(self) -> list[str]:
        """Return why floors are not fitted: their names, and what a fit raised."""
        unfitted = [floor.name for floor in self._floors if floor not in self._fitted]
        return [*unfitted, *(f"{type(error).__name__}: {error}" for error in self._errors)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _fit(self) -> None:
        try:
            for floor in self._floors:
                if self._stop.is_set():
                    return
                self._fitted.append(floor.fit(self.dataset))
        except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            log.exception("a classical floor could not be fitted")
            self._errors.append(error)
