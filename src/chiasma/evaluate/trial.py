"""One trial: build, probe, train, count, measure. Every candidate and every baseline goes through this same call."""

import time
import traceback

from chiasma.core.outcome import Rejected, Scored
from chiasma.data.dataset import Dataset
from chiasma.evaluate.jailed_trial import run_jailed
from chiasma.evaluate.job import Job
from chiasma.evaluate.scoring import keep, metrics_of, objectives_of, unfit
from chiasma.evaluate.training import first_line, train_in_time, trained
from chiasma.model.generated import generated_in, module_name, unapproved_in
from chiasma.model.plugins import plugins_of
from chiasma.train.design import Design
from chiasma.train.predicting import predict_logits


def run_trial(job: Job, dataset: Dataset) -> Scored | Rejected:
    """Build, probe, train, count and measure one design on ``select``; ``test`` is never touched.

    A design with generated source that nobody has approved is trained in the jail.

    Returns:
        Scored, or Rejected at stage ``build``, ``probe``, ``train``, ``deadline``, ``plugin`` or ``generated``; from
        the jail also ``screen``, ``behaviour`` or ``jail``.

    Raises:
        StorageError: What is to be kept cannot be written.
        ConfigError: The job's metric or device does not exist; not the candidate's fault.
        JailError: The jail cannot be closed on this machine.
    """
    if unapproved_in(job.design):
        return run_jailed(job, dataset)
    try:
        return _trial(job, dataset)
    except Exception as error:
        # The boundary to third parties' code: what it raises is its own fault, whatever type it has.
        culprit = plugin_at_fault(error, job.design)
        stage = "plugin"
        if culprit is None:
            culprit, stage = generated_at_fault(error, job.design), "generated"
        if culprit is None:
            raise
        reason = f"{culprit} raised {type(error).__name__}: {first_line(error)}"
        return Rejected(stage=stage, reason=reason)


def plugin_at_fault(error: Exception, design: Design) -> str | None:
    """Return the plugin of a design in whose package an exception was raised or passed through, or None."""
    modules = _modules_in(error)
    for plugin in plugins_of(design):
        package = type(plugin.resolve()).__module__.partition(".")[0]
        if any(module.partition(".")[0] == package for module in modules):
            return f"{plugin.group} {plugin.name}"
    return None


def generated_at_fault(error: Exception, design: Design) -> str | None:
    """Return the approved source of a design in which an exception was raised or through which it passed, or None."""
    modules = _modules_in(error)
    return next(
        (f"the source {part.sha256[:12]}" for part in generated_in(design) if module_name(part.sha256) in modules), None
    )


def _modules_in(error: Exception) -> set[str]:
    return {str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)}


def _trial(job: Job, dataset: Dataset) -> Scored | Rejected:
    started = time.monotonic()
    fit = train_in_time(job, dataset, started=started)
    if isinstance(fit, Rejected):
        return fit
    logits = predict_logits(fit.model, dataset, dataset.rows("select"), precision=job.precision)
    done = trained(job, dataset, fit)
    rejected = unfit(job, done, logits)
    if rejected is not None:
        return rejected
    known = metrics_of(job, dataset, done, logits)
    objectives = objectives_of(job, done, known)
    limit = job.time_limit_seconds
    if limit is not None and time.monotonic() > started + limit:
        seconds = time.monotonic() - started
        return Rejected(
            stage="deadline", reason=f"took {seconds:.1f} s with its measurements, the limit is {limit:g} s"
        )
    keep(job, dataset, done, logits)
    return Scored(objectives=objectives, metrics=known)
