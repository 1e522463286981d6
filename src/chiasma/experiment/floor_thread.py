"""Fit the classical floors beside the search, and stop between two of them when the run must end."""

import threading
from types import TracebackType
from typing import Self

from chiasma.data.dataset import Dataset
from chiasma.experiment.floors import ClassicalFloor, classical_floors


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
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fit, name="floors")

    def start(self) -> None:
        """Begin to fit."""
        self._thread.start()

    def fitted(self, *, wait: bool = True) -> tuple[ClassicalFloor, ...]:
        """Return the floors that are fitted: all of them, or without waiting those that are ready and the one at work.

        Raises:
            Exception: What a fit raised.
        """
        if not wait:
            self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._errors:
            raise self._errors[0]
        return tuple(self._fitted)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _fit(self) -> None:
        try:
            for floor in self._floors:
                if self._stop.is_set():
                    return
                self._fitted.append(floor.fit(self.dataset))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: fitted() raises it in the run.
            self._errors.append(error)
