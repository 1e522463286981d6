import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.data.text import automatic_length, encode_texts, train_tokenizer

TEXTS = [f"the {colour} {thing} is on the table number {n}" for n, (colour, thing) in enumerate(
    (c, t) for c in ("red", "green", "blue") for t in ("cat", "dog", "lamp"))]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary=200, lowercase=True)


def test_the_special_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.id_to_token(i) for i in range(4)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def test_a_text_starts_with_cls_ends_with_sep_and_is_padded(tokenizer):
    ids, cut = encode_texts(tokenizer, ["the red cat"], length=8)
    assert ids[0, 0] == 2
    assert ids[0, (ids[0] > 0).sum() - 1] == 3
    assert ids[0, -1] == 0
    assert not cut.any()


def test_a_text_that_is_too_long_is_cut_and_keeps_its_end_mark(tokenizer):
    ids, cut = encode_texts(tokenizer, [TEXTS[0]], length=5)
    assert cut.all()
    assert ids[0, -1] == 3
    assert (ids > 0).all()


def test_capitals_and_accents_do_not_matter_in_lower_case(tokenizer):
    ids, _ = encode_texts(tokenizer, ["the red cat", "THE RÉD Cat"], length=8)
    assert (ids[0] == ids[1]).all()


def test_capitals_matter_where_they_are_kept():
    cased = train_tokenizer(["Red red RED"], vocabulary=100, lowercase=False)
    ids, _ = encode_texts(cased, ["red", "Red"], length=8)
    assert (ids[0] != ids[1]).any()


def test_letters_that_were_never_seen_are_unknown(tokenizer):
    ids, _ = encode_texts(tokenizer, ["猫"], length=4)
    assert ids[0].tolist() == [2, 1, 3, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=5))
def test_ids_are_those_of_the_library_for_any_text(tokenizer, texts):
    ids, cut = encode_texts(tokenizer, texts, length=12)
    for row, text in enumerate(texts):
        expected = tokenizer.encode(" ".join(text.split())).ids
        assert cut[row] == (len(expected) > 12) or cut[row] == (len(text.split()) > 10)
        if len(expected) <= 12:
            assert ids[row].tolist() == expected + [0] * (12 - len(expected))


def test_the_automatic_length_ends_at_128(tokenizer):
    assert automatic_length(tokenizer, ["cat " * 500]) == 128
    assert automatic_length(tokenizer, ["cat"] * 10) == 4


def test_the_vocabulary_stays_within_its_limit():
    words = [" ".join(f"w{n * 37 % 997}x{n}" for n in range(k, k + 20)) for k in range(200)]
    assert train_tokenizer(words, vocabulary=150, lowercase=True).get_vocab_size() <= 150


def test_learning_twice_gives_the_same_vocabulary():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdef "), 60)) for _ in range(50)]
    first, second = (train_tokenizer(texts, vocabulary=120, lowercase=True).to_str() for _ in range(2))
    assert first == second
