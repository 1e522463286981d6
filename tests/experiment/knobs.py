"""Law 8: how a change of each setting is seen.

Six ways, by section. ``prepared``: the data come out different. ``trained``: weights or history come out different.
``shown``: a tracker is told something else. ``checked``: a check of predictions ends otherwise. ``rewarded``: a
fusion earns something else. ``read``: the drivers, or those who ask a language model, read the field (their own
tests show what it does; running each would take minutes).
"""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

import chiasma
from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.errors import ChiasmaError
from chiasma.core.outcome import Scored
from chiasma.data.prepare import prepare
from chiasma.data.signature import Target
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.checking import Predictions, check_predictions
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.expectation import expect
from chiasma.experiment.statistics import Bootstrap
from chiasma.experiment.tracking import open_tracking, tracking_facts
from chiasma.store.provenance import provenance
from chiasma.store.run import RunStore
from chiasma.train.progress import StepTaken
from chiasma.train.trainer import Trainer
from tests.experiment.mlflow_runs import shown_by_mlflow
from tests.experiment.wandb_files import ended
from tests.published import BERT_NAMES, VIT_PROCESSOR, save_processor, save_tokenizer

SECTIONS_READ_BY_DRIVERS = ("search", "evaluate", "run", "llm")
_SMALL = {
    "model.dim": 16,
    "model.encoders": {"text": {"kind": "ngram", "buckets": 64}},
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.evaluations": 2,
}


_FOLDERS = ("data.source", "data.image_dir", "data.image_processor", "data.tokenizer")
_TRUNK = {"kind": "population", "members": {"perceptron_1": {"member": {"kind": "perceptron"}}}}
_OFFLINE = {"tracking.wandb.enabled": True, "tracking.wandb.mode": "offline"}
_MLFLOW = {"tracking.mlflow.enabled": True, "tracking.mlflow.uri": "first.db"}


@dataclass(frozen=True)
class Knob:
    """Two values of one setting that must make a difference.

    Attributes:
        values: Both values.
        base: Other settings that make the difference visible.
    """

    values: tuple[Any, Any]
    base: Mapping[str, Any] = field(default_factory=dict)


KNOBS: dict[str, Knob] = {
    "data.source": Knob(("rows.csv", "splits.csv")),
    "data.columns.id": Knob((None, "key")),
    "data.columns.image": Knob((None, "photo")),
    "data.columns.text": Knob(((), ("question", "text"))),
    "data.columns.label": Knob((None, "topic")),
    "data.columns.split": Knob((None, "part"), {"data.source": "splits.csv"}),
    "data.columns.group": Knob((None, "album")),
    "data.columns.allowed": Knob((None, "classes")),
    "data.image_fallbacks": Knob(((), ("spare",))),
    "data.slices": Knob(((), ("topic", "album"))),
    "data.image_dir": Knob((None, "others")),
    "data.tasks": Knob(
        ({"label": "classification"}, {"label": "multilabel"}), {"data.columns.label": ["label", "topic"]}
    ),
    "data.task": Knob(("classification", "multilabel")),
    "data.image_size": Knob((None, 12)),
    "data.image_fit": Knob(("pad", "crop"), {"data.image_size": 8}),
    "data.image_processor": Knob((None, "published")),
    "data.tokenizer": Knob((None, "published")),
    "data.max_pixels": Knob((50_000_000, 150), {"data.max_bad_fraction": 1.0}),
    "data.missing_images": Knob(("keep", "quarantine")),
    "data.vocabulary": Knob((64, 100)),
    "data.text_length": Knob((None, 4)),
    "data.lowercase": Knob((True, False)),
    "data.max_characters": Knob((20_000, 6)),
    "data.steer_fraction": Knob((0.08, 0.2)),
    "data.select_fraction": Knob((0.12, 0.3)),
    "data.test_fraction": Knob((0.2, 0.4)),
    "data.near_duplicate_bits": Knob((None, 16), {"data.source": "large.csv"}),
    "data.shared_images": Knob(("drop", "keep"), {"data.source": "splits.csv", "data.columns.split": "part"}),
    "data.max_bad_fraction": Knob((0.5, 0.0)),
    "data.features": Knob(({}, {"image": "tokens.npz"})),
    "data.captions": Knob((None, {"column": "question"})),
    "data.sensitive": Knob((False, True)),
    "data.rows": Knob((None, 30)),
    "model.dim": Knob((16, 32)),
    "model.encoders": Knob(({"image": {"kind": "pixels"}}, {"image": {"kind": "convolution"}})),
    "model.fusion": Knob(({"kind": "concat"}, {"kind": "gated"})),
    "model.trunk": Knob(
        (None, {"kind": "population", "members": {"perceptron_1": {"member": {"kind": "perceptron"}}}})
    ),
    "growth": Knob(
        (None, {"births": "random", "probation": 1, "learned": 0.0}),
        {
            "model.trunk": {"kind": "population", "members": {"perceptron_1": {"member": {"kind": "perceptron"}}}},
            "train.evaluations": 4,
            "train.restore_best": False,
        },
    ),
    "controller": Knob(
        (None, {"kind": "hypergradient", "every": 3, "step": 1.0}),
        {"train.epochs": 4, "train.restore_best": False},
    ),
    "model.head": Knob((None, {"kind": "classification", "hidden": 8})),
    "optim.algorithm": Knob(({"kind": "adamw"}, {"kind": "sgd"})),
    "optim.lr": Knob((1e-3, 1e-2)),
    "optim.weight_decay": Knob((0.0, 0.5)),
    "optim.schedule": Knob(({"kind": "cosine"}, {"kind": "constant"})),
    "optim.warmup": Knob((0.0, 0.5)),
    "optim.warmup_steps": Knob((None, 4)),
    "optim.clip": Knob((None, 1e-4)),
    "train.epochs": Knob((1, 2)),
    "train.batch_size": Knob((8, 16)),
    # Eight equal micro-batches sum in another order than one batch: the difference is in the last bits.
    "train.accumulation": Knob((1, 8)),
    "train.loss": Knob((None, {"kind": "focal"})),
    "train.ema": Knob((None, 0.9)),
    "train.patience": Knob((None, 1), {"train.epochs": 8, "train.evaluations": 16, "optim.lr": 0.3}),
    "train.evaluations": Knob((1, "every_epoch")),
    "train.balance": Knob((False, True), {"data.rows": 37}),
    "train.train_on_steer": Knob((False, True), {"train.restore_best": False}),
    "train.augment.crop": Knob((0.0, 0.2)),
    "train.augment.flip": Knob((False, True)),
    "train.augment.colour": Knob((0.0, 0.4)),
    "train.augment.erase": Knob((0.0, 0.5)),
    "train.augment.trivial": Knob((False, True)),
    "train.augment.word_dropout": Knob((0.0, 0.3)),
    "train.augment.modality_dropout": Knob((0.0, 0.3)),
    "train.restore_best": Knob((True, False), {"train.epochs": 4, "train.evaluations": 8, "optim.lr": 0.1}),
    "tracking.every_steps": Knob((2, 3), _OFFLINE),
    "tracking.wandb.enabled": Knob((True, False), _OFFLINE),
    "tracking.wandb.project": Knob((None, "memes"), _OFFLINE),
    "tracking.wandb.run_name": Knob((None, "first try"), _OFFLINE),
    "tracking.wandb.entity": Knob((None, "team"), _OFFLINE),
    "tracking.wandb.group": Knob((None, "ablation"), _OFFLINE),
    "tracking.wandb.tags": Knob(((), ("small", "fast")), _OFFLINE),
    "tracking.wandb.mode": Knob(("offline", "disabled"), _OFFLINE),
    "tracking.mlflow.enabled": Knob((True, False), _MLFLOW),
    "tracking.mlflow.uri": Knob(("first.db", "second.db"), _MLFLOW),
    "tracking.mlflow.experiment": Knob((None, "memes"), _MLFLOW),
    "tracking.mlflow.run_name": Knob((None, "first try"), _MLFLOW),
    "tracking.mlflow.tags": Knob(({}, {"size": "small"}), _MLFLOW),
}
"""Every setting that is not read by the drivers alone."""

_LARGE = {"parameters": 1e9, "flops": 1e12, "latency": 1.0}
KNOBS |= {
    "search.reward.metric": Knob((None, "auroc")),
    "search.reward.lowest": Knob((0.0, 0.9)),
    **{f"search.reward.{cost}.weight": Knob((0.0, 0.01)) for cost in _LARGE},
    **{
        f"search.reward.{cost}.free": Knob((value / 10, value), {f"search.reward.{cost}.weight": 0.01})
        for cost, value in _LARGE.items()
    },
}
KNOBS |= {
    "evaluate.checks.required": Knob(((), ("drift_from_select",))),
    "evaluate.checks.predicted": Knob((0.1, 0.9)),
    "evaluate.checks.largest_class": Knob((0.5, 1.0)),
    "evaluate.checks.calibration_error": Knob((0.0, 1.0)),
    "evaluate.checks.duplicates": Knob((0.0, 1.0)),
    "evaluate.checks.drift": Knob((0.0, 1.0)),
}
NOT_TRIED = {
    "model.whole": "needs an installed plugin; tests/model tries one",
    "optim.layer_decay": "is about pretrained encoders; tests/train/test_fine_tuning.py tries it",
    "train.recompute": "changes memory, never results; tests/train/test_recompute.py shows both",
    "train.unfreeze": "is about pretrained encoders; tests/train/test_fine_tuning.py tries it",
    "tracking.mlflow.run": "needs a run that is there; tests/experiment/test_mlflow.py joins one",
    "tracking.mlflow.model": "needs a trained model; tests/experiment/test_mlflow.py keeps one, and none",
}


def settings(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every setting; a component that has kinds counts as one."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel) and "kind" not in kind.model_fields
        if section and f"{prefix}{name}" != "run.budget":
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@functools.cache
def fields_that_are_read() -> frozenset[str]:
    """Return ``section.field`` for every such attribute that some module other than the tree itself reads."""
    found: set[str] = set()
    for file in Path(chiasma.__file__).parent.rglob("*.py"):
        if file.name in ("config.py", "compose.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                found.add(f"{node.value.attr}.{node.attr}")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.add(f"{node.value.id}.{node.attr}")
    return frozenset(found | _read_of_language_model())


def _read_of_language_model() -> set[str]:
    """Return what is read of the section ``llm``, which those that ask a language model call their settings."""
    found: set[str] = set()
    for file in (Path(chiasma.__file__).parent / "search").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner in ("settings", "llm"):
                    found.add(f"llm.{node.attr}")
                elif file.name == "settings.py" and owner == "self":
                    found |= {f"llm.{node.attr}", f"llm.prices.{node.attr}"}
    return found


def rewarded(config: RunConfig) -> float:
    """Return what a large and slow fusion earns."""
    outcome = Scored(objectives={"error": 0.3, **_LARGE}, metrics={"auroc": 0.8})
    return config.search.reward.parts(outcome).reward


def checked(config: RunConfig) -> dict[str, bool | None]:
    """Return which checks pass, and what is required, of predictions of which many are alike."""
    target = Target(task="classification", labels=("no", "yes"))
    p = np.stack([np.full(400, 0.3), np.full(400, 0.7)], axis=1)
    labels = Bootstrap((np.arange(400) % 10 == 0).astype(int), np.arange(400), target)
    calibrator = Calibrator(task="classification")
    found = Predictions(target, 1000, ["yes"] * 400, p, calibrator, inputs=lambda places: list(places), judged=labels)
    rules = config.evaluate.checks
    expected = expect(["no"] * 400, p[:, ::-1], rules=rules, quantities=False)
    checks = check_predictions(found, rules, expected=expected)
    return {f"{check.name} {check.required}": check.passed for check in checks}


class Bench:
    """Small data on which a setting's effect is seen.

    Args:
        folder: Where the data are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, Any] = {}
        _write_data(folder)

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """Return settings over the small data."""
        placed = {path: self._placed(path, value) for path, value in {"data.source": "rows.csv", **values}.items()}
        return load_config(values=placed)

    def observe(self, path: str, values: Mapping[str, Any]) -> Any:
        """Return what shows the effect of one setting; what was observed before is remembered."""
        if path.startswith("search.reward."):
            return rewarded(self.config({**_SMALL, **values}))
        if path.startswith("evaluate.checks."):
            return checked(self.config(values))
        of_data = path.startswith("data.")
        config = self.config(values if of_data else {**_SMALL, **values})
        observe = self.prepared if of_data else self.shown if path.startswith("tracking.") else self.trained
        key = f"{observe.__name__} {config.to_json()}"
        if key not in self._seen:
            self._seen[key] = observe(config)
        return self._seen[key]

    def prepared(self, config: RunConfig) -> Any:
        """Return what the data come out as, or why they cannot be used."""
        try:
            dataset, report = prepare(config.data, seed=0, cache=self.folder / "cache")
        except ChiasmaError as error:
            return str(error)
        rows = dataset.rows("train")
        batch = dataset.batch(rows)
        inputs = {name: _digest(getattr(value, "x", value).numpy()) for name, value in batch.inputs.items()}
        told = report.to_dict()
        for name in ("seconds", "folder", "quarantine_file", "source"):
            told.pop(name)
        return (
            told,
            dataset.signature,
            inputs,
            tuple(batch.ids),
            _digest(dataset.labels(rows).numpy()),
            dataset.sensitive,
        )

    def trained(self, config: RunConfig) -> Any:
        """Return a digest of the weights, and the history."""
        dataset, _ = prepare(config.data, seed=0, cache=self.folder / "cache")
        design = config.design(dataset.signature)
        callbacks = callbacks_of(design, dataset, seed=0)
        fit = Trainer(design, dataset, seed=0, device="cpu", callbacks=callbacks).fit()
        weights = {name: _digest(value.numpy()) for name, value in fit.model.state_dict().items()}
        return weights, [(row["step"], row["train_loss"]) for row in fit.history]

    def shown(self, config: RunConfig) -> Any:
        """Return what a tracker is told of six steps."""
        dataset, _ = prepare(config.data, seed=0, cache=self.folder / "cache")
        root = self.folder / "runs"
        with RunStore.create(root, verb="train", config=config.to_dict(), provenance=provenance([], 0)) as store:
            store.record_events(tracking_facts(config))
            with open_tracking(config, dataset, store=store, console=SilentConsole(), resumed=False) as tracking:
                tracking.start(6, done=0, history=())
                for step in range(1, 7):
                    tracking.advance(StepTaken(step, epoch=step, examples=8, loss=0.5, gradient_norm=1.0, rate=0.1))
                tracking.finish("finished")
            return shown_by_mlflow(self.folder, store.id), [
                (
                    told.project,
                    told.entity,
                    told.name.replace(store.id, "the run"),
                    told.group,
                    told.tags,
                    len(told.rows),
                )
                for told in ended(store.path)
            ]

    def _placed(self, path: str, value: Any) -> Any:
        if path in _FOLDERS and value is not None:
            return str(self.folder / value)
        if path == "data.image_fallbacks":
            return [str(self.folder / name) for name in value]
        if path == "tracking.mlflow.uri":
            return f"sqlite:///{self.folder / value}"
        if path == "data.features":
            return {name: str(self.folder / file) for name, file in value.items()}
        return value


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes() + str(values.shape).encode()).hexdigest()


def _write_data(folder: Path) -> None:
    """Write 60 rows with a picture each, in three tables, and tokens for them."""
    rng = np.random.default_rng(0)
    (folder / "others").mkdir(parents=True)
    (folder / "spare").mkdir()
    Image.fromarray(rng.integers(0, 256, (10, 16, 3), dtype=np.uint8)).save(folder / "spare" / "gone.png")
    words = ["Red", "green", "blue", "yellow", "purple", "orange", "brown"]
    lines = {"rows.csv": ["id,key,img,photo,text,question,label,topic,album,classes"]}
    lines["splits.csv"] = ["id,key,img,photo,text,question,label,topic,album,classes,split,part"]
    lines["large.csv"] = list(lines["rows.csv"])
    picture = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for k in range(60):
        small = rng.integers(0, 256, (10, 16, 3), dtype=np.uint8)
        Image.fromarray(small).save(folder / f"{k}.png")
        Image.fromarray(255 - small).save(folder / "others" / f"{k}.png")
        nearly = np.clip(picture.astype(int) + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        fresh = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        shown = Image.fromarray(nearly if k < 30 else fresh).resize((48, 48), Image.Resampling.BICUBIC)
        shown.save(folder / f"large-{k}.png")
        name = f"{k}.png" if k else "gone.png"
        text = f"{words[k % 7]} {words[(3 * k) % 7]} number {k} of a long and winding caption"
        row = f"i{k},k{k},{name},{59 - k}.png,{text},what {words[k % 5]},{'ab'[k % 2]},{'xyz'[k % 3]},al{k // 3}"
        row += ",a|b" if k % 4 else f",{'ab'[k % 2]}"
        lines["rows.csv"].append(row)
        parts = ("train", "train", "train", "dev", "test")
        shared = row.replace(f"{k}.png,", f"{k // 4}.png,", 1) if k > 40 else row
        lines["splits.csv"].append(f"{shared},{parts[k % 5]},{parts[(k + 2) % 5]}")
        lines["large.csv"].append(row.replace(name, f"large-{k}.png", 1))
    for name, table in lines.items():
        (folder / name).write_text("\n".join(table) + "\n")
    save_tokenizer(folder / "published", BERT_NAMES)
    save_processor(folder / "published", **VIT_PROCESSOR)
    np.savez(
        folder / "tokens.npz", tokens=rng.normal(size=(60, 2, 6)).astype(np.float32), id=[f"i{k}" for k in range(60)]
    )
