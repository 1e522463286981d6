"""One sitting of a search: what is open from its start, or its resumption, until it ends or is interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager

from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Clock, Driver
from chiasma.experiment.executors import make_executor
from chiasma.experiment.writers import Answers, open_answers, recorded_decisions
from chiasma.store.logs import log_to
from chiasma.store.run import RunStore


@contextmanager
def sitting(
    config: RunConfig, store: RunStore, *, console: Console, clock: Clock
) -> Iterator[tuple[Driver, Answers | None]]:
    """Open workers, log and a language model's answers; give what drives them, and the answers.

    Raises:
        ConfigError: The executor cannot be reached, or the run that is to be repeated is missing.
    """
    store.set_status("running")
    with (
        log_to(store.path),
        make_executor(config.run, log=store.path / "workers.log") as executor,
        open_answers(config, store.path) as answers,
    ):
        console.say(f"run {store.id} in {store.path}")
        yield (
            Driver(
                store,
                executor,
                console=console,
                clock=clock,
                workers=config.run.workers,
                recorded=recorded_decisions(config),
            ),
            answers,
        )
