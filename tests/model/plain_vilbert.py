"""ViLBERT written down plainly, from the paper and the behaviour of its published code: what ours is compared with.

Nothing here is a module, nothing comes from the package: a dictionary of weights under the published names, loops over
heads, and a softmax over what a mask leaves.
"""

import math
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def vilbert(
    state: State, config: dict[str, Any], *, ids: Tensor, regions: Tensor, boxes: Tensor, **masks: Tensor
) -> Any:
    """Return words, regions and both pooled vectors (before their activation).

    Args:
        state: Weights under the published names.
        config: The published configuration.
        ids: ``B L``, the tokenizer's own.
        regions: ``B N F``, that of the whole image first.
        boxes: ``B N 5``.
        masks: ``text`` and ``image``: what counts.
    """
    read, seen = masks["text"], masks["image"]
    table = state["bert.embeddings.word_embeddings.weight"]
    words = table[ids] + state["bert.embeddings.position_embeddings.weight"][: ids.shape[1]]
    words = words + state["bert.embeddings.token_type_embeddings.weight"][0]
    words = norm(state, "bert.embeddings.LayerNorm", words)
    places = linear(state, "bert.v_embeddings.image_embeddings", regions)
    places = places + linear(state, "bert.v_embeddings.image_location_embeddings", boxes)
    places = norm(state, "bert.v_embeddings.LayerNorm", places)
    done = {"text": 0, "image": 0}
    joins = list(zip(config["t_biattention_id"], config["v_biattention_id"], strict=True))
    for number, (text_join, image_join) in enumerate([*joins, (None, None)]):
        text_end = config["num_hidden_layers"] if text_join is None else text_join
        image_end = config["v_num_hidden_layers"] if image_join is None else image_join
        for place in range(done["text"], text_end):
            words = layer(state, f"bert.encoder.layer.{place}", words, read, config["num_attention_heads"])
        for place in range(done["image"], image_end):
            places = layer(state, f"bert.encoder.v_layer.{place}", places, seen, config["v_num_attention_heads"])
        if text_join is not None:
            heads = config["bi_num_attention_heads"]
            places, words = connection(state, f"bert.encoder.c_layer.{number}", places, seen, words, read, heads)
        done = {"text": text_end, "image": image_end}
    pooled = linear(state, "bert.t_pooler.dense", words[:, 0]), linear(state, "bert.v_pooler.dense", places[:, 0])
    return words, places, *pooled


def layer(state: State, path: str, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return what one layer of BERT makes of a sequence."""
    parts = [linear(state, f"{path}.attention.self.{part}", x) for part in ("query", "key", "value")]
    mixed = linear(state, f"{path}.attention.output.dense", attend(*parts, mask, heads))
    x = norm(state, f"{path}.attention.output.LayerNorm", x + mixed)
    return feed_forward(state, f"{path}.intermediate.dense", f"{path}.output", x)


def connection(
    state: State, path: str, places: Tensor, seen: Tensor, words: Tensor, read: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Return regions that have looked at words, and words that have looked at the regions as they were."""

    def part(name: str, x: Tensor) -> Tensor:
        return linear(state, f"{path}.biattention.{name}", x)

    of_words = attend(part("query1", places), part("key2", words), part("value2", words), read, heads)
    of_places = attend(part("query2", words), part("key1", places), part("value1", places), seen, heads)
    places = norm(state, f"{path}.biOutput.LayerNorm1", linear(state, f"{path}.biOutput.dense1", of_words) + places)
    words = norm(state, f"{path}.biOutput.LayerNorm2", linear(state, f"{path}.biOutput.dense2", of_places) + words)
    places = feed_forward(state, f"{path}.v_intermediate.dense", f"{path}.v_output", places)
    return places, feed_forward(state, f"{path}.t_intermediate.dense", f"{path}.t_output", words)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return for each query the mean of the values that count, weighed by a softmax, head by head."""
    width = queries.shape[-1] // heads
    rows = []
    for row in range(len(queries)):
        columns = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = queries[row, :, part] @ keys[row][mask[row]][:, part].T / math.sqrt(width)
            powers = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
            columns.append(powers / powers.sum(dim=1, keepdim=True) @ values[row][mask[row]][:, part])
        rows.append(torch.cat(columns, dim=1))
    return torch.stack(rows)


def feed_forward(state: State, inner: str, outer: str, x: Tensor) -> Tensor:
    """Return the tokens after their perceptron."""
    hidden = linear(state, inner, x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return norm(state, f"{outer}.LayerNorm", linear(state, f"{outer}.dense", hidden) + x)


def linear(state: State, path: str, x: Tensor) -> Tensor:
    """Return what a linear map makes of vectors."""
    return x @ state[f"{path}.weight"].T + state[f"{path}.bias"]


def norm(state: State, path: str, x: Tensor) -> Tensor:
    """Return vectors of mean 0 and variance 1, scaled and shifted."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12)
    return scaled * state[f"{path}.weight"] + state[f"{path}.bias"]
