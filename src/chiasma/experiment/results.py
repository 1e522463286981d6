"""What a run found: one JSON value from which the closing table and the report are made, and nothing else is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasma.core.spec import Spec
from chiasma.experiment.checks import Check


class Interval(Spec):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95


class Arm(Spec):
    """One model or floor that was measured.

    Attributes:
        name: Short and unique in the run: ``majority``, ``tfidf_logistic``, ``image_only``, ``concat``, ``winner``.
        role: Floors are what must be beaten; a control is the best that random search found; finalists lost on select.
        description: One line a user understands.
        candidate: ``K`` in ``RUN#K``, or None for floors that are not designs.
        seeds: How many trainings on fresh seeds the figures average.
        select: Metrics on the select split.
        test: Metrics on the sealed test split with intervals clustered by group; empty where test was not opened.
        seconds: Training time spent on this arm.
        floor: Of a winner that is a floor, because no searched design was shown to beat it, that floor's name.
    """

    name: str
    role: Literal["floor", "control", "finalist", "winner"]
    description: str
    candidate: int | None = None
    seeds: int = 1
    select: Mapping[str, float] = {}
    test: Mapping[str, Interval] = {}
    parameters: int | None = None
    flops: float | None = None
    latency_seconds: float | None = None
    seconds: float = 0.0
    floor: str | None = None


class Gain(Spec):
    """The winner against one arm on the test split, paired by example and by seed.

    Attributes:
        against: Name of the arm.
        metric: The metric, oriented so that positive is better for the winner.
        detectable: Smallest gain that this test set would detect with 80 % power.
    """

    against: str
    metric: str
    gain: Interval
    verdict: Literal["better", "worse", "no difference"]
    detectable: float


class Calibration(Spec):
    """What was fitted on the select split, and how calibrated the test probabilities are."""

    temperature: float
    threshold: float | None = None
    expected_error_before: float
    expected_error_after: float


class Results(Spec):
    """Everything the report says.

    Attributes:
        budget: What was asked for and what was spent: ``asked, spent_seconds, candidates, trainings, workers, ...``.
        data: A :class:`chiasma.data.report.DataReport` as JSON.
        arms: Floors first, then controls, finalists and the winner.
        winner: Name of the winning arm.
        test_examples: Size of the test split; ``test_groups`` counts its independent groups.
        proposers: Of each ``proposer, candidates, trainings, scored, rejected, failed, seconds, gain, best_error``; the
            gain is by how much it lowered the lowest error on select, of what stood before it.
        proposing: How those who proposed fusions did: by author, by family, and what a language model wrote and cost;
            empty where nobody did.
        rejections: Counts by ``stage: reason``.
        duplicates_saved: Candidates that were not trained because an equal design had been.
        anytime: Improvements of the error on select, in order: ``seconds, candidates, error, proposer``.
        rungs: Of neighbouring rungs on this data: ``lower, upper, pairs, spearman``.
        history: The winner's training curve, one row an evaluation on steer: ``step, epoch, rate, train_loss`` and
            every metric.
        growth: How the winner's trunk grew: ``lives`` by name, ``events``, ``reviews``, ``edges``, ``waits``, why
            nothing happened, and ``kept``, the step whose weights the model has with everybody in it; empty where it
            did not.
        controller: What a controller did while the winner trained: ``trace``, ``returns`` (its roll-backs),
            ``seconds`` and ``every``; empty where there was none.
        lineage: The winner and its ancestors, oldest first: ``candidate, proposer, edit, error``.
        per_label: On test, of each label ``label, count, recall, precision, f1``; of each value of a regression
            ``label, mae, rmse, r2``.
        slices: How the winner does on the rows with each value of the data's slices, on test, or on select where that
            is sealed: ``slice, value, count, groups, score, low, high``, by the run's metric.
        confusion: On test, how often each label (row) was given each answer (column), summed over seeds.
        reliability: On test, after calibration: ``confidence, accuracy, count`` of each bin of confidence.
        checks: What was asked of the winner's predictions, on test or, where that stayed sealed, on select.
        opening: How often this dataset's test split had been opened before.
        provenance: Version, commit, packages, hardware, seed, command line.
        notes: Plain sentences that a reader must know (stopped early, budget too small for seeds, ...).
    """

    run: str
    verb: str
    source: str
    metric: str
    higher_is_better: bool
    budget: Mapping[str, Any]
    data: Mapping[str, Any]
    arms: tuple[Arm, ...]
    winner: str
    test_examples: int | None = None
    test_groups: int | None = None
    gains: tuple[Gain, ...] = ()
    calibration: Calibration | None = None
    proposers: tuple[Mapping[str, Any], ...] = ()
    proposing: Mapping[str, Any] = {}
    rejections: Mapping[str, int] = {}
    duplicates_saved: int = 0
    anytime: tuple[Mapping[str, Any], ...] = ()
    rungs: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, float], ...] = ()
    design: Mapping[str, Any] = {}
    growth: Mapping[str, Any] = {}
    controller: Mapping[str, Any] = {}
    lineage: tuple[Mapping[str, Any], ...] = ()
    per_label: tuple[Mapping[str, Any], ...] = ()
    slices: tuple[Mapping[str, Any], ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[Mapping[str, float], ...] = ()
    checks: tuple[Check, ...] = ()
    opening: int | None = None
    provenance: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a verb hands back.

    Attributes:
        run_path: The run's folder.
        results: What was found.
        model_path: The saved model's folder.
        report_path: The report, one HTML file.
        stopped: ``finished``, or ``interrupted`` where the user stopped it.
    """

    run_path: Path
    results: Results
    model_path: Path
    report_path: Path
    stopped: str
