"""Our operators are torchvision's: outputs that the real ones left are in a file beside the third-party data."""

import numpy as np
import pytest
import torch

from chiasma.model.encoders.extractors import box_ops
from chiasma.model.encoders.extractors.box_ops import non_maximum, non_maximum_by_class, roi_align, roi_pool

SCALE, SIZE = 1 / 16, 7


@pytest.fixture(autouse=True)
def _in_plain_torch(monkeypatch):
    """Look at ours also where torchvision is there."""
    monkeypatch.setattr(box_ops, "torchvision_ops", lambda: None)


@pytest.fixture(scope="module")
def golden(third_party):
    path = third_party(".").parent / "golden" / "torchvision_ops.npz"
    if not path.is_file():
        pytest.skip(f"There is no {path.name} in a folder golden beside CHIASMA_TEST_DATA.")
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_keeps_what_torchvision_keeps(golden, threshold):
    boxes, scores, classes = (golden[name] for name in ("boxes", "scores", "classes"))
    assert torch.equal(non_maximum(boxes, scores, threshold), golden[f"nms_{threshold}"])
    by_class = non_maximum_by_class(boxes, scores, classes, threshold)
    assert torch.equal(by_class, golden[f"batched_nms_{threshold}"])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [-1, 0, 2])
def test_aligned_regions_are_those_of_torchvision(golden, aligned, samples):
    ours = roi_align(golden["feature"], golden["rois"], size=SIZE, scale=SCALE, samples=samples, aligned=aligned)
    theirs = golden[f"roi_align_aligned{int(aligned)}_ratio{samples}"]
    assert (ours - theirs).abs().max() < 1e-4


def test_pooled_regions_are_those_of_torchvision(golden):
    ours = roi_pool(golden["feature"], golden["rois"], size=SIZE, scale=SCALE)
    assert (ours - golden["roi_pool"]).abs().max() < 1e-4


def test_suppression_stops_where_enough_are_found():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 6, 6], [8, 8, 9, 9]])
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert non_maximum(boxes, scores, 0.5).tolist() == [1, 3, 2]
    assert non_maximum(boxes, scores, 0.5, most=2).tolist() == [1, 3]
    assert non_maximum(boxes[:0], scores[:0], 0.5).tolist() == []


def test_a_region_outside_the_map_is_zeros():
    rois = torch.tensor([[0.0, 900, 900, 990, 990]])
    for pooled in (
        roi_align(torch.ones(1, 2, 4, 4), rois, size=3, scale=SCALE),
        roi_pool(torch.ones(1, 2, 4, 4), rois, size=3, scale=SCALE),
    ):
        assert not pooled.any()
