"""Weights & Biases (https://docs.wandb.ai) as a tracker. Only here is ``wandb`` imported, and only when it is used."""

import importlib.util
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from chiasma.core.errors import ConfigError
from chiasma.train.trackers import End, Tracker

Mode = Literal["online", "offline"]
INIT_SECONDS = 60.0
FINISH_SECONDS = 120.0
_REMEDY = (
    "Log in by `wandb login` or WANDB_API_KEY, or keep the figures in the run's folder: tracking.wandb.mode=offline or "
    "WANDB_MODE=offline."
)
# What W&B makes of exit codes: 0 finished, 255 killed, anything else failed.
_EXIT_CODES: Mapping[End, int] = {"finished": 0, "interrupted": 255, "failed": 1}


def check_wandb(mode: Mode) -> None:
    """Refuse where W&B could not be told anything.

    Raises:
        ConfigError: The package is not installed; or nobody is logged in, and the mode is ``online``.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "tracking.wandb.enabled needs the package wandb, which is not installed: pip install 'chiasma[tracking]'."
        )
    if mode == "online":
        _check_login()


def _check_login() -> None:
    import wandb

    # Silent, it fails where it would ask for a key. Whether the key is good, and the server there, is seen on opening.
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        wandb.login(verify=False)
    except wandb.Error as error:
        raise ConfigError(f"W&B cannot be told of the training: {_one_line(error)}. {_REMEDY}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@contextmanager
def _cache_in(folder: Path) -> Generator[None]:
    """Have W&B's service, which starts inside the block, keep its log in the folder too, unless the user says where."""
    name = "WANDB_CACHE_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder / "wandb" / "cache")
    try:
        yield
    finally:
        del os.environ[name]


class WandbTracker(Tracker):
    """Shows a training as a run of W&B.

    Everything that wandb writes lies below the folder. Sent are what :class:`~chiasma.train.trackers.Tracker` is told,
    ``config`` as it is given, and how busy the machine is. What W&B would collect by itself is not: console output,
    code, command line, packages and state of git. A command line or a commit is sent where ``config`` holds it.

    Args:
        folder: The run's folder; files lie in ``wandb`` in it.
        run: W&B's id of the run; one that it knows is continued.
        title: The run's name there.
        project: Its project.
        entity: The user or team; None for W&B's default.
        group: Runs of one group are shown together; None for W&B's default.
        tags: To filter runs by.
        mode: ``online`` sends as it goes, ``offline`` leaves it to ``wandb sync``.
        config: The settings and what else is shown beside them, as plain JSON.

    Raises:
        ConfigError: W&B cannot be reached or refuses the run.
    """

    name = "W&B"

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        title: str,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: Mode,
        config: Mapping[str, Any],
    ) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_save_requirements=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        try:
            with _cache_in(folder):
                self._run = wandb.init(
                    dir=folder,
                    id=run,
                    resume="allow",
                    name=title,
                    project=project,
                    entity=entity,
                    group=group,
                    tags=list(tags) or None,
                    mode=mode,
                    config=dict(config),
                    reinit="create_new",
                    settings=settings,
                )
        except Exception as error:  # noqa: BLE001 wandb raises errors that are not its own, of its service for one
            raise ConfigError(f"W&B cannot be told of the training: {_one_line(error)}. {_REMEDY}") from None
        for pattern, axis in (("train/*", "step"), ("val/*", "epoch")):
            self._run.define_metric(axis)
            self._run.define_metric(pattern, step_metric=axis)
        self.place = self._run.url or f"offline; send it with: wandb sync {Path(self._run.dir).parent}"

    def log(self, values: Mapping[str, float], *, step: int, events: Sequence[str] = ()) -> None:
        """Show one row of figures; what happened is a text in it."""
        row: dict[str, Any] = {"step": step, **values}
        if events:
            row["event"] = "\n".join(events)
        self._run.log(row, step=step, commit=True)

    def summarise(
        self,
        values: Mapping[str, Any],
        *,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Mapping[str, Path],
    ) -> None:
        """Put values and tables into the run's summary; files are not sent."""
        import wandb

        self._run.summary.update(dict(values))
        for name, rows in tables.items():
            self._run.summary[name] = wandb.Table(columns=[*rows[0]], data=[list(row.values()) for row in rows])

    def close(self, end: End) -> None:
        """End the run there; online this waits until everything is sent, but not for ever."""
        self._run.finish(exit_code=_EXIT_CODES[end])
