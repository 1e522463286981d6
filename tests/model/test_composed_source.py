"""The file that a fusion is printed to runs without Chiasma, and computes what the fusion does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.core.rng import numpy_rng
from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionPlugin, Mean
from chiasma.model.fusion import Composed, CrossAttention
from chiasma.model.fusion.composed import inlining, parts
from chiasma.model.fusion.composed.expression import IMAGE, TEXT, expression, tree_of
from chiasma.model.fusion.composed.known import as_tree, known_fusions
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.fusion.composed.source import source_of
from chiasma.model.graph import parts as attention_parts
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.known import KNOWN
from chiasma.search.fusion_space import FusionSpace
from tests.contracts.compositions import tree_with
from tests.contracts.inputs import DIM, ROWS, tokens

CROSSABLE = [each for each in KNOWN if not each.graph.self_only]


def written(source: str, *widths: int) -> torch.nn.Module:
    scope: dict[str, object] = {"__name__": "discovered"}
    exec(compile(source, "discovered.py", "exec"), scope)
    return scope["FusionModule"](*widths)


def check_alike(fusion: Composed) -> None:
    """Assert that the printed module has the same weights by name, and the same output and mask."""
    torch.manual_seed(0)
    ours = fusion.build(DIM).eval()
    theirs = written(source_of(fusion), DIM, DIM, DIM).eval()
    theirs.load_state_dict(ours.tree.state_dict(), strict=True)
    there = torch.tensor([True, False, True, False, True])
    image, text = tokens(6, seed=1).only(there), tokens(5, seed=2).only(there.flip(0) | ~there)
    expected = ours(image, Tokens(text.x, text.mask & torch.tensor([True, True, False, False, True])[:, None]))
    mask = text.mask & torch.tensor([True, True, False, False, True])[:, None]
    x, shown = theirs.joint(image.x, text.x, image.mask, mask)
    assert torch.equal(x, expected.x)
    assert torch.equal(shown, expected.mask)
    x = theirs(image.x, text.x, image.mask, mask)
    assert torch.equal(x, expected.x[:, 0] if fusion.tree.kinds[-1] == "vector" else expected.x)


@pytest.mark.parametrize("name", OPS)
def test_every_operator_as_a_file_computes_the_same(name: str):
    check_alike(Composed.from_dict({"tree": tree_with(name), "dropout": 0.1}))


@pytest.mark.parametrize("known", CROSSABLE, ids=lambda known: known.name)
def test_every_mechanism_inside_comes_with_what_it_is_made_of(known):
    check_alike(as_tree(CrossAttention(depth=1, attention=GraphAttention(graph=known.graph))))


def test_the_mean_in_place_of_attention_is_printed_too():
    check_alike(as_tree(CrossAttention(depth=1, attention=Mean())))


def test_random_fusions_as_files_compute_the_same():
    space, rng = FusionSpace(), numpy_rng(0, "files")
    population = [space.sample(rng) for _ in range(8)]
    for _ in range(30):
        fusion, _ = space.mutate(population[int(rng.integers(len(population)))], rng)
        population.append(fusion)
        check_alike(fusion)


def test_other_widths_are_projected():
    fusion = next(each for each in known_fusions() if each.name == "Gen-7").fusion
    module = written(source_of(fusion), 10, 6, DIM)
    image, text = tokens(6, dim=10), tokens(5, dim=6)
    assert module(image.x, text.x, image.mask, text.mask).shape == (ROWS, DIM)


def test_a_file_runs_where_there_is_no_chiasma(tmp_path: Path):
    source = source_of(as_tree(CrossAttention(depth=1, attention=GraphAttention(graph=CROSSABLE[0].graph))))
    lines = "x, m = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)\n"
    lines += "print(FusionModule(8, 8, 8)(x, x, m, m).shape)"
    file = tmp_path / "fusion.py"
    file.write_text(f"import sys\nsys.modules['chiasma'] = None\n{source}\n{lines}\n")
    done = subprocess.run([sys.executable, "-I", str(file)], capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([2, 8])\n", done.stderr
    assert "chiasma" not in source


def test_our_two_collections_of_parts_share_no_name():
    ours, theirs = (inlining._definitions(each.__name__) for each in (parts, attention_parts))
    shared = {name for name in ours.keys() & theirs.keys() if not hasattr(ours[name], "module")}
    assert shared == set()


def test_a_plugins_source_is_not_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AttentionPlugin, "resolve", lambda self: Mean())
    fusion = Composed(tree=tree_of(expression("attend", IMAGE, TEXT, attention=AttentionPlugin(name="theirs"))))
    with pytest.raises(ConfigError, match="looks by the plugin 'theirs', whose source is not Chiasma's"):
        source_of(fusion)
