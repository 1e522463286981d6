"""One small graph for each operator, so that every operator keeps the contract of attention."""

from typing import Any

from chiasma.model.graph.ops import OPS

SPARSE = {"sparsemax", "entmax", "relu_squared", "top_k"}
SCORE = {"op": "dot", "inputs": ["q", "k"]}
LAST = {"op": "weighted_sum", "inputs": [3, "v"]}
SUM = {"op": "weighted_sum", "inputs": [1, "v"]}


def graph_with(name: str) -> list[dict[str, Any]]:
    """Return the nodes of a graph that uses an operator and works where one sequence looks at another."""
    op = OPS[name]
    if name == "weighted_sum":
        return [SCORE, {"op": "softmax", "inputs": [0]}, SUM]
    if name == "linear_sum":
        return [{"op": name, "inputs": ["q", "k", "v"]}]
    if name == "relative_bias":
        return [SCORE, {"op": name}, {"op": "add_scores", "inputs": [0, 1]}, {"op": "softmax", "inputs": [2]}, LAST]
    if op.output == "weight":
        return [SCORE, {"op": name, "inputs": [0]}, SUM]
    if op.output == "score":
        first = [] if not op.inputs or op.inputs[0] != "score" else [SCORE, {"op": "cosine", "inputs": ["q", "k"]}]
        inputs = list(range(len(op.inputs))) if first else ["q", "k"][: len(op.inputs)]
        weight = len(first) + 1
        return [
            *first,
            {"op": name, "inputs": inputs},
            {"op": "softmax", "inputs": [len(first)]},
            {"op": "weighted_sum", "inputs": [weight, "v"]},
        ]
    values = {"op": name, "inputs": ["v"] if len(op.inputs) == 1 else ["v", "k"]}
    asking = {"op": name, "inputs": [4] if len(op.inputs) == 1 else [4, "q"]}
    return [
        SCORE,
        {"op": "softmax", "inputs": [0]},
        values,
        {"op": "layer_norm", "inputs": [2]},
        {"op": "weighted_sum", "inputs": [1, 3]},
        asking,
    ]
