"""Fusions that are known by name as trees, and our hand-written ones: what a search may begin with and edit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

from chiasma.model.attention import AttentionSpec
from chiasma.model.blocks import TransformerSpec
from chiasma.model.fusion.alternating import Alternating
from chiasma.model.fusion.attentive import CrossAttention, Early
from chiasma.model.fusion.composed.composed import Composed
from chiasma.model.fusion.composed.expression import IMAGE, TEXT, Expression, expression, tree_of
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.fusion.late import Late
from chiasma.model.fusion.pooled import Bilinear, Concat, FiLM, Gated, Multiplicative

DROPOUT = 0.1


@dataclass(frozen=True)
class KnownFusion:
    """One fusion.

    Attributes:
        name: What it is called.
        source: Who described it.
        fusion: Its tree; dropout is what its source has.
    """

    name: str
    source: str
    fusion: Composed

    @property
    def words(self) -> str:
        """Return its name and who described it."""
        return f"{self.name} ({self.source})"


def mean(tokens: Expression) -> Expression:
    """Return the mean of some tokens."""
    return expression("mean", tokens)


def transformer_block(
    queries: Expression, keys: Expression, *, heads: int, expansion: int, attention: AttentionSpec | None = None
) -> Expression:
    """Return tokens that looked at some keys, and then passed a perceptron; each normalised before and added."""
    seen = expression("attend", queries, keys, heads=heads, attention=attention)
    return expression("feed_forward", seen, expansion=expansion)


def document_002_baseline() -> Composed:
    """Return means side by side, and a hidden layer as wide as one of them."""
    return Composed(tree=tree_of(expression("concat", mean(IMAGE), mean(TEXT), hidden=1)), dropout=DROPOUT)


def document_002_champion() -> Composed:
    """Return document 002's "Gen-7": the text asks the image, normalised after each step."""
    seen = expression("attend", TEXT, IMAGE, heads=8, norm="post")
    return Composed(tree=tree_of(mean(expression("feed_forward", seen, expansion=4, norm="post"))), dropout=DROPOUT)


def as_tree(spec: Any) -> Composed | None:
    """Return one of our hand-written fusions as a tree that computes the same, or None where no tree does.

    There is none where a width, a number of heads or an expansion is not among those of the operators, and none for
    plugins. Widths of hidden layers must be multiples of the model's dim, which is not known here: see :func:`in_dim`.
    """
    if isinstance(spec, Composed):
        return spec
    translate = _TRANSLATIONS.get(type(spec))
    root = None if translate is None else translate(spec)
    if root is None:
        return None
    return Composed(tree=tree_of(root), dropout=getattr(spec, "dropout", 0.0))


def in_dim(spec: Any, dim: int) -> Composed | None:
    """Return a hand-written fusion of a model of width ``dim`` as a tree that computes the same, or None."""
    hidden = getattr(spec, "hidden", None)
    if isinstance(spec, Concat) and hidden is not None:
        known = not hidden % dim and hidden // dim in OPS["concat"].constants["hidden"]
        return _concat(hidden // dim) if known else None
    if isinstance(spec, Late) and hidden is not None:
        known = not hidden % dim and hidden // dim in OPS["feed_forward"].constants["expansion"]
        return Composed(tree=tree_of(_late(spec, hidden // dim))) if known else None
    if isinstance(spec, Multiplicative) and spec.width == dim:
        return as_tree(Multiplicative(sums=spec.sums))
    return as_tree(spec)


@cache
def known_fusions() -> tuple[KnownFusion, ...]:
    """Return document 002's two fusions, and ours with the sizes that they have by themselves."""
    ours: Mapping[str, Any] = {
        "linear concat": Concat(),
        "gated unit": Gated(),
        "product of projections": Multiplicative(),
        "low-rank bilinear pooling": Bilinear(),
        "FiLM": FiLM(),
        "cross-attention both ways": CrossAttention(depth=1),
        "early fusion": Early(depth=1),
        "alternating blocks": Alternating(),
        "late attention": Late(method="attention"),
    }
    found = [KnownFusion(name, "one of ours", tree) for name, spec in ours.items() if (tree := as_tree(spec))]
    return (
        KnownFusion("concat and a hidden layer", "document 002's baseline", document_002_baseline()),
        KnownFusion("Gen-7", "document 002's champion", document_002_champion()),
        *found,
    )


def known_fusion_as(fusion: Composed) -> KnownFusion | None:
    """Return the known fusion that has the same tree, or None."""
    return next((each for each in known_fusions() if each.fusion.tree == fusion.tree), None)


def _concat(hidden: int) -> Composed:
    return Composed(tree=tree_of(expression("concat", mean(IMAGE), mean(TEXT), hidden=hidden)))


def _gated() -> Expression:
    return expression("mix", mean(IMAGE), mean(TEXT), expression("gate_of_both", mean(IMAGE), mean(TEXT)))


def _multiplicative(spec: Multiplicative) -> Expression | None:
    if spec.width is not None:
        return None
    seen, read = (expression("linear", expression("norm", mean(each))) for each in (IMAGE, TEXT))
    return expression("linear", expression("multiply", seen, read, sums=spec.sums))


def _bilinear(spec: Bilinear) -> Expression | None:
    if spec.rank not in OPS["bilinear"].constants["rank"]:
        return None
    products = expression("bilinear", mean(IMAGE), mean(TEXT), rank=spec.rank)
    return expression("norm", expression("root", products))


def _film(spec: FiLM) -> Expression:
    def layer(tokens: Expression, _: int) -> Expression:
        mapped = expression("linear", expression("norm", tokens))
        modulated = expression("activate", expression("film", mapped, mean(TEXT)), function="relu")
        return expression("add", tokens, modulated)

    modulated = reduce(layer, range(spec.depth), IMAGE)
    return mean(modulated) if spec.pool == "mean" else modulated


def _sizes(spec: TransformerSpec) -> dict[str, Any] | None:
    known = spec.heads in OPS["attend"].constants["heads"]
    known = known and spec.expansion in OPS["feed_forward"].constants["expansion"]
    return {"heads": spec.heads, "expansion": spec.expansion, "attention": spec.attention} if known else None


def _cross_attention(spec: CrossAttention) -> Expression | None:
    sizes = _sizes(spec)
    if sizes is None:
        return None

    def answer(asking: Expression, shown: Expression) -> Expression:
        blocks = reduce(lambda tokens, _: transformer_block(tokens, shown, **sizes), range(spec.depth), asking)
        return expression("norm", blocks)

    asked = {"image_to_text": ((IMAGE, TEXT),), "text_to_image": ((TEXT, IMAGE),)}
    answers = [answer(*each) for each in asked.get(spec.direction, ((IMAGE, TEXT), (TEXT, IMAGE)))]
    if spec.pool == "none":
        return answers[0] if len(answers) == 1 else expression("join", *answers)
    means = [mean(each) for each in answers]
    return means[0] if len(means) == 1 else expression("concat", *means, hidden=0)


def _early(spec: Early) -> Expression | None:
    sizes = _sizes(spec)
    if sizes is None:
        return None
    joint = expression("join", expression("mark", IMAGE), expression("mark", TEXT))
    return expression("norm", reduce(lambda x, _: transformer_block(x, x, **sizes), range(spec.depth), joint))


def _alternating(spec: Alternating) -> Expression | None:
    sizes = _sizes(spec)
    if sizes is None:
        return None
    turns = [expression("mark", expression("linear", each)) for each in (IMAGE, TEXT)]
    for turn in range(spec.depth):
        changed, context = turns[turn % 2], turns[1 - turn % 2]
        own = expression("attend", changed, changed, heads=sizes["heads"], attention=sizes["attention"])
        seen = expression("attend", own, context, heads=sizes["heads"], asks=False, attention=sizes["attention"])
        turns[turn % 2] = expression("feed_forward", seen, expansion=sizes["expansion"])
    return expression("norm", expression("join", *turns))


def _late(spec: Late, expansion: int = 0) -> Expression:
    def tower(tokens: Expression) -> Expression:
        if not expansion:
            return expression("linear", mean(tokens))
        return expression("feed_forward", mean(tokens), expansion=expansion, norm="none", residual=False)

    decisions = (tower(IMAGE), tower(TEXT))
    if spec.method == "concat":
        return expression("concat", *decisions, hidden=0)
    if spec.method == "add":
        return expression("add", *decisions)
    return expression("weigh", *decisions, by="numbers" if spec.method == "weighted" else "attention")


_TRANSLATIONS: Mapping[type, Callable[[Any], Expression | None]] = {
    Concat: lambda spec: expression("concat", mean(IMAGE), mean(TEXT), hidden=0) if spec.hidden is None else None,
    Gated: lambda spec: _gated(),
    Multiplicative: _multiplicative,
    Bilinear: _bilinear,
    FiLM: _film,
    CrossAttention: _cross_attention,
    Early: _early,
    Alternating: _alternating,
    Late: lambda spec: _late(spec) if spec.hidden is None else None,
}
