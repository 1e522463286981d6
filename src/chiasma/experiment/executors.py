"""Which executor carries out a run's trainings."""

from pathlib import Path

from chiasma.evaluate.executor import Executor, LocalExecutor
from chiasma.evaluate.ray_executor import RayExecutor, import_ray
from chiasma.experiment.config import RunConfig, RunSection


def check_executor(run: RunSection) -> None:
    """Refuse an executor that is not installed.

    Raises:
        ConfigError: Ray is wanted and missing.
    """
    if run.executor == "ray":
        import_ray()


def make_executor(run: RunSection, *, log: Path) -> Executor:
    """Start the workers that the settings ask for; their results are the same wherever they run.

    Args:
        run: Names the executor and the number of workers.
        log: File that the workers' output is appended to.

    Raises:
        ConfigError: Ray is wanted and missing, or its cluster cannot be used.
    """
    if run.executor == "ray":
        return RayExecutor(run.workers, address=run.ray_address, log=log)
    return LocalExecutor(run.workers, log=log)


def with_executor(config: RunConfig, executor: str | None, ray_address: str | None) -> RunConfig:
    """Return a run's settings with another executor for this sitting; None leaves the run's own.

    Raises:
        ConfigError: There is no such executor, or it takes no address.
    """
    if executor is None and ray_address is None:
        return config
    chosen = executor or ("ray" if ray_address else config.run.executor)
    section = config.run.to_dict() | {"executor": chosen, "ray_address": ray_address}
    return RunConfig.from_dict(config.to_dict() | {"run": section})
