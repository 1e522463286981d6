import json

import numpy as np
import pytest

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at, value_at
from chiasma.model.attention import DotProduct
from chiasma.model.encoders import Bert, Pixels, ViT
from chiasma.model.fusion import CrossAttention
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.behaviour import fingerprint
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.kernel import Projections
from chiasma.model.multimodal import ModelSpec
from chiasma.search.archive import SharedArchive
from chiasma.search.attention_space import AttentionSpace, attention_slots
from chiasma.search.nsga2 import BEYOND, NSGA2, Rules, survivors
from chiasma.search.protocols import Candidate, Evaluation
from chiasma.train.design import Design

SLOT = "model.encoders.image.attention"
BASE = Design(model=ModelSpec(encoders={"image": ViT()}))


def search(**rules) -> NSGA2:
    return NSGA2(seed=3, base=BASE, slot=SLOT, rules=Rules(population=6, **rules))


def score(candidate, rung=0, **objectives):
    """Objectives that depend on the design alone, as a deterministic training would give."""
    values = {n: derive_seed(0, candidate.hash, n) / 2**63 for n in ("error", "flops")} | objectives
    return Evaluation(candidate, Scored(objectives=values), rung, 0, 1.0)


def run(proposer, archive, asks):
    found = []
    for _ in range(asks):
        evaluations = [score(candidate) for candidate in proposer.ask(2, archive)]
        for evaluation in evaluations:
            archive.add(evaluation)
        proposer.tell(evaluations)
        found += [(e.candidate.hash, e.candidate.edit, e.candidate.parents) for e in evaluations]
    return found


def test_a_search_that_is_saved_and_continued_breeds_the_same():
    whole = run(search(), SharedArchive(), 12)
    archive, first = SharedArchive(), search()
    before = run(first, archive, 6)
    second = search()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + run(second, archive, 6) == whole


def test_children_come_from_one_parent_or_two():
    found = run(search(), SharedArchive(), 40)
    assert {len(parents) for _, _, parents in found} == {1, 2}
    assert found[0][2] == (BASE.content_hash(),)


def test_only_the_slot_that_is_searched_changes():
    archive = SharedArchive()
    run(search(), archive, 20)
    for standing in archive.standings():
        assert replace_at(standing.candidate.design, SLOT, DotProduct()) == BASE


def test_parents_are_the_front_before_what_is_dominated():
    archive, designs = SharedArchive(), [genome(k) for k in range(4)]
    points = [(0.1, 5.0), (0.5, 1.0), (0.6, 6.0), (0.3, 2.0)]
    for design, (error, flops) in zip(designs, points, strict=True):
        archive.add(score(Candidate("x", None, design), error=error, flops=flops))
    errors = [standing.objectives["error"] for standing in survivors(archive, Rules(population=4))]
    assert set(errors[:3]) == {0.1, 0.5, 0.3}
    assert errors[3] == 0.6


def test_what_climbed_higher_breeds_before_what_was_trained_less():
    archive = SharedArchive()
    archive.add(score(Candidate("x", None, genome(0)), error=0.1, flops=1.0))
    archive.add(score(Candidate("x", None, genome(1)), rung=1, error=0.4, flops=2.0))
    assert [s.objectives["error"] for s in survivors(archive, Rules(population=2))] == [0.4, 0.1]


def test_a_design_beyond_a_limit_is_worse_than_every_one_within():
    archive = SharedArchive()
    archive.add(score(Candidate("x", None, genome(0)), rung=1, error=0.1, flops=9.0))
    archive.add(score(Candidate("x", None, genome(1)), rung=1, error=0.1, flops=5.0))
    archive.add(score(Candidate("x", None, genome(2)), error=0.9, flops=1.0))
    order = survivors(archive, Rules(population=3, limits={"flops": 2.0}))
    assert [s.objectives["flops"] for s in order] == [1.0, 5.0, 9.0]


def test_mechanisms_of_the_literature_are_founders_children_and_mates_unless_that_is_off():
    def edits(known: bool) -> list[str]:
        rules = Rules(population=6, known=known)
        proposers = [NSGA2(seed=seed, base=BASE, slot=SLOT, rules=rules) for seed in range(4)]
        return [edit for proposer in proposers for _, edit, _ in run(proposer, SharedArchive(), 16)]

    described, alone = edits(True), edits(False)
    assert any(edit.startswith("the first design, ") and ("20" in edit) for edit in described)
    assert any(edit.endswith(") instead") for edit in described)
    assert any("the second is" in edit for edit in described)
    assert not any("et al." in edit for edit in alone)


def test_a_mechanism_that_is_written_differently_but_does_the_same_is_not_trained():
    once = AttentionGraph()
    nodes = once.to_dict()["nodes"]
    capped = [nodes[0], {"op": "top_k", "inputs": [0], "constants": {"count": 32}}, {"op": "softmax", "inputs": [1]}]
    other = AttentionGraph.from_dict({"nodes": [*capped, {"op": "weighted_sum", "inputs": [2, "v"]}]})
    sigmoid = [nodes[0], {"op": "sigmoid", "inputs": [0]}, {"op": "weighted_sum", "inputs": [1, "v"]}]
    normed = [*sigmoid, {"op": "layer_norm", "inputs": [2]}, {"op": "layer_norm", "inputs": [3]}]
    prints = {
        fingerprint(GraphAttention(graph=graph))
        for graph in (
            once,
            other,
            AttentionGraph.from_dict({"nodes": sigmoid}),
            AttentionGraph.from_dict({"nodes": normed}),
        )
    }
    assert len(prints) == 4
    turned = [{"op": "rotary", "inputs": ["q"]}, {"op": "rotary", "inputs": ["k"]}, {"op": "cosine", "inputs": [0, 1]}]
    twice = [{"op": "add", "inputs": ["q", "q"]}, {"op": "cosine", "inputs": [0, "k"]}]
    plain = [{"op": "cosine", "inputs": ["q", "k"]}]

    def whole(first):
        end = [{"op": "softmax", "inputs": [len(first) - 1]}, {"op": "weighted_sum", "inputs": [len(first), "v"]}]
        return GraphAttention(graph=AttentionGraph.from_dict({"nodes": [*first, *end]}))

    assert whole(twice) != whole(plain)
    assert fingerprint(whole(twice)) == fingerprint(whole(plain)) != fingerprint(whole(turned))


def test_where_a_learned_temperature_starts_makes_another_mechanism():
    nodes = AttentionGraph().to_dict()["nodes"]

    def started(start: float) -> str:
        warm = {"op": "temperature", "inputs": [0], "constants": {"start": start}}
        ends = [{"op": "softmax", "inputs": [1]}, {"op": "weighted_sum", "inputs": [2, "v"]}]
        return fingerprint(GraphAttention(graph=AttentionGraph.from_dict({"nodes": [nodes[0], warm, *ends]})))

    assert started(0.5) != started(2.0)


def test_the_attention_to_begin_with_is_never_proposed_again():
    proposer, archive = search(), SharedArchive()
    found = [candidate.genome for candidate in proposer.ask(120, archive)]
    assert len(found) > 100
    assert GraphAttention() not in found


def learned(design: Design) -> dict[str, float]:
    """A cost that is known without training: how many projections are learned."""
    return {"flops": 1.0 + len(value_at(design, SLOT).projections.learned)}


def test_where_costs_are_known_lean_children_are_tried_before_others():
    archive = SharedArchive()
    archive.add(score(Candidate("floor", None, BASE), error=0.5, flops=5.0))

    def lean(costs) -> float:
        proposers = [NSGA2(seed=seed, base=BASE, slot=SLOT, costs=costs) for seed in range(8)]
        return float(np.mean([learned(c.design)["flops"] for each in proposers for c in each.ask(4, archive)]))

    assert lean(learned) < lean(None)


def test_what_is_known_to_be_beyond_a_limit_promises_nothing():
    proposer = NSGA2(seed=3, base=BASE, slot=SLOT, costs=learned, rules=Rules(limits={"flops": 3.0}))
    within = proposer._promise({"error": 0.5, "flops": 3.0}, [{"error": 0.5, "flops": 4.0}])
    assert within > 0 > proposer._promise({"error": 0.1, "flops": 4.0}, [{"error": 0.5, "flops": 4.0}])


def test_what_is_known_to_be_beyond_a_limit_is_not_trained():
    def beyond(costs) -> tuple[int, int]:
        limits = Rules(objectives=("error",), limits={"flops": 3.0})
        proposer = NSGA2(seed=3, base=BASE, slot=SLOT, costs=costs, rules=limits)
        found = proposer.ask(40, SharedArchive())
        reasons = sum(count for reason, count in proposer.refused.items() if reason == BEYOND)
        return sum(learned(each.design)["flops"] > 3 for each in found), reasons

    trained, refused = beyond(learned)
    assert trained == 0
    assert refused > 0
    assert beyond(None)[0] > 0


def test_a_search_that_knows_costs_continues_from_its_state_with_what_is_waiting():
    archive = SharedArchive()
    archive.add(score(Candidate("floor", None, BASE), error=0.5, flops=5.0))
    first, second = (NSGA2(seed=3, base=BASE, slot=SLOT, costs=learned) for _ in range(2))
    first.ask(4, archive)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [c.hash for c in first.ask(4, archive)] == [c.hash for c in second.ask(4, archive)]


def test_duplicates_are_counted():
    proposer = search()
    run(proposer, SharedArchive(), 60)
    assert proposer.duplicates > 0
    assert sum(proposer.refused.values()) > 0


def test_without_a_slot_every_place_of_a_good_design_is_edited():
    model = ModelSpec(encoders={"image": ViT(), "text": Bert()}, fusion=CrossAttention())
    assert attention_slots(Design(model=model)) == {
        "model.encoders.image.attention": False,
        "model.encoders.text.attention": False,
        "model.fusion.attention": True,
    }
    archive = SharedArchive()
    for depth in (1, 2):
        archive.add(score(Candidate("local", None, replace_at(Design(model=model), "model.fusion.depth", depth))))
    proposer = NSGA2(seed=0)
    run(proposer, archive, 30)
    edited = {
        slot
        for standing in archive.standings()
        for slot in attention_slots(standing.candidate.design)
        if isinstance(value_at(standing.candidate.design, slot), GraphAttention)
    }
    assert edited == set(attention_slots(Design(model=model)))


def test_an_incumbent_without_attention_costs_no_turn():
    archive = SharedArchive()
    for number in range(12):
        model = ModelSpec(dim=8 * (number + 1), encoders={"image": Pixels()})
        archive.add(score(Candidate("local", None, Design(model=model)), error=0.01 * number))
    archive.add(score(Candidate("local", None, BASE), error=0.5))
    assert len(NSGA2(seed=0).ask(20, archive)) == 20


def test_standard_attention_is_trained_once_whatever_it_is_written_as():
    space = AttentionSpace(SLOT, crossed=False)
    assert space.lower(GraphAttention(), BASE) == BASE
    lean = space.lower(GraphAttention(projections=Projections(q=False)), BASE)
    assert value_at(lean, SLOT) == DotProduct(projections=Projections(q=False))


def test_where_no_design_has_attention_nothing_is_proposed():
    assert NSGA2(seed=0).ask(3, SharedArchive()) == []


def test_rules_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="population must be at least 2"):
        Rules(population=1)


def genome(number: int) -> Design:
    return replace_at(BASE, "model.encoders.image.depth", number + 1)
