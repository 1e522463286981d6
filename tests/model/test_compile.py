"""Compiling needs the shape checks off, so these run in a process of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from chiasma.model.components import members
from chiasma.model.multimodal import ModelSpec
from tests.contracts.inputs import batch, signature

torch.set_num_threads(1)
encoders = {"image": {"kind": "IMAGE", "grid": 2}, "text": {"kind": "TEXT"}}
for fusion in ("FUSIONS").split():
    spec = ModelSpec.from_dict({"dim": 8, "encoders": encoders, "fusion": {"kind": fusion}})
    model = spec.build(signature()).eval()
    data = batch(signature(), absent={"image": [1], "text": [2]})
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(data).logits, model(data).logits)
    print(fusion, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "text", "fusions"),
    [
        ("convolution", "ngram", "concat gated multiplicative bilinear late"),
        ("vit", "bert", "film cross_attention alternating early"),
    ],
)
def test_every_fusion_is_traced_as_one_graph(image: str, text: str, fusions: str):
    program = PROGRAM.replace("IMAGE", image).replace("TEXT", text).replace("FUSIONS", fusions)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == fusions.split()
