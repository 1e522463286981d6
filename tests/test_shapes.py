"""Shapes that are written in types are checked while testing."""

import pytest
import torch
from jaxtyping import TypeCheckError

from chiasma.data.batch import Tokens
from chiasma.model.attention import DotProduct


def test_tokens_whose_mask_is_of_another_shape_are_refused():
    with pytest.raises(TypeCheckError, match="mask"):
        Tokens(torch.zeros(2, 3, 4), torch.ones(2, 5, dtype=torch.bool))


def test_values_that_keys_do_not_match_are_refused():
    kernel = DotProduct().build(4)
    q, k, v = (torch.zeros(1, 2, length, 4) for length in (3, 5, 6))
    with pytest.raises(TypeCheckError):
        kernel(q, k, v, torch.ones(1, 1, 1, 5, dtype=torch.bool))
