"""MLflow (https://mlflow.org) as a tracker. Only here is ``mlflow`` imported, and only when it is used."""

import importlib.util
import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chiasma
from chiasma.core.errors import ConfigError
from chiasma.train.trackers import End, Tracker

DEFAULT_URI = "sqlite:///mlflow.db"
TOKEN_TAG = "chiasma.token"
EVENTS_TAG = "chiasma.events"
MODEL = "model"
_REMEDY = "Start the server, or keep the figures in a file: --set tracking.mlflow.uri=sqlite:///mlflow.db."
_STATES: Mapping[End, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
# As document 003 calls them; F1 is the mean over classes.
_NAMES = {
    "train/loss": "train_step_loss",
    "train/loss_mean": "train_loss",
    "val/log_loss": "val_loss",
    "val/f1_macro": "val_f1",
}
# Without it the screens for language models would be shown.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# What MLflow accepts of one call, one parameter, one tag, one dataset's digest.
_BATCH, _LONGEST_PARAM, _LONGEST_TAG, _LONGEST_DIGEST = 100, 6000, 5000, 36
# By itself it would report its use, wait four minutes for a server that is gone, and draw bars for every file.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def check_mlflow() -> None:
    """Refuse where MLflow could not be told anything.

    Raises:
        ConfigError: The package is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "tracking.mlflow.enabled needs the package mlflow, which is not installed: pip install 'chiasma[tracking]'."
        )


def whole_uri(uri: str) -> str:
    """Return an address of MLflow with the path of an SQLite file made absolute."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix) or uri.startswith(f"{prefix}/"):
        return uri
    return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}"


@contextmanager
def quiet_mlflow() -> Generator[None]:
    """Keep MLflow's notes and warnings, which say nothing of the user's own doing, off the screen."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow.pyfunc  # noqa: F401 pyright: ignore[reportUnusedImport]

            # Importing it sets its own level.
            logger.setLevel(logging.ERROR)
            yield
        finally:
            logger.setLevel(level)


def metric_name(name: str) -> str:
    """Return what MLflow calls a figure: ``val_loss``, ``val_auroc``, ``train_loss``, ``select_accuracy``."""
    return _NAMES.get(name, name.replace("/", "_"))


class MlflowTracker(Tracker):
    """Shows a training as a run of MLflow: figures, settings, data, report, and the model as a pyfunc.

    Sent are what :class:`~chiasma.train.trackers.Tracker` is told, ``config``, ``about`` and the files of
    :meth:`summarise`. The process's own active run of MLflow is left alone.

    Args:
        uri: The tracking server, or ``sqlite:///FILE``; artifacts of a new experiment in a file lie beside it.
        experiment: The experiment, made when missing.
        token: What our run is known by there; a run that has it is continued.
        title: The run's name there.
        run: Id of a run that is there, to join it rather than make one; None for one of its own.
        ends: Say how the run ended; not where whoever made it does.
        tags: To filter runs by.
        config: The settings, as plain JSON.
        about: What else is shown beside them: words by name.
        dataset: Name, source and fingerprint of the data.
        loader: Module with ``_load_pyfunc(folder)`` for the saved model.
        columns: What of a frame the saved model reads; each may be missing.

    Raises:
        ConfigError: MLflow cannot be reached or refuses the run.
    """

    name = "MLflow"

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        token: str,
        title: str,
        run: str | None = None,
        ends: bool = True,
        tags: Mapping[str, str],
        config: Mapping[str, Any],
        about: Mapping[str, Any],
        dataset: tuple[str, str, str],
        loader: str,
        columns: Sequence[str],
    ) -> None:
        self._uri, self._loader, self._columns, self._ends = uri, loader, columns, ends
        try:
            with quiet_mlflow():
                from mlflow.tracking import MlflowClient

                self._client = MlflowClient(tracking_uri=uri)
                self._begin(experiment, token=token, title=title, run=run, tags={**tags, TOKEN_TAG: token})
                self._describe({**flattened(config), **flattened(about)}, dataset)
        except Exception as error:  # noqa: BLE001 mlflow raises errors that are not its own, of its database for one
            raise ConfigError(f"MLflow cannot be told of the training: {_one_line(error)}. {_REMEDY}") from None
        self.place = _place(uri, self._experiment, self.run)

    def log(self, values: Mapping[str, float], *, step: int, events: Sequence[str] = ()) -> None:
        """Show one row of figures; what happened joins a tag of the run."""
        with quiet_mlflow():
            self._metrics(values, step=step)
            if events:
                known = self._client.get_run(self.run).data.tags.get(EVENTS_TAG, "")
                lines = [*known.splitlines(), *(f"step {step}: {event}" for event in events)]
                self._client.set_tag(self.run, EVENTS_TAG, "\n".join(lines)[-_LONGEST_TAG:])

    def summarise(
        self,
        values: Mapping[str, Any],
        *,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Mapping[str, Path],
    ) -> None:
        """Show the last figures, tables as JSON, the files, and the model so that MLflow loads it."""
        with quiet_mlflow():
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            step = int(values.get("steps", 0))
            self._metrics(numbers, step=step)
            for name, value in values.items():
                if isinstance(value, str):
                    self._client.set_tag(self.run, name, value[:_LONGEST_TAG])
            for name, rows in tables.items():
                self._client.log_dict(self.run, {"rows": [dict(row) for row in rows]}, f"{name}.json")
            for name, path in files.items():
                if name == MODEL:
                    self._log_model(path, step=step)
                else:
                    self._client.log_artifact(self.run, str(path))

    def close(self, end: End) -> None:
        """Say how the run ended, unless whoever made it does."""
        if self._ends:
            with quiet_mlflow():
                self._client.set_terminated(self.run, _STATES[end])

    def _begin(self, experiment: str, *, token: str, title: str, run: str | None, tags: Mapping[str, str]) -> None:
        if run is not None:
            found = self._client.get_run(run)
            self._experiment, self.run = found.info.experiment_id, run
            for name, value in tags.items():
                self._client.set_tag(run, name, value)
            return
        self._experiment = self._experiment_named(experiment)
        known = self._client.search_runs([self._experiment], f"tags.`{TOKEN_TAG}` = '{token}'", max_results=1)
        if known:
            self.run = known[0].info.run_id
            self._client.update_run(self.run, status="RUNNING")
        else:
            self.run = self._client.create_run(self._experiment, tags=dict(tags), run_name=title).info.run_id

    def _experiment_named(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        try:
            return self._client.create_experiment(name, artifact_location=_artifacts(self._uri, name), tags=_KIND)
        except MlflowException:
            # Another process may have made it in the meantime.
            known = self._client.get_experiment_by_name(name)
            if known is None:
                raise
            return known.experiment_id

    def _describe(self, params: Mapping[str, Any], dataset: tuple[str, str, str]) -> None:
        """Show settings and data; what a run that is continued has already is left as it is."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        run = self._client.get_run(self.run)
        fresh = [
            Param(name, _cut(str(value), _LONGEST_PARAM))
            for name, value in params.items()
            if name not in run.data.params
        ]
        for start in range(0, len(fresh), _BATCH):
            self._client.log_batch(self.run, params=fresh[start : start + _BATCH], synchronous=True)
        name, source, fingerprint = dataset
        digest = fingerprint[:_LONGEST_DIGEST]
        known = run.inputs.dataset_inputs if run.inputs else ()
        if digest not in [each.dataset.digest for each in known]:
            shown = Dataset(name=name, digest=digest, source_type="local", source=source, schema=None, profile=None)
            self._client.log_inputs(self.run, [DatasetInput(shown, [InputTag("mlflow.data.context", "training")])])

    def _metrics(self, values: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(name), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.run, metrics=metrics, synchronous=True)

    def _log_model(self, folder: Path, *, step: int) -> None:
        """Log a saved model as a pyfunc that our own loader reads, so that nothing in it is ever unpickled."""
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput

        with tempfile.TemporaryDirectory() as draft:
            whole = Path(draft) / MODEL
            mlflow.pyfunc.save_model(
                whole,
                loader_module=self._loader,
                data_path=str(folder),
                signature=_signature(self._columns),
                pip_requirements=[f"chiasma=={chiasma.__version__}"],
            )
            logged = self._client.create_logged_model(self._experiment, name=MODEL, source_run_id=self.run)
            self._client.log_model_artifacts(logged.model_id, str(whole))
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(self.run, [LoggedModelOutput(logged.model_id, step)])


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a JSON tree by dotted path; a list counts as a leaf and is written as JSON."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flattened(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, list | tuple | Mapping) else value
    return leaves


def _signature(columns: Sequence[str]) -> Any:
    """Return the columns, each of which may hold anything or be absent: an image is a path as well as bytes."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    return ModelSignature(inputs=Schema([ColSpec(AnyType(), name, required=False) for name in columns]))


def _artifacts(uri: str, experiment: str) -> str | None:
    """Return where artifacts lie: beside an SQLite file, else where the server says."""
    if not uri.startswith("sqlite:////"):
        return None
    word = re.sub(r"[^\w.-]+", "-", experiment)
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / word).as_uri()


def _place(uri: str, experiment: str, run: str) -> str:
    shown = re.sub(r"//[^@/]*@", "//...@", uri)
    if uri.startswith(("http://", "https://")):
        return f"{shown.rstrip('/')}/#/experiments/{experiment}/runs/{run}"
    return f"run {run}; see it with: mlflow ui --backend-store-uri {shown}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(".")
    return words if len(words) <= 300 else f"{words[:300]}..."
