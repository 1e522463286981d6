"""The settings of the other programs in which a training is shown."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

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


class MlflowSection(Spec):
    """What MLflow is told of a training. Who may write to a server is MLflow's own matter: no login is ever a setting.

    Attributes:
        enabled: Show the training there.
        uri: The server, or ``sqlite:///FILE`` for a file; None is ``$MLFLOW_TRACKING_URI`` or ``sqlite:///mlflow.db``
            in the working directory, which is where ``mlflow ui`` looks.
        experiment: Its experiment, made when missing; None is ``$MLFLOW_EXPERIMENT_NAME`` or ``chiasma``.
        run_name: Its name there; None is the id of our run.
        run: Id of a run of MLflow that is there already, which the training joins, as in a Kedro pipeline; whoever made
            it ends it. None makes a run for each training.
        tags: Words by name, to filter runs by.
        model: Keep a copy of the saved model there, which ``mlflow.pyfunc.load_model`` loads.
    """

    enabled: bool = False
    uri: str | None = Field(default=None, min_length=1)
    experiment: str | None = Field(default=None, min_length=1)
    run_name: str | None = Field(default=None, min_length=1)
    run: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    tags: Mapping[Annotated[str, Field(pattern=r"^[\w.\- /]{1,200}$")], Annotated[str, Field(max_length=5000)]] = {}
    model: bool = True

    @field_validator("uri")
    @classmethod
    def _without_login(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"//[^/]*@", value):
            raise ValueError("the address holds a login, which would be stored with the run: use $MLFLOW_TRACKING_URI")
        return value


class TrackingSection(Spec):
    """Other programs in which ``chiasma train`` is shown while it runs; the other verbs refuse these settings.

    They get ``train/*``, ``val/*`` (on steer), ``val/best_auc``, the events of a growing trunk, the resolved settings,
    the data's fingerprint and what the training came to. A program that fails never ends a training.

    Attributes:
        every_steps: Steps from one row of ``train/*`` to the next; evaluations are always shown.
        wandb: Weights & Biases.
        mlflow: MLflow, in which figures have the names of document 003 (``val_loss``, ``val_auroc``).
    """

    every_steps: int = Field(default=50, ge=1)
    wandb: WandbSection = WandbSection()
    mlflow: MlflowSection = MlflowSection()
