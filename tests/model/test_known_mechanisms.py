import pytest

from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.behaviour import fingerprint
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.known import KNOWN
from chiasma.model.kernel import Projections
from chiasma.search.attention_space import AttentionSpace


def named(name: str) -> AttentionGraph:
    return next(each.graph for each in KNOWN if each.name == name)


def test_no_two_of_them_do_the_same_and_none_is_the_standard():
    found = [fingerprint(GraphAttention(graph=each.graph)) for each in KNOWN]
    assert len({*found, fingerprint(GraphAttention())}) == len(KNOWN) + 1


def test_a_mechanism_that_the_literature_knows_says_so():
    found = GraphAttention(graph=named("locally enhanced values"))
    assert found.known == "locally enhanced values (Dong et al. 2022)"


@pytest.mark.parametrize(
    "changed",
    [
        GraphAttention(graph=named("locally enhanced values"), projections=Projections(v=False)),
        GraphAttention.from_dict(
            {"graph": {"nodes": [{"op": "linear_sum", "inputs": ["q", "k", "v"], "constants": {"feature": "relu"}}]}}
        ),
    ],
)
def test_other_projections_and_constants_make_a_variant(changed):
    assert changed.known.startswith("a variant of l")


def test_standard_attention_is_known_and_what_nobody_described_is_not():
    nodes = [{"op": "dot", "inputs": ["v", "k"]}, {"op": "sigmoid", "inputs": [0]}]
    nodes += [{"op": "weighted_sum", "inputs": [1, "q"]}]
    assert GraphAttention().known == "standard attention (Vaswani et al. 2017)"
    assert GraphAttention(projections=Projections(v=False)).known.startswith("a variant of standard attention")
    assert GraphAttention.from_dict({"graph": {"nodes": nodes}}).known == ""


def test_a_crossed_slot_is_offered_only_what_can_stand_there():
    crossed, alone = (AttentionSpace("slot", crossed=crossed).known for crossed in (True, False))
    assert len(alone) == len(KNOWN)
    assert "locally enhanced values" not in [each.name for each in crossed]
    assert "sigmoid attention" in [each.name for each in crossed]
