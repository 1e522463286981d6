"""Our hand-written fusions as trees compute the same with the same weights, also where something is absent."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasma.data.batch import Tokens
from chiasma.model.attention import Mean
from chiasma.model.fusion import (
    Alternating,
    Bilinear,
    Composed,
    Concat,
    CrossAttention,
    Early,
    FiLM,
    Gated,
    Late,
    Multiplicative,
)
from chiasma.model.fusion.composed.known import as_tree, in_dim, known_fusion_as, known_fusions
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.known import KNOWN
from tests.contracts.inputs import DIM, ROWS, tokens

CROSSABLE = [each.graph for each in KNOWN if not each.graph.self_only]
TRANSLATED = [
    Concat(),
    Concat(hidden=DIM),
    Concat(hidden=4 * DIM),
    Gated(),
    Multiplicative(),
    Multiplicative(sums=False, width=DIM),
    Bilinear(),
    Bilinear(rank=2),
    FiLM(depth=1),
    FiLM(depth=3, pool="none"),
    CrossAttention(depth=1),
    CrossAttention(depth=2, direction="image_to_text", pool="none"),
    CrossAttention(depth=2, direction="text_to_image", heads=8, expansion=4),
    CrossAttention(depth=1, pool="none", attention=GraphAttention(graph=CROSSABLE[0])),
    CrossAttention(depth=1, attention=Mean()),
    Early(depth=2),
    Alternating(depth=1),
    Alternating(depth=3),
    Late(),
    Late(method="concat"),
    Late(method="weighted", hidden=2 * DIM),
    Late(method="attention", hidden=DIM),
]
NOT_TRANSLATED = [
    Concat(hidden=DIM + 1),
    Concat(hidden=3 * DIM),
    Multiplicative(width=DIM + 8),
    Bilinear(rank=3),
    CrossAttention(heads=16),
    Early(expansion=3),
    Late(hidden=DIM + 1),
]


def with_noise(module: nn.Module) -> nn.Module:
    """Give every weight a number of its own: what starts at zero or one would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def copied(spec: Any, module: nn.Module, composed: Composed) -> nn.Module:
    """Build the tree with the hand-written module's weights, by the order in which its nodes need them."""
    given = list(_weights(spec, module, first=str(composed.tree.nodes[0].inputs[0])))
    tree = composed.build(DIM)
    wanted = list(tree.named_parameters())
    assert [tuple(value.shape) for _, value in wanted] == [tuple(value.shape) for value in given]
    tree.load_state_dict({name: value for (name, _), value in zip(wanted, given, strict=True)}, strict=True)
    return tree.eval()


def _weights(spec: Any, module: nn.Module, *, first: str) -> list[Tensor]:
    """Return the hand-written weights in the order of the tree's nodes.

    Args:
        spec: The hand-written fusion.
        module: What it built.
        first: The modality that the tree's first node takes: what is added has no order of its own.
    """
    own = dict(module.named_parameters())
    if spec.kind == "film":
        # One map makes all modulations; in the tree each layer has its own.
        maps = own["modulation.weight"].chunk(spec.depth), own["modulation.bias"].chunk(spec.depth)
        order = []
        for layer in range(spec.depth):
            order += [own[f"{part}.{layer}.{kind}"] for part in ("norms", "maps") for kind in ("weight", "bias")]
            order += [maps[0][layer], maps[1][layer]]
        return order
    if spec.kind == "alternating":
        return [value for group in _alternating_groups(spec) for name, value in own.items() if name.startswith(group)]
    if spec.kind == "late":
        # The bias of a score that a softmax follows does nothing, so the tree has none.
        groups = [first, "text" if first == "image" else "image", "mix", "score.weight", "trust"]
        return [value for group in groups for name, value in own.items() if name.startswith(group)]
    return list(own.values())


def _alternating_groups(spec: Alternating) -> list[str]:
    """Return the modules in the order in which the output first needs them."""
    found: list[str] = []

    def need(side: int, before: int) -> None:
        turns = [turn for turn in range(before) if turn % 2 == side]
        turn = turns[-1] if turns else None
        last = ("image.", "text.")[side] if turn is None else f"blocks.{turn}.crossed."
        if last in found:
            return
        if turn is not None:
            need(side, turn)
            found.extend([f"blocks.{turn}.norm.", f"blocks.{turn}.attention."])
            need(1 - side, turn)
        found.append(last)

    need(0, spec.depth)
    need(1, spec.depth)
    return [*found, "norm."]


@pytest.mark.parametrize("spec", TRANSLATED, ids=lambda spec: f"{spec.kind} {spec.content_hash()}")
def test_a_hand_written_fusion_as_a_tree_computes_the_same(spec: Any):
    tree = in_dim(spec, DIM)
    assert tree is not None
    ours = with_noise(spec.build(DIM))
    theirs = copied(spec, ours, tree)
    some = [torch.ones(ROWS, dtype=torch.bool) for _ in range(2)]
    some[0][1] = some[1][2] = some[0][3] = some[1][3] = False
    for image_there, text_there in ((some[0] | True, some[1] | True), some):
        image, text = tokens(6, seed=1).only(image_there), tokens(5, seed=2).only(text_there)
        expected, found = ours(image, text), theirs(image, text)
        either = image_there | text_there
        assert torch.equal(found.mask[either], expected.mask[either])
        kept = expected.mask[either]
        torch.testing.assert_close(found.x[either][kept], expected.x[either][kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", NOT_TRANSLATED, ids=lambda spec: f"{spec.kind} {spec.content_hash()}")
def test_sizes_that_no_operator_has_are_not_translated(spec: Any):
    assert in_dim(spec, DIM) is None
    assert as_tree(spec) is None


def test_cost_is_that_of_the_hand_written_fusion():
    for spec in TRANSLATED:
        tree = in_dim(spec, DIM)
        counts = [sum(p.numel() for p in each.build(DIM).parameters()) for each in (spec, tree)]
        assert counts[0] - counts[1] == (1 if spec == Late(method="attention", hidden=DIM) else 0)


def test_every_known_fusion_has_a_name_and_a_tree_of_its_own():
    found = known_fusions()
    assert len({each.fusion.tree.content_hash() for each in found}) == len(found)
    assert [known_fusion_as(each.fusion) for each in found] == list(found)
    assert known_fusion_as(Composed(tree=as_tree(FiLM(depth=3)).tree)) is None


def test_document_002s_champion_asks_with_the_text_and_normalises_afterwards():
    champion = next(each for each in known_fusions() if each.name == "Gen-7").fusion
    fusion = with_noise(champion.build(DIM))
    image, text = tokens(6, seed=1), tokens(4, seed=2)
    parts = dict(fusion.tree.named_children())
    looks, perceptron = parts["attend_text_image"], next(p for n, p in parts.items() if n.startswith("feed_forward"))
    x = looks.norm(text.x + looks.attention(text, image))
    x = perceptron.after(x + perceptron.perceptron(x))
    torch.testing.assert_close(fusion(image, text).x[:, 0], Tokens(x, text.mask).mean())
    assert looks.attention.heads == 8
    assert perceptron.perceptron[0].out_features == 4 * DIM


@pytest.mark.parametrize(("name", "parameters"), [("concat and a hidden layer", 1_771_008), ("Gen-7", 7_087_872)])
def test_document_002s_fusions_have_its_sizes_at_its_width(name: str, parameters: int):
    fusion = next(each for each in known_fusions() if each.name == name).fusion
    with torch.device("meta"):
        assert sum(p.numel() for p in fusion.build(768).parameters()) == parameters
