"""Faster R-CNN on Visual Genome against the published steps, written out plainly one box at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d

from chiasma.model.encoders.extractors.visual_genome import RegionDetector, Shape
from tests.published_detectors import genome_state

SIZE = (70, 90)


def norm(state, name, x):
    parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return batch_norm(x, *parts, training=False, eps=1e-5)


def block(state, name, x, stride):
    """One bottleneck of Caffe's ResNet, which halves the map in its first convolution."""
    y = norm(state, f"{name}.bn1", conv2d(x, state[f"{name}.conv1.weight"], stride=stride)).relu()
    y = norm(state, f"{name}.bn2", conv2d(y, state[f"{name}.conv2.weight"], padding=1)).relu()
    y = norm(state, f"{name}.bn3", conv2d(y, state[f"{name}.conv3.weight"]))
    past = conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
    return (y + norm(state, f"{name}.downsample.1", past)).relu()


def base(state, images):
    x = conv2d(images, state["RCNN_base.0.weight"], stride=2, padding=3)
    x = max_pool2d(norm(state, "RCNN_base.1", x).relu(), 3, stride=2, padding=0, ceil_mode=True)
    for stage, stride in ((4, 1), (5, 2), (6, 2)):
        x = block(state, f"RCNN_base.{stage}.0", x, stride)
    return x


def moved(box, delta):
    """Corners are pixels: a box from 0 to 9 is ten wide."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 1, y2 - y1 + 1
    x, y = x1 + 0.5 * width + delta[0] * width, y1 + 0.5 * height + delta[1] * height
    width, height = math.exp(delta[2]) * width, math.exp(delta[3]) * height
    low = [x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height]
    limits = (SIZE[1] - 1, SIZE[0] - 1) * 2
    return [min(max(value, 0.0), limit) for value, limit in zip(low, limits, strict=True)]


def overlap(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def proposed(state, seen):
    """Return boxes and scores of all anchors, the best first, without those that a better one covers."""
    hidden = conv2d(seen, state["RCNN_rpn.RPN_Conv.weight"], state["RCNN_rpn.RPN_Conv.bias"], padding=1).relu()
    scores, deltas = (
        conv2d(hidden, state[f"RCNN_rpn.{name}.weight"], state[f"RCNN_rpn.{name}.bias"])[0].double().numpy()
        for name in ("RPN_cls_score", "RPN_bbox_pred")
    )
    found = []
    for row in range(seen.shape[2]):
        for column in range(seen.shape[3]):
            for number in range(12):
                ratio, scale = (0.5, 1, 2)[number // 4], (4, 8, 16, 32)[number % 4]
                width = round(math.sqrt(256 / ratio))
                height = round(width * ratio)
                x, y = 16 * column + 7.5, 16 * row + 7.5
                half = (width * scale - 1) / 2, (height * scale - 1) / 2
                anchor = [x - half[0], y - half[1], x + half[0], y + half[1]]
                background, object = np.exp([scores[number, row, column], scores[number + 12, row, column]])
                box = moved(anchor, deltas[4 * number : 4 * number + 4, row, column])
                found.append((object / (background + object), box))
    kept = []
    for _, box in sorted(found, key=lambda each: -each[0]):
        if all(overlap(box, other) <= 0.7 for other in kept):
            kept.append(box)
    return kept[:300]


@pytest.fixture(scope="module")
def both():
    """Return the network's map, its proposals, and what it says of them; and the weights."""
    state = genome_state()
    network = RegionDetector(Shape(depths=(1, 1, 1, 1), width=4, hidden=8, classes=7)).eval()
    network.load_state_dict(state)
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 50
    with torch.inference_mode():
        seen = network.RCNN_base(images)
        return state, images, seen, network._regions(seen, [SIZE])[0], network.propose(images, [SIZE])[0]


def test_the_map_is_that_of_caffes_resnet(both):
    state, images, seen, _, _ = both
    expected = base(state, images)
    assert seen.shape == expected.shape == (1, 64, 5, 6)
    assert torch.allclose(seen, expected, rtol=1e-4, atol=1e-4)


def test_proposals_are_the_anchors_that_are_moved_and_not_covered(both):
    state, _, seen, regions, _ = both
    expected = torch.tensor(proposed(state, seen))
    assert len(regions) == len(expected) > 20
    assert (regions - expected).abs().max() < 1e-2


def test_a_regions_class_and_box_come_from_what_its_last_stage_sees(both):
    from chiasma.model.encoders.extractors.box_ops import roi_align

    state, _, seen, regions, said = both
    rois = torch.cat([torch.zeros(len(regions), 1), regions], 1)
    pooled = roi_align(seen, rois, size=7, scale=1 / 16)
    features = block(state, "RCNN_top.0.0", pooled, 2).mean((2, 3))
    assert torch.allclose(said.features, features, rtol=1e-4, atol=1e-4)
    scores = linear(features, state["RCNN_cls_score.weight"], state["RCNN_cls_score.bias"]).softmax(-1)
    assert torch.allclose(said.scores, scores[:, 1:], atol=1e-4)
    deltas = linear(features, state["RCNN_bbox_pred.weight"], state["RCNN_bbox_pred.bias"]).reshape(-1, 7, 4)
    deviations = (0.1, 0.1, 0.2, 0.2)
    for region in range(5):
        for kind in range(1, 7):
            steps = [float(d) * s for d, s in zip(deltas[region, kind], deviations, strict=True)]
            expected = moved(regions[region].tolist(), steps)
            assert said.boxes[region, kind - 1].tolist() == pytest.approx(expected, abs=1e-2)
