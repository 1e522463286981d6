"""The receipt without which the sealed test split cannot be read."""

from chiasma.core.spec import Spec


class TestOpening(Spec):
    """One recorded opening of one dataset's test split; only the ledger writes these.

    Attributes:
        fingerprint: The dataset's fingerprint.
        run: The run that opened it.
        verb: What opened it: ``evolve``, ``evaluate`` or ``benchmark``.
        before: How many openings of this dataset were recorded earlier, across all runs.
    """

    __test__ = False

    fingerprint: str
    run: str
    verb: str
    before: int
