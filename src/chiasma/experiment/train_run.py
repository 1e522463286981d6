"""Train the one design that the settings describe, as a run that can be killed and resumed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.files import write_json
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import (
    StoppedTooSoonError,
    begin_run,
    check_can_run,
    deciding_metric,
    failing,
    prepare_data,
    reopen_data,
)
from chiasma.experiment.calibration import fit_calibrator
from chiasma.experiment.checked_rows import check_rows
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.ended import Ended, ended
from chiasma.experiment.fine_tuning import check_layers_learn
from chiasma.experiment.grown import growth_notes, kept_words, one_token_warning
from chiasma.experiment.jailed_train import check_can_be_jailed, train_jailed
from chiasma.experiment.learned_controllers import say_idle_controls
from chiasma.experiment.memory import say_memory
from chiasma.experiment.report.render import write_report
from chiasma.experiment.results import Arm, Results, RunResult
from chiasma.experiment.saved import SavedModel, learnt_contents
from chiasma.experiment.simplest import figures_by_task, simplest_arms
from chiasma.experiment.slice_table import slice_table
from chiasma.experiment.statistics import Bootstrap
from chiasma.experiment.together import Group, joined
from chiasma.experiment.tracking import check_tracking, open_tracking, summarise, tracking_facts
from chiasma.experiment.watching import WatchedTraining
from chiasma.model.adapters import with_adapters_merged
from chiasma.model.generated import unapproved_in
from chiasma.store.logs import log_to
from chiasma.store.run import RunStore
from chiasma.train.compiling import CompileError
from chiasma.train.design import OptimSpec
from chiasma.train.fit import Fit
from chiasma.train.metrics import higher_is_better, measure
from chiasma.train.progress import SharedProgress, TrainingProgress
from chiasma.train.trainer import Trainer


def train(config: RunConfig, *, console: Console, command: Sequence[str] = ()) -> RunResult | None:
    """Train the settings' design and save it; the test split stays sealed until ``chiasma evaluate`` opens it.

    Processes that ``torchrun`` started train it together; the result is the leading one's, None for the others.

    Args:
        config: Everything the run is told.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.

    Raises:
        ChiasmaError: The data or a setting cannot be used; nothing has been trained.
    """
    with joined(config.run.device, console) as group:
        with group.ranks.leader_first():
            if group.ranks.leads:
                check_tracking(config)
            config = with_backbones(config, group.console)
            dataset, report = prepare_data(config, group.console)
        group.ranks.check_same("prepared data", dataset.key)
        metric = deciding_metric(config, dataset)
        check_can_run(config, dataset, searched=False)
        if not group.ranks.leads:
            return _assist(config, dataset, metric=metric, group=group)
        check_can_be_jailed(config, config.design(dataset.signature), ranks=group.ranks.size)
        check_layers_learn(config.design(dataset.signature), dataset.signature)
        facts = tracking_facts(config)
        with begin_run(config, dataset, verb="train", command=command, facts=facts) as store, failing(store):
            return _train(config, dataset, report, metric=metric, store=store, group=group, resumed=False)


def resume(path: Path, *, console: Console) -> RunResult | None:
    """Continue a training from its newest checkpoint that verifies, on as many processes as there are now.

    Args:
        path: The run's folder.

    Raises:
        RunBusyError: Another process is writing to the run.
        DataError: The data have changed since.
        ConfigError: The source is trusted no longer, and the jail cannot follow the settings.
    """
    with RunStore.open(path) as store:
        config = RunConfig.from_dict(store.config)
    with joined(config.run.device, console) as group:
        if not group.ranks.leads:
            with group.ranks.leader_first():
                dataset, _ = prepare_data(config, group.console)
            return _assist(config, dataset, metric=deciding_metric(config, dataset), group=group)
        with RunStore.open(path, write=True) as store:
            with group.ranks.leader_first():
                dataset, report = reopen_data(store, config, group.console)
            metric = deciding_metric(config, dataset)
            # Trust may have been withdrawn since.
            check_can_be_jailed(config, config.design(dataset.signature), ranks=group.ranks.size, run=path)
            with failing(store):
                return _train(config, dataset, report, metric=metric, store=store, group=group, resumed=True)


def _assist(config: RunConfig, dataset: Dataset, *, metric: str, group: Group) -> None:
    """Train with the leading process, which has the run."""
    checkpoints = Path(group.ranks.told(None))
    _trainer(config, dataset, metric=metric, checkpoints=checkpoints, group=group).fit()


def _trainer(
    config: RunConfig,
    dataset: Dataset,
    *,
    metric: str,
    checkpoints: Path,
    group: Group,
    beside: Sequence[TrainingProgress] = (),
) -> Trainer:
    watched = WatchedTraining(group.console)
    design, seed, precision = config.design(dataset.signature), config.run.seed, config.run.precision
    trainer = Trainer(
        design,
        dataset,
        seed=seed,
        metric=metric,
        device=group.device,
        precision=precision,
        compile=config.run.compile,
        ranks=group.ranks,
        callbacks=callbacks_of(design, dataset, seed=seed, precision=precision, checkpoints=checkpoints),
        checkpoints=checkpoints,
        progress=SharedProgress([watched, *beside]),
    )
    watched.trainer = trainer
    return trainer


def _train(
    config: RunConfig,
    dataset: Dataset,
    report: DataReport,
    *,
    metric: str,
    store: RunStore,
    group: Group,
    resumed: bool,
) -> RunResult:
    store.set_status("running")
    group.console.say(f"run {store.id} in {store.path}{group.words}")
    checkpoints = Path(group.ranks.told(str(store.checkpoints_folder.absolute())))
    with (
        log_to(store.path),
        open_tracking(config, dataset, store=store, console=group.console, resumed=resumed) as tracking,
    ):
        design = config.design(dataset.signature)
        if unapproved_in(design):
            done = train_jailed(config, design, dataset, metric=metric, folder=store.path / "trained", group=group)
        else:
            trainer = _trainer(config, dataset, metric=metric, checkpoints=checkpoints, group=group, beside=[tracking])
            say_memory(design, dataset, config, console=group.console)
            say_idle_controls(design, console=group.console)
            for warning in one_token_warning(design.model, dataset.signature):
                group.console.say(warning)
            say_warm_up(config.optim, trainer.total_steps, console=group.console)
            fit = _fit(trainer, config, store=store, group=group)
            done = ended(fit, design, dataset, precision=config.run.precision)
        result = _write_down(config, dataset, report, store=store, done=done, metric=metric)
        for words in kept_words(result.results.growth):
            group.console.say(words)
        # Before trackers are told: whatever they do now, the run is over.
        store.set_status("stopped" if done.stopped == "interrupted" else "finished")
        summarise(tracking, config, result, model=done.model)
    return result


def say_warm_up(optim: OptimSpec, steps: int, *, console: Console) -> None:
    """Say it where a training is over before its rate has risen: warm-up can be counted in steps."""
    if optim.warming(steps) >= steps:
        peak = steps / optim.warming(steps)
        console.say(
            f"warning: warm-up lasts {optim.warming(steps):,} steps, but the training has only {steps:,}, so the rate "
            f"reaches {peak:.0%} of optim.lr. Shorter: --set optim.warmup_steps=null optim.warmup=0.1"
        )


def _fit(trainer: Trainer, config: RunConfig, *, store: RunStore, group: Group) -> Fit:
    """Train; where the model is compiled, say so before nothing is heard for minutes.

    Raises:
        StoppedTooSoonError: Ctrl-C ended the compiler.
    """
    if config.run.compile:
        group.console.say("compiling: the first step takes long, often minutes (run.compile=false begins at once)")
    try:
        return trainer.fit()
    except CompileError:
        if not group.console.interrupted:
            raise
        store.set_status("stopped")
        raise StoppedTooSoonError(f"Stopped while compiling. Go on: chiasma resume {store.path}") from None


def _write_down(
    config: RunConfig, dataset: Dataset, report: DataReport, *, store: RunStore, done: Ended, metric: str
) -> RunResult:
    """Measure on select, calibrate there, save the model and write the report."""
    logits, labels = done.logits, dataset.labels(dataset.rows("select")).numpy()
    target = dataset.signature.target
    metrics = measure(logits, labels, target, target_scale=dataset.target_scale)
    saved = SavedModel(
        model=with_adapters_merged(done.model),
        preprocessing=dataset.preprocessing(),
        calibrator=fit_calibrator(logits, labels, target, metric=metric),
        card={
            "run": store.id,
            "metric": metric,
            "fingerprint": dataset.fingerprint,
            "select": metrics,
            "data": config.data.to_dict(),
            "seed": config.run.seed,
        },
        learnt=learnt_contents(dataset),
    ).expecting(logits, config.evaluate.checks)
    saved.save(store.model_folder)
    arm = Arm(
        name="winner",
        role="winner",
        description="the design of the settings",
        select=metrics,
        parameters=done.parameters,
        flops=done.flops,
        seconds=done.seconds,
    )
    results = Results(
        run=store.id,
        verb="train",
        source=config.data.source,
        metric=metric,
        higher_is_better=higher_is_better(metric),
        budget={"asked": f"{config.train.epochs:g} epochs", "spent_seconds": done.seconds, "steps": done.steps},
        data=report.to_dict(),
        arms=(*simplest_arms(dataset), arm),
        winner="winner",
        history=done.history,
        slices=slice_table(
            dataset,
            dataset.rows("select"),
            logits[None],
            metric=metric,
            bootstrap=partial(
                Bootstrap.over, dataset, level=config.evaluate.level, resamples=config.evaluate.resamples
            ),
        ),
        growth=done.growth,
        controller=done.controller,
        design=done.design.to_dict(),
        checks=check_rows(saved, dataset, dataset.rows("select"), logits, evaluate=config.evaluate),
        provenance=store.provenance,
        notes=(*figures_by_task(metrics, target), *_notes(done)),
    )
    write_json(store.path / "results.json", results.to_dict())
    report_path = write_report(results, store.path / "report.html")
    stopped = "interrupted" if done.stopped == "interrupted" else "finished"
    return RunResult(store.path, results, store.model_folder, report_path, stopped)


def _notes(done: Ended) -> tuple[str, ...]:
    """Return what a reader must know of the figures."""
    notes = [
        f"Trained for {done.steps} steps ({done.stopped}).",
        "The test split is sealed; figures are on select.",
        *growth_notes(done.growth),
        *done.notes,
    ]
    if done.design.training.controller is not None:
        notes.append(
            "Whether the controller paid is not compared here; `chiasma benchmark ... --ablate controller` does, with "
            "the same data and settings."
        )
    return tuple(notes)
