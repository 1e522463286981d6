"""What MLflow's own file holds of a run."""

from pathlib import Path
from typing import Any

from chiasma.train.mlflow_tracker import quiet_mlflow


def client_of(database: Path) -> Any:
    """Return MLflow's client for a file."""
    with quiet_mlflow():
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{database}")


def runs_of(database: Path, experiment: str | None = None) -> list[Any]:
    """Return MLflow's runs of an experiment, or of all, oldest first."""
    client = client_of(database)
    with quiet_mlflow():
        known = [each for each in client.search_experiments() if experiment in (None, each.name)]
        return client.search_runs([each.experiment_id for each in known], order_by=["attributes.start_time"])


def shown_by_mlflow(folder: Path, run: str) -> Any:
    """Return what the files of a folder hold of one of our runs: file, experiment, name, tags, figures."""
    found = []
    for database in sorted(folder.glob("*.db")):
        client = client_of(database)
        for each in runs_of(database):
            if each.data.params.get("chiasma.run") == run:
                with quiet_mlflow():
                    experiment = client.get_experiment(each.info.experiment_id).name
                name = each.info.run_name.replace(run, "the run")
                found.append((database.name, experiment, name, each.data.tags.get("size"), len(each.data.metrics)))
    return found
