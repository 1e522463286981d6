"""How good is it, and how sure are we?"""

from chiasma.experiment.report import wording
from chiasma.experiment.report.rows import Fact, Table
from chiasma.experiment.results import Results

ROLES = {
    "floor": "A floor is what must be beaten.",
    "control": "The control is the best that random search found.",
    "finalist": "A finalist lost to the winner on select.",
    "winner": "The winner was chosen on select.",
}


def summary_facts(results: Results) -> list[Fact]:
    """Return the few figures that stand beside the headline."""
    winner = wording.arm_named(results, results.winner)
    gain = wording.best_floor_gain(results)
    facts: list[Fact] = []
    if winner and results.metric in winner.test:
        tested = winner.test[results.metric]
        low, high = (wording.amount(results.metric, value, unit=False) for value in (tested.low, tested.high))
        value = wording.amount(results.metric, tested.value)
        facts.append(Fact(f"{wording.metric_words(results.metric)} on test", value, f"{low} to {high}"))
    elif winner and results.metric in winner.select:
        value = wording.amount(results.metric, winner.select[results.metric])
        facts.append(Fact(f"{wording.metric_words(results.metric)} on select", value, "test still sealed"))
    if gain:
        low, high = (wording.points(gain.metric, value, unit=False) for value in (gain.gain.low, gain.gain.high))
        note = f"{low} to {high}: {gain.verdict}"
        facts.append(Fact(f"gain over {gain.against}", wording.points(gain.metric, gain.gain.value), note))
    spent = results.budget.get("spent_seconds")
    if spent is not None:
        asked = results.budget.get("asked")
        facts.append(Fact("time spent", wording.duration(float(spent)), f"asked for: {asked}" if asked else ""))
    if winner and winner.parameters is not None:
        latency = "" if winner.latency_seconds is None else f"{wording.latency(winner.latency_seconds)} an example"
        facts.append(Fact("parameters", wording.large(winner.parameters), latency))
    return facts


def gains(results: Results) -> Table:
    """Return the winner's gain over each arm, with its verdict and what would have been detected."""
    rows = tuple(
        (
            gain.against,
            wording.gain_interval(gain, unit=False),
            gain.verdict,
            wording.points(gain.metric, gain.detectable, unit=False),
        )
        for gain in results.gains
    )
    unit = ", points" if results.metric in wording.PERCENT else ""
    columns = ("against", f"gain of the winner{unit}", "verdict", f"detectable gain{unit}")
    return Table("Gain of the winner on the test split", columns, rows, frozenset({columns[1], columns[3]}))


def arms(results: Results) -> Table:
    """Return every arm with its figures on select and on test."""
    metric = wording.metric_words(results.metric)
    rows: list[tuple[str, ...]] = []
    marked = frozenset(k for k, arm in enumerate(results.arms) if arm.name == results.winner)
    for arm in results.arms:
        select, test = arm.select.get(results.metric), arm.test.get(results.metric)
        rows.append(
            (
                arm.name,
                arm.role,
                wording.NONE if select is None else wording.amount(results.metric, select),
                wording.NONE if test is None else wording.interval(results.metric, test),
                str(arm.seeds),
                wording.duration(arm.seconds),
            )
        )
    columns = ("arm", "role", f"{metric} on select", f"{metric} on test", "seeds", "training")
    notes = tuple(arm.description for arm in results.arms)
    return Table("All arms, floors first", columns, tuple(rows), frozenset(columns[2:]), marked=marked, notes=notes)


def role_words(results: Results) -> list[str]:
    """Return what each role that occurs means."""
    present = {arm.role for arm in results.arms}
    return [words for role, words in ROLES.items() if role in present]


def other_metrics(results: Results) -> Table:
    """Return the winner's remaining metrics on test."""
    winner = wording.arm_named(results, results.winner)
    tested = winner.test if winner else {}
    rows = tuple(
        (wording.metric_words(name), wording.interval(name, tested[name]))
        for name in sorted(tested, key=_place)
        if name != results.metric
    )
    return Table("Other metrics of the winner on test", ("metric", "value"), rows, frozenset({"value"}))


def _place(metric: str) -> tuple[str, int]:
    """Return where a metric stands in a table: by its task, then in the usual order."""
    task, _, name = metric.rpartition("/")
    known = list(wording.METRIC_WORDS)
    return task, known.index(name) if name in known else len(known)


def calibration_words(results: Results) -> str | None:
    """Return how far probabilities can be believed."""
    found = results.calibration
    if found is None:
        return None
    threshold = (
        "" if found.threshold is None else f" The decision threshold, also chosen there, is {found.threshold:.2f}."
    )
    return (
        f"Probabilities were calibrated on the select split with a temperature of {found.temperature:.2f}. On test the "
        f"expected calibration error is {found.expected_error_after:.3f}; it was {found.expected_error_before:.3f} "
        f"before.{threshold}"
    )


def checks(results: Results) -> Table:
    """Return what was asked of the winner's predictions, and whether it holds."""
    verdicts = {True: "passed", False: "failed", None: wording.NONE}
    rows = tuple(
        (
            check.name.replace("_", " "),
            verdicts[check.passed],
            wording.NONE if check.value is None else f"{check.value:.3g}",
            wording.NONE if check.threshold is None else f"{check.threshold:.3g}",
            "yes" if check.required else "no",
        )
        for check in results.checks
    )
    columns = ("check", "verdict", "value", "threshold", "required")
    marked = frozenset(place for place, check in enumerate(results.checks) if check.passed is False)
    notes = tuple(check.words for check in results.checks)
    split = "test" if results.test_examples is not None else "select"
    return Table(
        f"Predictions on {split}", columns, rows, frozenset({"value", "threshold"}), marked=marked, notes=notes
    )


def method_words(results: Results) -> str:
    """Return what the figures mean: examples, groups, seeds, intervals."""
    winner = wording.arm_named(results, results.winner)
    if winner is None or not winner.test:
        return "Figures are on the select split, which chose the winner: expect a little less on new data."
    seeds = f"{winner.seeds} fresh seeds" if winner.seeds > 1 else "one fresh seed"
    sizes = ""
    if results.test_examples is not None:
        groups = "" if results.test_groups is None else f" in {results.test_groups:,} independent groups"
        sizes = f" of {results.test_examples:,} examples{groups}"
    return (
        f"Figures are on the sealed test split{sizes}, averaged over {seeds} of the winner. Intervals "
        f"({level_words(results)}) come from a bootstrap over groups and seeds; gains are paired, example by example "
        "and seed by seed."
    )


def level_words(results: Results) -> str:
    """Return the confidence of the intervals: ``95 %``."""
    levels = [estimate.level for arm in results.arms for estimate in arm.test.values()]
    return f"{100 * (levels[0] if levels else 0.95):g} %"


def no_gains_words(results: Results) -> str:
    """Return why there is no comparison."""
    winner = wording.arm_named(results, results.winner)
    if winner is None or not winner.test:
        return "The test split is still sealed, so the winner has not been compared with the floors there."
    return "There is no other arm to compare the winner with."
