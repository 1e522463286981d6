"""Anchors and decoded boxes against plainly written loops."""

import math

import numpy as np
import pytest
import torch

from chiasma.model.encoders.extractors.anchors import (
    LARGEST_STEP,
    centred_anchors,
    decoded,
    everywhere,
    inside,
    pixel_anchors,
)

# From the comment in the code that published them: base 16, ratios .5 1 2, scales 8 16 32, corners from 1.
FIRST_FASTER_RCNN = """
-83 -39 100 56  -175 -87 192 104  -359 -183 376 200
-55 -55 72 72  -119 -119 136 136  -247 -247 264 264
-35 -79 52 96  -79 -167 96 184  -167 -343 184 360
"""


def test_the_first_anchors_are_those_that_were_published():
    published = torch.tensor([float(word) for word in FIRST_FASTER_RCNN.split()]).reshape(9, 4) - 1
    assert torch.equal(pixel_anchors(16, (0.5, 1, 2), (8, 16, 32)), published)


def test_anchors_around_the_origin_have_the_area_and_ratio_that_are_asked_for():
    for box, ratio in zip(centred_anchors(64, (0.5, 1.0, 2.0)).tolist(), (0.5, 1, 2), strict=True):
        width, height = 64 / math.sqrt(ratio), 64 * math.sqrt(ratio)
        assert box == [round(-width / 2), round(-height / 2), round(width / 2), round(height / 2)]


def test_anchors_stand_at_every_cell_row_by_row():
    first = torch.tensor([[-1.0, -2, 1, 2], [-3, -1, 3, 1]])
    found = everywhere(first, rows=2, columns=3, stride=(10, 20)).tolist()
    expected = [
        [x1 + 20 * column, y1 + 10 * row, x2 + 20 * column, y2 + 10 * row]
        for row in range(2)
        for column in range(3)
        for x1, y1, x2, y2 in first.tolist()
    ]
    assert found == expected


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_boxes_are_moved_and_stretched_as_the_paper_says(border):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (6, 2))], 1)
    deltas = rng.normal(size=(6, 4))
    deltas[0, 2] = 1000.0
    weights = (10, 10, 5, 5)
    found = decoded(
        torch.tensor(boxes), torch.tensor(deltas), weights=weights, border=border, limit=LARGEST_STEP
    ).numpy()
    for (x1, y1, x2, y2), delta, got in zip(boxes, deltas, found, strict=True):
        width, height = x2 - x1 + border, y2 - y1 + border
        x = x1 + width / 2 + delta[0] / 10 * width
        y = y1 + height / 2 + delta[1] / 10 * height
        new_width = width * math.exp(min(delta[2] / 5, math.log(1000 / 16)))
        new_height = height * math.exp(min(delta[3] / 5, math.log(1000 / 16)))
        expected = [x - new_width / 2, y - new_height / 2, x + new_width / 2, y + new_height / 2]
        assert np.allclose(got, expected, rtol=1e-5)


def test_boxes_are_cut_at_the_edges():
    assert inside(torch.tensor([[-3.0, 2, 99, 50]]), height=20, width=30).tolist() == [[0, 2, 30, 20]]
