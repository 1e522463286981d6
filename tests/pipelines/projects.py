"""Runs Kedro's pipelines in this process, on the configuration of the repository."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Kedro reads it once, when it is imported.
os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(HERE / "logging.yml"))
os.environ["KEDRO_DISABLE_TELEMETRY"] = "true"
with warnings.catch_warnings():
    # Both warn of type hints of their own while they are imported.
    warnings.simplefilter("ignore")
    import kedro_mlflow.framework.hooks  # noqa: F401

SMALL = {
    "data": {"source": "digit_claims", "rows": 200},
    "machine": {"device": "cpu", "seed": 0, "workers": 1},
}
PROMISED = {
    "data_processing": {"03_primary/processed_data.json", "08_reporting/data_report.json"},
    "train": {
        "04_feature/{variant}/extraction.json",
        "04_feature/{variant}/image.safetensors",
        "06_models/{variant}/model",
        "08_reporting/{variant}/report.html",
        "08_reporting/{variant}/select_metrics.json",
        "08_reporting/{variant}/training.json",
        "08_reporting/{variant}/training_history.json",
    },
    "validate": {"08_reporting/{variant}/validation_metrics.json"},
    "inference": {
        "06_models/{variant}/pretrained",
        "07_model_output/{variant}/pretrained_predictions.csv",
        "08_reporting/{variant}/pretrained_inference_metrics.json",
    },
    "inference_local": {
        "07_model_output/{variant}/predictions.csv",
        "08_reporting/{variant}/inference_metrics.json",
    },
    "evolve": {"06_models/evolve/model", "08_reporting/evolve/report.html", "08_reporting/evolve/results.json"},
    "search_attention": {"08_reporting/search_attention/report.html", "08_reporting/search_attention/front.json"},
    "search_fusion": {"08_reporting/search_fusion/report.html", "08_reporting/search_fusion/front.json"},
}
"""What each pipeline leaves below ``data``."""


def promised(name: str, variant: str = "vilbert") -> set[str]:
    """Return what a pipeline leaves."""
    return {path.format(variant=variant) for path in PROMISED[name]}


def make_project(folder: Path) -> Path:
    """Write a project with the repository's own configuration and nothing else."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return folder


def kedro_run(project: Path, name: str, *, env: str = "tiny", **parameters: Any) -> None:
    """Do what ``kedro run --pipeline=NAME`` does there."""
    from kedro.framework.project import configure_project
    from kedro.framework.session import KedroSession

    configure_project("chiasma.pipelines")
    with KedroSession.create(project, env=env, runtime_params={**SMALL, **parameters}) as session:
        session.run(pipeline_names=[name])


def outputs(project: Path) -> set[str]:
    """Return the files below ``data`` that pipelines promise: all but runs and what is cached."""
    folder = project / "data"
    kept = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    named = {path.as_posix() for path in kept if path.parts[0] != "02_intermediate" and "runs" not in path.parts}
    return {name.partition("/step-")[0] for name in named}
