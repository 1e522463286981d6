"""The head that writes: causal while it is taught, greedy or with beams when it writes."""

import itertools

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.core.rng import seed_torch
from chiasma.data.batch import TokenBatch
from chiasma.model.cost import cost
from chiasma.model.generation import BEGIN, END, PADDING, Decoding, Generation, GenerationHead
from chiasma.model.memory import pass_memory
from chiasma.model.multimodal import ModelSpec
from tests.contracts.heads import RIGHT, both
from tests.contracts.inputs import DIM, ROWS, signature, target_of, tokens

NOTHING = TokenBatch({}, ())
SIGNATURE = signature("generation")
MODEL = {"dim": 16, "encoders": {"image": {"kind": "pixels"}}, "head": {"kind": "generation", "depth": 1}}


@pytest.fixture
def head() -> GenerationHead:
    seed_torch(1)
    head = Generation(depth=1).build(DIM, target_of("generation")).eval().requires_grad_(False)
    assert isinstance(head, GenerationHead)
    head.scores.weight.mul_(4)
    return head


def log_p(head: GenerationHead, ids: list[int], row: int) -> float:
    """Return the mean log-probability of a text's ids after the first, padding and a second begin being impossible."""
    given = torch.tensor(ids)[None]
    scores = head(tokens(4).only(torch.arange(ROWS) == row), NOTHING, given.repeat(ROWS, 1)).logits[row]
    scores[:, [PADDING, BEGIN]] = -torch.inf
    each = scores.log_softmax(-1)[torch.arange(len(ids) - 1), given[0, 1:]]
    return float(each.mean())


def written(head: GenerationHead, *, beams: int, longest: int | None = None) -> list[list[int]]:
    head.decoding = Decoding(beams=beams, longest=longest)
    ids = head(tokens(4), NOTHING).logits
    assert ids.shape == (ROWS, 6)
    return [[int(each) for each in row if each != PADDING] for row in ids]


def test_no_score_depends_on_what_comes_later(head):
    changed = RIGHT.clone()
    changed[:, 3:] = 8
    first, second = (head(both()[0], NOTHING, ids).logits for ids in (RIGHT, changed))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])


def test_greedy_takes_the_likeliest_piece_each_time(head):
    for row, ids in enumerate(written(head, beams=1)):
        for place in range(1, len(ids)):
            others = [each for each in range(9) if each not in (PADDING, BEGIN)]
            best = max(others, key=lambda each: log_p(head, [*ids[:place], each], row) * place)
            assert ids[place] == best
        assert ids[-1] == END or len(ids) == 6


def test_enough_beams_find_the_likeliest_of_all_texts(head):
    pieces = [each for each in range(9) if each not in (PADDING, BEGIN, END)]
    texts = [
        [BEGIN, *middle, END] if len(middle) < 2 else [BEGIN, *middle, last]
        for size in (0, 1, 2)
        for middle in itertools.product(pieces, repeat=size)
        for last in ([END] if size < 2 else [END, *pieces])
    ]
    found = written(head, beams=60, longest=4)
    greedy = written(head, beams=1, longest=4)
    for row in range(1):
        best = max(texts, key=lambda ids: log_p(head, ids, row))
        assert found[row] == best
        assert log_p(head, found[row], row) >= log_p(head, greedy[row], row)


def test_no_text_is_longer_than_asked(head):
    assert all(len(ids) <= 3 for ids in written(head, beams=2, longest=3))


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"dim must be divisible by head\.heads, but dim=16 and heads=3"):
        ModelSpec.from_dict({**MODEL, "head": {"kind": "generation", "heads": 3}})


def test_what_writing_costs_and_takes_is_of_one_whole_text():
    one, two = (ModelSpec.from_dict({**MODEL, "head": {"kind": "generation", "depth": depth}}) for depth in (1, 2))
    assert cost(two, SIGNATURE).flops > cost(one, SIGNATURE).flops
    assert cost(one, SIGNATURE).uncounted == ()
    assert pass_memory(two, SIGNATURE, rows=4).most > pass_memory(one, SIGNATURE, rows=4).most
