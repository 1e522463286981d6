"""Signatures and evaluations for tests of search."""

from collections.abc import Callable

import pytest
from signatures import SIGNATURES

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.data.signature import Signature
from chiasma.model.encoders import NGram
from chiasma.model.multimodal import ModelSpec
from chiasma.search.protocols import Candidate, Evaluation
from chiasma.train.design import Design


@pytest.fixture
def signature() -> Signature:
    return SIGNATURES["image+text classification"]


@pytest.fixture(scope="session")
def evaluated() -> Callable[..., Evaluation]:
    """Return a maker of evaluations of small designs that are equal exactly when their numbers are."""

    def make(
        number: int,
        error: float | None,
        *,
        rung: int = 0,
        seed: int = 0,
        proposer: str = "random",
        rejected: bool = False,
        **objectives: float,
    ) -> Evaluation:
        model = ModelSpec(dim=8, encoders={"text": NGram(buckets=number + 1)})
        candidate = Candidate(proposer, None, Design(model=model))
        outcome: Scored | Rejected | Failed = Failed(error="killed")
        if error is not None:
            outcome = Scored(objectives={"error": error, **objectives})
        elif rejected:
            outcome = Rejected(stage="train", reason="diverged")
        return Evaluation(candidate, outcome, rung, seed, 1.0)

    return make
