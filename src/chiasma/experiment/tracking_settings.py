"""The settings of the other programs in which a training is shown."""

from typing import Annotated, Literal

from pydantic import Field

from chiasma.core.spec import Spec


class WandbSection(Spec):
    """What Weights & Biases is told of a training. Who is logged in is W&B's own matter: no key is ever a setting.

    Attributes:
        enabled: Show the training there.
        project: Its project; None is ``$WANDB_PROJECT`` or ``chiasma``.
        run_name: Its name there; None is the id of our run.
        entity: The user or team that it belongs to; None is ``$WANDB_ENTITY`` or the user's default.
        group: Runs of one group are shown together.
        tags: Words to filter runs by.
        mode: ``online`` sends as it goes, ``offline`` keeps everything in the run's folder for ``wandb sync``,
            ``disabled`` does nothing; None is ``$WANDB_MODE`` or ``online``.
    """

    enabled: bool = False
    project: str | None = Field(default=None, min_length=1)
    run_name: str | None = Field(default=None, min_length=1)
    entity: str | None = Field(default=None, min_length=1)
    group: str | None = Field(default=None, min_length=1)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    mode: Literal["online", "offline", "disabled"] | None = None


class TrackingSection(Spec):
    """Other programs in which ``chiasma train`` is shown while it runs; the other verbs refuse these settings.

    They get ``train/*``, ``val/*`` (on steer), ``val/best_auc``, the events of a growing trunk, the resolved settings,
    the data's fingerprint and what the training came to. A program that fails never ends a training.

    Attributes:
        every_steps: Steps from one row of ``train/*`` to the next; evaluations are always shown.
        wandb: Weights & Biases.
    """

    every_steps: int = Field(default=50, ge=1)
    wandb: WandbSection = WandbSection()
