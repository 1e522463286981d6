"""Who is born next: a specialist bred from a good member for the errors that all share, or a kind at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chiasma.adapt.lifecycle import Add, Decision, Life, Promote, Prune, kinds_for
from chiasma.adapt.measure import Measured
from chiasma.model.attention import AttentionSpec, DotProduct
from chiasma.model.trunk import Place, PopulationSpec
from chiasma.model.trunk.members import (
    ConvolutionMemberSpec,
    MemberSpec,
    PerceptronSpec,
    TransformerMemberSpec,
)
from chiasma.train.design import GrowthSpec

CLUSTERS = 3
FEWEST_ERRORS = 12
DROPOUT = (0.0, 0.5)
STEP = 0.1
KERNELS = (3, 5, 7)
EXPANSIONS = (1, 2, 3, 4)
DEPTHS = (1, 2, 3, 4)
# Half of the children have another shape than their parent; the others differ in dropout and in what they learn from.
RESHAPED = 0.5
# Of the transformers with another shape so many have other heads: only these do not begin near their parent.
OTHER_HEADS = 0.2
TINY = 1e-6


@dataclass(frozen=True)
class Birth:
    """Somebody new.

    Attributes:
        name: In the population.
        place: What it is, and whom it inherits from.
        centre: Of the examples that it is to learn most from ``[D]``; None for all alike.
        radius: How far these are from the centre.
        reason: In words.
    """

    name: str
    place: Place
    centre: tuple[float, ...] | None
    radius: float
    reason: str


@dataclass(frozen=True)
class Cluster:
    """Examples that lie together and that the population gets wrong together.

    Attributes:
        centre: ``[D]``.
        radius: Root mean square of the distance.
        count: How many.
        part: Of the loss that all members share.
    """

    centre: np.ndarray
    radius: float
    count: int
    part: float


def conceive(
    lives: Sequence[Life],
    spec: PopulationSpec,
    measured: Measured,
    rules: GrowthSpec,
    *,
    cooldown: Mapping[str, int],
    dim: int,
    named: Sequence[str],
    rng: np.random.Generator,
    mechanisms: Sequence[AttentionSpec] = (),
) -> Birth:
    """Return who is born.

    Args:
        lives: Of those that live.
        spec: The population.
        measured: What the last review measured.
        rules: How often which.
        cooldown: Kinds that are not to be tried; not all.
        dim: Width D of the tokens.
        named: All names that were ever given.
        rng: Decides.
        mechanisms: What a transformer that is bred from nobody may look with, such as the attentions that the model has
            already; empty for plain attention.
    """
    able = [kind for kind in kinds_for(measured.tokens) if not cooldown.get(kind, 0)]
    parents = [life for life in lives if life.role == "member" and life.kind in able]
    if parents and rng.random() < rules.exploit:
        parent = _choose(parents, rules, rng)
        member = perturbed(spec.members[parent.name].member, dim=dim, rng=rng)
        name = _name(member.kind, named)
        cluster = worst_cluster(measured.states, measured.shared, rng) if rules.emphasis else None
        place = Place(member=member, role="newcomer", parent=parent.name, emphasis=rules.emphasis if cluster else 0.0)
        if cluster is None:
            return Birth(name, place, None, 1.0, f"bred from {parent.name}")
        reason = (
            f"bred from {parent.name} for {cluster.count} examples with {100 * cluster.part:.0f} % of the shared loss"
        )
        return Birth(name, place, tuple(map(float, cluster.centre)), cluster.radius, reason)
    kind = str(rng.choice(able))
    chosen, reason = _attention(kind, mechanisms, rng)
    place = Place.from_dict({"member": {"kind": kind, **_heads(kind, dim), **chosen}, "role": "newcomer"})
    return Birth(_name(kind, named), place, None, 1.0, f"a kind at random{reason}")


def at_random(
    lives: Sequence[Life], rules: GrowthSpec, *, progress: float, rng: np.random.Generator
) -> Decision | None:
    """Return what happens where nothing that was measured counts: the control of guided growth.

    Newcomers are promoted after their probation; where there is room somebody is born, else somebody goes.
    """
    for life in lives:
        if life.role == "newcomer":
            return Promote(life.name, "at random") if len(life.gains) >= rules.probation else None
    if progress > rules.last_birth:
        return None
    if len(lives) < rules.largest:
        return Add("at random")
    members = [life.name for life in lives if life.role == "member"]
    return Prune(str(rng.choice(members)), "at random") if len(members) > max(1, rules.smallest) else None


def perturbed(member: MemberSpec, *, dim: int, rng: np.random.Generator) -> MemberSpec:
    """Return a member of the same kind with the dropout changed a little, and often one part of its shape.

    As document 000: heads to another divisor, layers by one, dropout by up to a tenth. Unlike there, a child inherits
    its parent's weights, so that half of the children keep its shape and few have other heads.
    """
    dropout = float(np.clip(member.dropout + rng.uniform(-STEP, STEP), *DROPOUT))
    changes: dict[str, object] = {"dropout": round(dropout, 3)}
    if rng.random() < RESHAPED:
        changes |= _reshaped(member, dim, rng)
    return member.model_copy(update=changes)


def _reshaped(member: MemberSpec, dim: int, rng: np.random.Generator) -> dict[str, object]:
    """Return another value of one setting on which shapes depend, or in which heads attend."""
    match member:
        case PerceptronSpec():
            return {"expansion": _neighbour(member.expansion, EXPANSIONS, rng)}
        case TransformerMemberSpec():
            if rng.random() < OTHER_HEADS:
                return {"heads": _neighbour(member.heads, [h for h in (1, 2, 4, 8, 16) if dim % h == 0], rng)}
            return {"expansion": _neighbour(member.expansion, EXPANSIONS, rng)}
        case ConvolutionMemberSpec():
            if rng.random() < 0.5:
                return {"depth": _neighbour(member.depth, DEPTHS, rng)}
            return {"kernel": _neighbour(member.kernel, KERNELS, rng)}


def worst_cluster(states: np.ndarray, shared: np.ndarray, rng: np.random.Generator) -> Cluster | None:
    """Return the cluster with the most shared loss among examples whose shared loss is above the mean.

    Args:
        states: ``[n D]``.
        shared: ``[n]``.
        rng: Where k-means begins.
    """
    wrong = np.flatnonzero(shared > shared.mean())
    if len(wrong) < FEWEST_ERRORS:
        return None
    # Late: scikit-learn is slow to import, and every worker imports this module.
    from sklearn.cluster import KMeans

    clusters = min(CLUSTERS, len(np.unique(states[wrong], axis=0)))
    places = KMeans(clusters, random_state=int(rng.integers(2**31))).fit_predict(states[wrong])
    sums = np.bincount(places, weights=shared[wrong], minlength=clusters)
    members = states[wrong[places == sums.argmax()]]
    centre = members.mean(0)
    radius = float(np.sqrt(np.square(members - centre).sum(-1).mean()))
    part = float(sums.max() / max(shared.sum(), TINY))
    return Cluster(centre, max(radius, TINY), len(members), part)


def _choose(parents: Sequence[Life], rules: GrowthSpec, rng: np.random.Generator) -> Life:
    """Return a parent by the softmax of the contributions."""
    fitness = np.array([life.contributions[-1] for life in parents]) / rules.temperature
    weights = np.exp(fitness - fitness.max())
    return parents[int(rng.choice(len(parents), p=weights / weights.sum()))]


def _neighbour(value: int, known: Sequence[int], rng: np.random.Generator) -> int:
    """Return the next smaller or next larger of the known values, which rise."""
    near = [v for v in known if v < value][-1:] + [v for v in known if v > value][:1]
    return int(rng.choice(near)) if near else value


def _heads(kind: str, dim: int) -> dict[str, int]:
    """Return as many heads as divide the width, where the kind has heads."""
    return {"heads": next(h for h in (4, 2, 1) if dim % h == 0)} if kind == "transformer" else {}


def _attention(
    kind: str, mechanisms: Sequence[AttentionSpec], rng: np.random.Generator
) -> tuple[dict[str, object], str]:
    """Return one of the mechanisms for a kind that looks at tokens, and what to say of it where it is not plain."""
    # Nothing is drawn where there is no choice, so that models with plain attention alone grow as they always have.
    if kind != "transformer" or len(mechanisms) < 2:
        return {}, ""
    chosen = mechanisms[int(rng.integers(len(mechanisms)))]
    return {"attention": chosen.to_dict()}, "" if chosen == DotProduct() else f" with {chosen.kind} attention"


def _name(kind: str, named: Sequence[str]) -> str:
    """Return the kind with the next number; no name is ever given twice."""
    number = 1
    while f"{kind}_{number}" in named:
        number += 1
    return f"{kind}_{number}"
