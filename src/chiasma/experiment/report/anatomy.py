"""What is it: the winner's architecture, size and descent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chiasma.experiment.report import wording
from chiasma.experiment.report.rows import Fact, Table
from chiasma.experiment.results import Results
from chiasma.model.encoders.pretrained import Backbone
from chiasma.model.fusion import Composed


def design_words(results: Results) -> str | None:
    """Return the architecture and its training in one or two sentences."""
    model = results.design.get("model") or {}
    encoders = model.get("encoders") or {}
    if not encoders:
        return None
    read = [f"{_a(encoder)} encoder reads the {name}" for name, encoder in sorted(encoders.items())]
    joined = f"; {_a(model['fusion'])} fusion joins them" if model.get("fusion") else ""
    width = f", all {model['dim']} wide" if "dim" in model else ""
    text = f"{_listed(read)}{joined}{width}."
    return " ".join([text[0].upper() + text[1:], *_training_words(results.design.get("training") or {})])


def parts(results: Results) -> Table:
    """Return the winner's parts in the order of the data flow."""
    model = results.design.get("model") or {}
    found = [(f"{name} encoder", encoder) for name, encoder in sorted((model.get("encoders") or {}).items())]
    found += [(role, model[role]) for role in ("fusion", "trunk", "head") if model.get(role)]
    rows = tuple(
        (role, wording.kind_words(part), wording.flat_settings(_named(part)) or wording.NONE) for role, part in found
    )
    return Table("Parts of the winner", ("part", "kind", "settings"), rows)


def size_facts(results: Results) -> list[Fact]:
    """Return what the winner costs."""
    winner = wording.arm_named(results, results.winner)
    if winner is None:
        return []
    known = (
        ("parameters", None if winner.parameters is None else f"{winner.parameters:,}"),
        ("operations an example", None if winner.flops is None else f"{wording.large(winner.flops)}FLOPs"),
        ("latency of one example", None if winner.latency_seconds is None else wording.latency(winner.latency_seconds)),
        ("candidate", None if winner.candidate is None else f"{results.run}#{winner.candidate}"),
    )
    return [Fact(name, value) for name, value in known if value is not None]


def lineage(results: Results) -> Table:
    """Return how the winner came to be, oldest ancestor first."""
    rows = tuple(
        (
            f"#{step.get('candidate', '')}",
            str(step.get("proposer", "")),
            str(step.get("edit") or "the start"),
            wording.score(results, step.get("error")),
        )
        for step in results.lineage
    )
    columns = ("candidate", "proposer", "edit", f"{wording.metric_words(results.metric)} on select")
    return Table("How the winner came to be, oldest first", columns, rows, frozenset(columns[3:]))


def pretty(value: Mapping[str, Any]) -> str:
    """Return indented JSON."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def _training_words(training: Mapping[str, Any]) -> list[str]:
    optim, loop = training.get("optim") or {}, training.get("loop") or {}
    if not optim or not loop:
        return []
    algorithm, schedule = (wording.kind_words(optim.get(name) or {}) for name in ("algorithm", "schedule"))
    return [
        f"It was trained by {algorithm} at a learning rate of {optim['lr']:.2g} ({schedule} schedule) for up to "
        f"{loop['epochs']:g} epochs in batches of {loop['batch_size']}."
    ]


def _a(part: Mapping[str, Any]) -> str:
    kind = wording.kind_words(part)
    return f"{'an' if kind[0] in 'aeiou' or kind == 'n-gram' else 'a'} {kind}"


def _named(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part's settings: of a pretrained backbone what it is called, of a composed fusion its formula."""
    if part.get("kind") == "composed":
        fusion = Composed.from_dict(part)
        return {"kind": "composed", "tree": fusion.words, "dropout": fusion.dropout}
    backbone = part.get("backbone")
    if not backbone:
        return part
    return {**part, "backbone": Backbone.from_dict(backbone).words}


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def flow(results: Results) -> list[list[tuple[str, str]]]:
    """Return the stages of the data flow, each with its parts as role and kind."""
    found = [(str(row[0]), str(row[1])) for row in parts(results).rows]
    encoders = [part for part in found if part[0].endswith(" encoder")]
    return [stage for stage in (encoders, *([part] for part in found if part not in encoders)) if stage]
