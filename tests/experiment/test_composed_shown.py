"""What a user is shown of a composed fusion: formula, drawing, source; and the presets that spell one out."""

import xml.etree.ElementTree as ET

import pytest

from chiasma.cli.mechanism_view import print_fusion
from chiasma.experiment.compose import load_config
from chiasma.experiment.design_words import describe_spec
from chiasma.experiment.report import wording
from chiasma.experiment.report.anatomy import _named
from chiasma.experiment.report.drawing import FILLS, draw
from chiasma.experiment.runs import searched_fusion
from chiasma.model.fusion import Composed, Gated
from chiasma.model.fusion.composed.known import document_002_baseline, document_002_champion
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design

ENCODERS = {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}}


@pytest.mark.parametrize(
    ("preset", "fusion"),
    [("auto_fusion_concat", document_002_baseline()), ("auto_fusion_champion", document_002_champion())],
)
def test_document_002s_fusions_are_presets(preset, fusion):
    config = load_config(preset)
    assert config.model.fusion == fusion
    assert (config.optim.lr, config.optim.weight_decay, config.train.epochs, config.run.seed) == (3e-4, 1e-4, 20, 42)


@pytest.mark.parametrize(("graph", "inputs"), [(document_002_champion().tree, 2), (AttentionGraph(), 3)])
def test_any_kind_of_graph_is_drawn_with_a_box_for_each_input_and_operator(graph, inputs):
    picture = ET.fromstring(str(draw(graph)))
    boxes = [each for each in picture if each.tag.endswith("rect")]
    assert len(boxes) == len(graph.nodes) + inputs
    assert {box.get("fill") for box in boxes} <= set(FILLS.values())
    assert len([each for each in picture if each.tag.endswith("path")]) == sum(len(n.inputs) for n in graph.nodes)


def test_a_drawing_names_what_is_unusual_and_has_the_formula_below():
    drawing = str(draw(document_002_champion().tree))
    assert ">attend 8 post<" in drawing
    assert document_002_champion().words in drawing


def test_a_fusion_in_words_is_its_formula():
    champion = document_002_champion()
    assert describe_spec(champion) == f"composed(tree={champion.words}, dropout=0.1)"
    shown = wording.flat_settings(_named(champion.to_dict()))
    assert shown == f"dropout 0.1, tree {champion.words}"


def test_a_design_says_whether_its_fusion_is_one_that_a_search_makes():
    models = [{"encoders": ENCODERS, "fusion": each.to_dict()} for each in (Composed(), Gated())]
    designs = [Design(model=ModelSpec.from_dict(model)) for model in models]
    assert [searched_fusion(each.to_dict()) for each in designs] == [Composed(), None]


def test_a_fusion_is_printed_with_its_name_its_tree_and_its_source(capsys):
    print_fusion(document_002_champion())
    shown = capsys.readouterr().out
    assert "known as: Gen-7 (document 002's champion)" in shown
    assert "x0 attend(heads=8, norm=post" in shown
    assert "class FusionModule(nn.Module):" in shown
