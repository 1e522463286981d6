"""Every pipeline by the name that ``kedro run --pipeline=NAME`` knows it by."""

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline

from chiasma.pipelines import nodes

VARIANTS = ("vilbert", "vilbert_frcnn", "vilbert_vg")
_COMMON = ("params:data", "params:machine")
_CHOSEN = "params:chosen"


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines; the default is ``vilbert_train``.

    Those of a variant begin with the raw data. ``model_*`` are those of ``vilbert`` on what earlier ones left: training
    and pretrained inference begin with the processed data, the other two with the tokens and the trained model.
    """
    processing = Pipeline([_process()])
    found = {"data_processing": processing}
    for variant in VARIANTS:
        extracting = processing + _of(variant, [_extract()])
        for name, parts in _parts().items():
            found[f"{variant}_{name}"] = extracting + _of(variant, parts)
    first, parts = VARIANTS[0], _parts()
    found |= {
        "model_training": _of(first, [_extract(), *parts["train"]]),
        "model_validation": _of(first, parts["validate"]),
        "model_inference": _of(first, [_extract(), *parts["inference"]]),
        "model_inference_local": _of(first, parts["inference_local"]),
        "evolve": _of("evolve", [_evolve()]),
    }
    found |= {name: _of(name, [_search()]) for name in ("search_attention", "search_fusion")}
    return {**found, "__default__": found["vilbert_train"]}


def _of(variant: str, parts: Sequence[Node]) -> Pipeline:
    """Return nodes with places and parameters of a variant's own; data, machine and workplace are shared."""
    shared = {"processed_data", "workplace"} & {name for node in parts for name in node.inputs}
    chosen = {_CHOSEN: f"params:{variant}"}
    parameters = {name: name for name in _COMMON} | chosen
    return Pipeline(parts, namespace=variant, inputs=shared, parameters=parameters)


def _parts() -> dict[str, list[Node]]:
    """Return what each pipeline of a variant does once there are tokens."""
    return {
        "train": [_train(), _measure(nodes.evaluate_model, "select_metrics")],
        "validate": [_measure(nodes.validate_model, "validation_metrics")],
        "inference": [_load_pretrained(), _infer("pretrained", "pretrained_")],
        "inference_local": [_infer("model", "")],
    }


def _process() -> Node:
    kept = ["processed_data", "data_report"]
    return Node(nodes.process_data, inputs=[*_COMMON, "workplace"], outputs=kept, name="process_data")


def _extract() -> Node:
    return Node(
        nodes.extract_features,
        inputs=[*_COMMON, _CHOSEN, "processed_data", "workplace"],
        outputs=["tokens", "extraction"],
        name="extract_features",
    )


def _train() -> Node:
    return Node(
        nodes.train_model,
        inputs=[*_COMMON, _CHOSEN, "processed_data", "tokens", "workplace"],
        outputs=["model", "report", "training", "training_history"],
        name="train_model",
    )


def _measure(function: Callable[..., Any], kept: str) -> Node:
    return Node(
        function,
        inputs=[*_COMMON, _CHOSEN, "model", "tokens", "workplace"],
        outputs=[kept, f"{kept}_in_mlflow"],
        name=function.__name__,
    )


def _load_pretrained() -> Node:
    return Node(
        nodes.load_pretrained,
        inputs=[*_COMMON, _CHOSEN, "tokens", "workplace"],
        outputs="pretrained",
        name="load_pretrained",
    )


def _infer(model: str, prefix: str) -> Node:
    """Return the node that predicts with the trained model, or with the pretrained one."""
    kept = ("predictions", "inference_metrics", "inference_metrics_in_mlflow")
    return Node(
        nodes.infer,
        inputs=[*_COMMON, _CHOSEN, model, "tokens", "workplace"],
        outputs=[f"{prefix}{name}" for name in kept],
        name=f"infer_with_{model}",
    )


def _evolve() -> Node:
    kept = ["model", "report", "results"]
    return Node(nodes.evolve, inputs=[*_COMMON, _CHOSEN, "workplace"], outputs=kept, name="search")


def _search() -> Node:
    return Node(nodes.search, inputs=[*_COMMON, _CHOSEN, "workplace"], outputs=["report", "front"], name="search")
