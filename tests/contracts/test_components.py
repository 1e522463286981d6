"""Every member of every union keeps its contract; a new member is tested the moment it joins."""

from pathlib import Path
from typing import Any

import pytest

from chiasma.core.spec import Spec
from chiasma.model.components import members
from chiasma.model.encoders import Pretrained
from chiasma.model.fusion import Composed, Generated
from chiasma.model.fusion.composed.ops import OPS as FUSION_OPS
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.ops import OPS
from tests.contracts.attentions import AttentionContract
from tests.contracts.compositions import tree_with
from tests.contracts.encoders import EncoderContract
from tests.contracts.fusions import FusionContract
from tests.contracts.graphs import SPARSE, graph_with
from tests.contracts.heads import HeadContract
from tests.contracts.members import MemberContract

SOURCES = {
    path.stem: path.read_text() for path in sorted(Path(__file__).parents[1].glob("assets/security/honest_0[14]*.py"))
}
# Their own tests give these what they need.
WITHOUT_DEFAULTS = (Pretrained, Generated)
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "convolution": [
        {"pool": "mean"},
        {"pool": "max", "positions": True},
        {"pool": "flatten", "residuals": 1},
        {"widths": [6], "grid": 2},
    ],
    "vit": [{"pool": "cls", "stem": "convolution"}, {"pool": "both", "depth": 1}, {"pool": "mean", "grid": 4}],
    "bert": [{"pool": "cls"}, {"pool": "mean"}],
    "ngram": [{"weighting": "count"}, {"weighting": "sqrt", "orders": 3}, {"weighting": "binary"}],
    "features": [{"norm": False}, {"hidden": 8, "positions": True, "dropout": 0.1}, {"pool": "mean", "dropout": 0.1}],
    "regions": [{"cells": {"widths": [8], "grid": 4}}, {"boxes": "none", "whole": "first"}],
    "words": [{"positions": 9, "segments": 2}],
    "vilbert": [
        {"text_joins": [1, 2], "image_joins": [0, 1], "combine": "sum", "dropout": 0.0},
        {"image_pool": "mean", "image": {"heads": 2, "expansion": 1}},
    ],
    "concat": [{"hidden": 8}],
    "multiplicative": [{"sums": False, "width": 24}],
    "cross_attention": [
        {"direction": "image_to_text"},
        {"direction": "text_to_image", "depth": 1},
        {"pool": "none"},
        {"direction": "image_to_text", "pool": "none"},
    ],
    "generated": [{"source": source} for source in SOURCES.values()],
    "film": [{"depth": 1}, {"pool": "none"}],
    "alternating": [{"depth": 1}, {"depth": 3}],
    "late": [{"method": "concat"}, {"method": "weighted"}, {"method": "attention"}, {"method": "add", "hidden": 8}],
    "composed": [{"tree": tree_with(name), "dropout": 0.1} for name in FUSION_OPS],
    "residual_convolution": [{"depth": 2}],
    "classification": [{"hidden": 8, "dropout": 0.2}],
    "multitask": [{"hidden": 8, "weighting": "equal"}],
    "dot_product": [{"projections": {"q": False, "v": False}}],
    "graph": [{"graph": {"nodes": graph_with(name)}} for name in OPS],
}


def specs(part: str) -> list[Spec]:
    """Return each member of a union with its defaults, and then in the variants that are listed.

    A pretrained encoder has no defaults: tests/model/test_pretrained.py keeps it to the contract.
    """
    return [
        member.from_dict(settings)
        for member in members(part)
        for settings in (
            *(() if member in WITHOUT_DEFAULTS else ({},)),
            *VARIANTS.get(member.model_fields["kind"].default, []),
        )
    ]


def named(spec: Spec) -> str:
    graph = spec.graph if isinstance(spec, GraphAttention) else spec.tree if isinstance(spec, Composed) else None
    nodes = () if graph is None else graph.nodes
    return "-".join([type(spec).__name__, *(node.op for node in nodes)])


@pytest.mark.parametrize("spec", specs("encoder"), ids=named)
class TestEncoders(EncoderContract):
    def knobs(self, spec):
        # The mean of tokens has no places: the two are refused together.
        refused = {"positions": "pool", "pool": "positions"} if spec.kind == "features" else {}
        if spec.kind == "regions":
            # Of pictures, the ends of what is seen are known; tests/model/test_vilbert.py tries ready-made tokens.
            return ["cells", "dropout"]
        if spec.kind == "words":
            # Fewer places than a text has are refused before anything is built.
            return ["segments", "dropout"]
        return [name for name in super().knobs(spec) if getattr(spec, refused.get(name, ""), False) in (False, "none")]


@pytest.mark.parametrize("spec", specs("fusion"), ids=named)
class TestFusions(FusionContract):
    @pytest.fixture(autouse=True)
    def _approved(self, spec):
        if isinstance(spec, Generated):
            approve_in_this_process(spec.sha256)
        yield
        if isinstance(spec, Generated):
            withdraw_approval(spec.sha256)

    def knobs(self, spec):
        if isinstance(spec, Generated):
            return []
        if spec.kind == "vilbert":
            # Streams are as wide as the contract's tokens here, and weights need files: tests/model has both.
            return [n for n in super().knobs(spec) if n not in ("text", "image", "weights", "fresh_image")]
        # What a tree may say is tried operator by operator; dropout is 0 in a tree that has nowhere to drop.
        return ["dropout"] * spec.drops if isinstance(spec, Composed) else super().knobs(spec)


@pytest.mark.parametrize("spec", specs("attention"), ids=named)
class TestAttentions(AttentionContract):
    def knobs(self, spec):
        return [name for name in super().knobs(spec) if name != "graph"]

    def projected(self, spec):
        return ["v", "o"] if spec.kind == "mean" else super().projected(spec)

    def chooses_keys(self, spec):
        return spec.kind == "graph" and any(node.op in SPARSE for node in spec.graph.nodes)


@pytest.mark.parametrize("spec", specs("member"), ids=named)
class TestMembers(MemberContract):
    pass


@pytest.mark.parametrize("spec", specs("head"), ids=named)
class TestHeads(HeadContract):
    pass
