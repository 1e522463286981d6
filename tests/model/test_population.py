"""A population: members come and go, and nobody notices until they have something to say."""

import pytest
import torch
from torch import nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.batch import Tokens
from chiasma.model.cost import cost, example_batch
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.trunk import Place, Population, PopulationSpec
from chiasma.model.trunk.members import PerceptronSpec, TransformerMemberSpec
from tests.contracts.inputs import DIM, ROWS, signature, spoiled, tokens

NEWCOMER = Place(member=PerceptronSpec(dropout=0.0), role="newcomer", parent="perceptron_1")


def population(seed: int = 0, **settings) -> Population:
    torch.manual_seed(seed)
    return PopulationSpec.from_dict(settings).build(DIM).eval()


def out(trunk: Population, seed: int = 0) -> torch.Tensor:
    return trunk(tokens(6, seed=seed)).tokens.x


def with_trunk(**settings) -> ModelSpec:
    return ModelSpec.from_dict(
        {
            "dim": DIM,
            "encoders": {"image": {"kind": "convolution", "widths": (4, 8), "grid": 2}, "text": {"kind": "bert"}},
            "fusion": {"kind": "early", "depth": 1},
            "trunk": {"kind": "population", **settings},
        }
    )


def test_a_model_with_a_trunk_runs_costs_more_and_survives_json():
    spec = with_trunk()
    assert ModelSpec.from_json(spec.to_json()) == spec
    whole, without = (cost(each, signature()) for each in (spec, replace_at(spec, "trunk", None)))
    assert whole.parameters > without.parameters
    assert whole.flops > without.flops
    assert whole.uncounted == ()


def test_a_trunk_asks_for_a_penalty_only_while_training():
    model = with_trunk(balance=0.1).build(signature())
    batch = example_batch(signature(), 3)
    assert model.eval()(batch).penalty is None
    assert model.train()(batch).penalty >= 0


def test_heads_that_do_not_divide_the_width_are_refused_with_their_path():
    with pytest.raises(ConfigError, match=r"divisible by trunk\.heads, but dim=16 and heads=3"):
        with_trunk(heads=3)
    members = {"transformer_1": {"member": {"kind": "transformer", "heads": 5}}}
    with pytest.raises(ConfigError, match=r"trunk\.members\.transformer_1\.member\.heads, but dim=16 and heads=5"):
        with_trunk(members=members)


def test_a_population_of_newcomers_alone_is_refused():
    place = {"member": {"kind": "perceptron"}, "role": "newcomer"}
    with pytest.raises(ConfigError, match="at least one must have the role member"):
        PopulationSpec.from_dict({"members": {"perceptron_1": place}})


def test_a_name_that_would_break_a_parameters_path_is_refused():
    with pytest.raises(ConfigError, match=r"one is called 'a\.b'"):
        PopulationSpec.from_dict({"members": {"a.b": {"member": {"kind": "perceptron"}}}})


@pytest.mark.parametrize("kind", ["perceptron", "transformer", "residual_convolution"])
@pytest.mark.parametrize("training", [True, False])
def test_a_birth_changes_nothing_at_all(kind: str, training: bool):
    members = {f"{kind}_1": {"member": {"kind": kind, "dropout": 0.0}}}
    trunk = population(members=members).train(training)
    before = trunk(tokens(6))
    place = Place.from_dict({"member": {"kind": kind, "dropout": 0.0}, "role": "newcomer", "parent": f"{kind}_1"})
    trunk.add(f"{kind}_2", place)
    after = trunk.train(training)(tokens(6))
    assert torch.equal(before.tokens.x, after.tokens.x)
    assert before.penalty == after.penalty if training else after.penalty is None
    assert trunk.newcomers == [f"{kind}_2"]


def test_a_newcomer_begins_with_its_parents_weights_but_for_the_last_layer():
    trunk = population()
    trunk.add("perceptron_2", NEWCOMER)
    parent, child = trunk.members["perceptron_1"], trunk.members["perceptron_2"]
    assert torch.equal(parent.first.weight, child.first.weight)
    assert parent.last.weight.any()
    assert not child.last.weight.any()


def test_a_newcomer_of_another_size_inherits_what_fits():
    trunk = population()
    trunk.add("perceptron_2", Place(member=PerceptronSpec(expansion=3), role="newcomer", parent="perceptron_1"))
    nn.init.constant_(trunk.members["perceptron_1"].norm.weight, 2.0)
    trunk.add("perceptron_3", Place(member=PerceptronSpec(expansion=3), role="newcomer", parent="perceptron_1"))
    assert (trunk.members["perceptron_3"].norm.weight == 2).all()


def test_a_name_is_given_once():
    trunk = population()
    with pytest.raises(ValueError, match="one member called 'perceptron_1' already"):
        trunk.add("perceptron_1", NEWCOMER)


def test_all_of_a_newcomer_learns_after_its_first_step():
    trunk = population().train()
    trunk.add("perceptron_2", NEWCOMER)
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (out(trunk.train()) - 1).square().sum().backward()
        optimizer.step()
    newcomer = {name: p for name, p in trunk.named_parameters() if "perceptron_2" in name}
    assert "openings.perceptron_2" in newcomer
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in newcomer.values())


def test_a_spec_after_births_and_deaths_builds_a_population_for_the_weights():
    trunk = population()
    trunk.add("perceptron_2", Place.from_dict({**NEWCOMER.to_dict(), "emphasis": 2.0}))
    trunk.add("perceptron_3", NEWCOMER)
    trunk.promote("perceptron_3", prior=-1.0, gain=0.5)
    trunk.prune("residual_convolution_1")
    trunk.retire("transformer_1")
    torch.manual_seed(7)
    again = PopulationSpec.from_json(trunk.spec.to_json()).build(DIM).eval()
    again.load_state_dict(trunk.state_dict(), strict=True)
    assert torch.equal(out(trunk.eval()), out(again))
    assert [trunk.spec.members[name].role for name in ("perceptron_2", "perceptron_3", "transformer_1")] == [
        "newcomer",
        "member",
        "leaving",
    ]


def test_a_pruned_member_leaves_no_parameter_behind():
    trunk = population()
    names = {name for name, _ in trunk.named_parameters()}
    trunk.add("perceptron_2", Place.from_dict({**NEWCOMER.to_dict(), "emphasis": 1.0}))
    trunk.prune("perceptron_2")
    assert {name for name, _ in trunk.named_parameters()} == names
    trunk.prune("transformer_1")
    assert not [name for name in trunk.state_dict() if "transformer_1" in name]


def test_the_last_member_is_never_pruned():
    trunk = population(members={"perceptron_1": {"member": {"kind": "perceptron"}}})
    with pytest.raises(ConfigError, match="at least one must have the role member"):
        trunk.prune("perceptron_1")
    assert out(trunk).isfinite().all()


def test_a_promotion_keeps_what_the_newcomer_said_and_counts_it_among_the_others():
    trunk = population()
    trunk.add("perceptron_2", NEWCOMER)
    nn.init.normal_(trunk.members["perceptron_2"].last.weight)
    trunk.promote("perceptron_2", prior=0.3, gain=2.0)
    assert trunk.routed == ["perceptron_1", "perceptron_2", "residual_convolution_1", "transformer_1"]
    assert trunk(tokens(6)).routing.weights.shape == (ROWS, 4, 4)
    higher = population()
    higher.load_state_dict({k: v for k, v in trunk.state_dict().items() if "perceptron_2" not in k})
    assert not torch.allclose(out(trunk), out(higher))


def test_a_higher_prior_is_a_higher_weight():
    trunk = population()
    low = trunk(tokens(6)).routing.weights.mean((0, 1))
    nn.init.constant_(trunk.priors["perceptron_1"], 3.0)
    high = trunk(tokens(6)).routing.weights.mean((0, 1))
    assert high[0] > low[0]
    torch.testing.assert_close(high.sum(), torch.tensor(1.0))


def test_without_a_member_the_others_share_its_weight():
    trunk = population()
    fused = tokens(6)
    changes = trunk.propose(fused)
    assert torch.equal(trunk.join(fused, changes).tokens.x, trunk(fused).tokens.x)
    left_out = trunk.join(fused, changes, without="perceptron_1")
    torch.testing.assert_close(left_out.routing.weights.sum(-1), torch.ones(ROWS, 4))
    trunk.prune("perceptron_1")
    assert torch.equal(left_out.tokens.x, out(trunk))


def test_padding_does_not_matter_even_if_it_is_not_a_number():
    trunk = population()
    trunk.add("perceptron_2", NEWCOMER)
    clean = tokens(6)
    for noise in (1e9, float("nan")):
        dirty = trunk(spoiled(clean, noise)).tokens
        torch.testing.assert_close(dirty.mean(), trunk(clean).tokens.mean())


def test_a_row_without_any_token_stays_finite_and_gives_finite_gradients():
    trunk = population().train()
    fused = tokens(6)
    nothing = Tokens(fused.x, fused.mask & torch.tensor([[True], [False], [True], [True], [True]]))
    done = trunk(nothing)
    (done.tokens.mean().square().sum() + done.penalty).backward()
    assert done.tokens.x.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trunk.parameters())


def test_rows_do_not_see_each_other():
    trunk = population()
    fused = tokens(6)
    alone = trunk(Tokens(fused.x[2:3], fused.mask[2:3])).tokens.x
    torch.testing.assert_close(alone, trunk(fused).tokens.x[2:3], atol=1e-6, rtol=1e-6)


def test_a_sparse_router_leaves_members_out():
    dense, sparse = population(), population(routing="sparsemax")
    for trunk in (dense, sparse):
        nn.init.constant_(trunk.priors["perceptron_1"], 5.0)
    assert (dense(tokens(6)).routing.weights > 0).all()
    assert (sparse(tokens(6)).routing.weights == 0).any()


def test_in_service_only_so_many_members_are_heard():
    trunk = population(serve_top=1)
    weights = trunk(tokens(6)).routing.weights
    assert ((weights > 0).sum(-1) == 1).all()
    assert (trunk.train()(tokens(6)).routing.weights > 0).all()


def test_members_hear_of_each_other_only_with_edges():
    routing = population()(tokens(6)).routing
    assert routing.edges.shape == (ROWS, 3, 3)
    torch.testing.assert_close(routing.edges.sum(-1), torch.ones(ROWS, 3))
    assert population(edges=False)(tokens(6)).routing.edges is None


def test_the_penalty_grows_with_entropy_and_with_imbalance():
    fused = tokens(6)
    assert population(balance=0.0).train()(fused).penalty is None
    even, uneven = (population(balance=1.0, entropy=0.0).train() for _ in range(2))
    nn.init.constant_(uneven.priors["perceptron_1"], 5.0)
    assert uneven(fused).penalty > even(fused).penalty
    unsure, sure = (population(balance=0.0, entropy=1.0).train() for _ in range(2))
    nn.init.constant_(sure.priors["perceptron_1"], 5.0)
    assert sure(fused).penalty < unsure(fused).penalty


def test_a_leaving_member_teaches_the_others_to_do_without_it():
    trunk = population(balance=0.0).train()
    for module in trunk.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    trunk.retire("perceptron_1")
    fused = tokens(6)
    optimizer = torch.optim.Adam(
        [p for name, p in trunk.named_parameters() if not name.startswith("members.perceptron_1")], lr=1e-2
    )
    first = last = trunk(fused).penalty.item()
    assert first > 0
    for _ in range(30):
        optimizer.zero_grad()
        penalty = trunk(fused).penalty
        penalty.backward()
        optimizer.step()
        last = penalty.item()
    assert last < first / 2


def test_a_lesson_teaches_the_members_that_stay_and_the_router_and_nothing_before_the_trunk():
    trunk = population(balance=0.0).train()
    trunk.retire("perceptron_1")
    before = tokens(6)
    fused = Tokens(before.x.clone().requires_grad_(), before.mask)
    penalty = trunk(fused).penalty
    assert torch.autograd.grad(penalty, fused.x, allow_unused=True, retain_graph=True) == (None,)
    penalty.backward()
    reached = {name for name, value in trunk.named_parameters() if value.grad is not None and value.grad.any()}
    assert {"members.transformer_1.last.weight", "router.query.weight"} <= reached
    assert not [name for name in reached if name.startswith("members.perceptron_1")]


def test_a_focus_changes_only_how_much_examples_teach_the_newcomer():
    def gradients(emphasis: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        trunk = population(balance=0.0)
        place = Place.from_dict({**NEWCOMER.to_dict(), "emphasis": emphasis})
        trunk.add("perceptron_2", place)
        fused = tokens(6)
        if emphasis:
            trunk.focus("perceptron_2").centre.copy_(fused.mean()[0])
            trunk.focus("perceptron_2").radius.fill_(0.1)
        trunk.train()
        for module in trunk.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        changes = trunk.propose(fused)
        changes["perceptron_2"].retain_grad()
        y = trunk.join(fused, changes).tokens.x
        (y.square().sum()).backward()
        newcomer = trunk.members["perceptron_2"].last.weight.grad
        return y.detach(), newcomer, trunk.members["perceptron_1"].last.weight.grad

    plain, focused = gradients(0.0), gradients(4.0)
    assert torch.equal(plain[0], focused[0])
    assert torch.equal(plain[2], focused[2])
    assert not torch.allclose(plain[1], focused[1])


def test_any_attention_that_was_discovered_can_be_a_members():
    attention = {"kind": "graph", "projections": {"q": False, "k": False, "v": True, "o": True}}
    member = TransformerMemberSpec.from_dict({"attention": attention})
    trunk = population(members={"transformer_1": {"member": member.to_dict()}})
    assert out(trunk).isfinite().all()


def test_the_models_own_record_follows_its_trunk():
    model: MultimodalModel = with_trunk().build(signature())
    trunk = model.trunk
    assert isinstance(trunk, Population)
    trunk.add("perceptron_2", NEWCOMER)
    assert model.spec.trunk is not None
    assert "perceptron_2" in model.spec.trunk.members
    torch.manual_seed(3)
    again = model.spec.build(signature())
    again.load_state_dict(model.state_dict(), strict=True)
    batch = example_batch(signature(), 3)
    assert torch.equal(model.eval()(batch).logits, again.eval()(batch).logits)
