import json
import re
from collections import Counter

import pytest
from signatures import SIGNATURES

from benchmarks.llm_fault_server import CASES, completion, says, serving
from chiasma.core.errors import ConfigError
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.model.encoders import usual_encoder
from chiasma.model.fusion import Bilinear, Concat, Gated
from chiasma.model.heads import Classification
from chiasma.model.multimodal import ModelSpec
from chiasma.search.action_bandit import UniformActions
from chiasma.search.actor_critic import ActorCritic
from chiasma.search.archive import SharedArchive
from chiasma.search.bridge import Bridge
from chiasma.search.fusion_action import FusionAction
from chiasma.search.fusion_proposer import FusionProposer
from chiasma.search.fusion_writer import FusionWriter
from chiasma.search.generators.generator import Answer, Generator, UnansweredError
from chiasma.search.generators.openai import OpenAIGenerator
from chiasma.search.generators.replay import ReplayGenerator
from chiasma.search.generators.settings import LanguageModel, Prices
from chiasma.search.generators.store import AnswerStore
from chiasma.search.generators.stored import StoredGenerator
from chiasma.search.protocols import Candidate, Evaluation
from chiasma.train.design import Design

INPUTS = SIGNATURES["image+text classification"].inputs
BASE = Design(
    model=ModelSpec(
        dim=8,
        encoders={name: usual_encoder(spec) for name, spec in INPUTS.items()},
        fusion=Concat(),
        head=Classification(),
    )
)
SETTINGS = LanguageModel(model="m", max_tokens=500, prices=Prices(prompt=1.0, answer=1.0))


class Ranks:
    """A grammar of bilinear fusions that differ in their rank."""

    most = 4096

    def __init__(self):
        self.refused = Counter()

    def follow(self, action, parents, rng):
        drawn = 1 + int(rng.integers(self.most))
        if action.operation == "fresh" or not parents:
            return Bilinear(rank=drawn), f"a fresh rank of {drawn}"
        old = getattr(parents[action.parent], "rank", 1)
        return Bilinear(rank=1 + (old + drawn) % self.most), f"another rank than {old}"

    def lower(self, genome, incumbent):
        return replace_at(incumbent, "model.fusion", genome)

    def at(self, design):
        return design.model.fusion if isinstance(design.model.fusion, Bilinear | Concat) else None


def make(written, base):
    """Read a rank out of source or values."""
    rank = written.get("rank") if isinstance(written, dict) else int(re.search(r"rank = (-?\d+)", written)[1])
    return replace_at(base, "model.fusion", Bilinear.from_dict({"kind": "bilinear", "rank": rank}))


def show(design):
    return None if not isinstance(design.model.fusion, Bilinear) else f"rank = {design.model.fusion.rank}"


def source(rank, *, comment=""):
    return f"```python\nclass FusionModule:  {comment}\n    rank = {rank}\n```"


class Speaker(Generator):
    """Says what it was told to, in turn."""

    def __init__(self, *texts):
        self.texts = list(texts)
        self.requests = []

    def answer(self, request):
        self.requests.append(request)
        text = self.texts[(len(self.requests) - 1) % len(self.texts)]
        if isinstance(text, UnansweredError):
            raise text
        return Answer(text=text, prompt_tokens=10, answer_tokens=5, cost=0.25)


def writer(generator, **changes):
    given = {"settings": SETTINGS, "make": make, **changes}
    return FusionWriter(generator, given.pop("bridge", None) or Bridge(), **given)


def proposer(seed=3, *, policy=ActorCritic, **changes):
    return FusionProposer(seed=seed, policy=policy(seed=seed), **{"base": BASE, "grammar": Ranks(), **changes})


def scored(candidate, *, error=None):
    """An error that depends on the design alone."""
    value = derive_seed(0, candidate.hash) / 2**63 if error is None else error
    return Evaluation(candidate, Scored(objectives={"error": value}), 0, 0, 1.0)


def run(proposer, archive, asks, *, count=2):
    found = []
    for _ in range(asks):
        evaluations = [scored(candidate) for candidate in proposer.ask(count, archive)]
        for evaluation in evaluations:
            archive.add(evaluation)
        proposer.tell(evaluations)
        found += [each.candidate for each in evaluations]
    return found


@pytest.mark.parametrize("policy", [ActorCritic, UniformActions])
def test_a_search_that_is_saved_and_continued_proposes_the_same(policy):
    whole = run(proposer(policy=policy), SharedArchive(), 8)
    archive = SharedArchive()
    first = proposer(policy=policy)
    before = run(first, archive, 4)
    second = proposer(policy=policy)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + run(second, archive, 4) == whole


def test_asking_for_two_is_asking_for_one_twice():
    archive = SharedArchive()
    run(proposer(seed=9), archive, 2)
    one_by_one = proposer()
    assert [one_by_one.ask(1, archive)[0] for _ in range(2)] == proposer().ask(2, archive)


def test_candidates_say_what_they_were_made_from():
    archive = SharedArchive()
    found = run(proposer(), archive, 15)
    operations = {each.genome.action.operation for each in found}
    assert operations == {"fresh", "mutate", "crossover"}
    known = {BASE.content_hash()}
    for candidate in found:
        expected = {"fresh": 1, "mutate": 1, "crossover": 2}[candidate.genome.action.operation]
        assert len(set(candidate.parents)) == expected
        assert set(candidate.parents) <= known
        known.add(candidate.hash)
    assert len({candidate.hash for candidate in found}) == len(found)


def test_what_is_known_is_not_proposed_again():
    grammar = Ranks()
    grammar.most = 3
    search = FusionProposer(seed=0, policy=UniformActions(seed=0), grammar=grammar, base=BASE)
    found = run(search, SharedArchive(), 6)
    assert len({each.hash for each in found}) == len(found) == 3
    assert search.duplicates > 20


def test_equal_behaviour_is_known_too():
    search = proposer(names=[lambda design: str(design.model.fusion.rank % 5) if show(design) else "other"])
    found = run(search, SharedArchive(), 10)
    assert len({each.design.model.fusion.rank % 5 for each in found}) == len(found) == 5


def test_what_is_known_by_its_behaviour_is_known_after_a_restart():
    names = [lambda design: str(design.model.fusion.rank % 9) if show(design) else "other"]
    archive = SharedArchive()
    first, second = proposer(names=names), proposer(names=names)
    before = run(first, archive, 7, count=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found = before + run(second, archive, 5, count=1)
    assert len({each.design.model.fusion.rank % 9 for each in found}) == len(found)


def test_the_policy_learns_from_rewards_and_not_from_our_failures():
    search = proposer()
    good, bad, failed = search.ask(3, SharedArchive())
    search.tell(
        [
            scored(good, error=0.25),
            Evaluation(bad, Rejected(stage="probe", reason="NaN"), 0, 0, 1.0),
            Evaluation(failed, Failed(error="killed"), 0, 0, 1.0),
        ]
    )
    assert {hash: parts.reward for hash, parts in search.rewards.items()} == {good.hash: 0.75, bad.hash: 0.0}
    assert search.rewards[bad.hash].invalid == "probe"
    assert (search.progress.valid, search.progress.invalid, search.progress.best) == (1, 1, 0.75)
    assert search.policy.state_dict()["waiting"] == {}
    assert search.policy.state_dict()["learnt"]["told"] == 2
    search.tell([scored(good, error=0.2)])
    assert search.rewards[good.hash].reward == 0.75


def test_without_a_base_it_edits_what_the_archive_has():
    archive = SharedArchive()
    search = proposer(base=None)
    assert search.ask(1, archive) == []
    wide = replace_at(BASE, "model.dim", 16)
    archive.add(scored(Candidate("random", None, wide)))
    text_only = Design(model=ModelSpec(dim=8, encoders={"text": BASE.model.encoders["text"]}, head=BASE.model.head))
    archive.add(scored(Candidate("floor", None, text_only), error=0.0))
    found = search.ask(4, archive)
    assert {each.design.model.dim for each in found} == {16}
    assert {each.parents for each in found} == {(wide.content_hash(),)}


def test_the_budget_that_is_left_is_asked_for_once_an_ask_with_the_seconds_of_training_so_far():
    asked = []

    def left(number, seconds):
        asked.append((number, seconds))
        return 0.5

    run(proposer(left=left), SharedArchive(), 2)
    assert asked == [(0, 0.0), (1, 0.0), (2, 2.0), (3, 2.0)]


def test_a_policy_sees_the_budget_that_is_left():
    found = [run(proposer(left=lambda number, seconds, part=part: part), SharedArchive(), 24) for part in (0.1, 0.9)]
    assert [each.genome.action for each in found[0]] != [each.genome.action for each in found[1]]


def test_what_the_language_model_writes_is_proposed_with_its_conversation():
    kept = {}
    speaker = Speaker(f"An idea.\n{source(7)}")
    search = proposer(writer=writer(speaker, keep=lambda hash, said: kept.update({hash: said})), show=show)
    (candidate,) = search.ask(1, SharedArchive())
    assert candidate.design.model.fusion == Bilinear(rank=7)
    assert candidate.genome.author == "code"
    assert candidate.edit == "m wrote it"
    assert [each["role"] for each in kept[candidate.hash]] == ["system", "user", "assistant"]
    assert search.progress.written.valid_rate == 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("no code", "the answer holds no fenced block of Python"),
        ("```python\nclass FusionModule(:\n```", "SyntaxError: invalid syntax (line 1)"),
        (source(-1), "ConfigError: "),
        ("```python\nclass FusionModule: pass\n```", "TypeError: 'NoneType'"),
    ],
    ids=["no code", "syntax", "rule", "crash"],
)
def test_an_answer_that_cannot_be_used_goes_back_with_its_error(answer, reason):
    def careful(written, base):
        if "rank" not in written:
            raise ConfigError("TypeError: 'NoneType' has no rank")
        return make(written, base)

    speaker = Speaker(answer, source(5))
    search = proposer(writer=writer(speaker, make=careful))
    (candidate,) = search.ask(1, SharedArchive())
    assert candidate.design.model.fusion == Bilinear(rank=5)
    repair = speaker.requests[1].messages
    assert repair[2].content == answer
    assert reason in repair[3].content.replace('\\"', '"')
    written = search.progress.written
    assert (written.answers, written.usable, written.at_once) == (2, 1, 0)


def test_what_is_not_new_goes_back_and_after_three_repairs_the_grammar_takes_over():
    speaker = Speaker(source(7), source(7, comment="# again"), source(7), source(7), source(7))
    search = proposer(writer=writer(speaker))
    archive = SharedArchive()
    first, second = search.ask(2, archive)
    assert first.genome.author == "code"
    assert second.genome.author == "grammar"
    assert len(speaker.requests) == 1 + 4
    assert "this design is not new" in speaker.requests[2].messages[3].content
    assert search.progress.written.instead == {"nothing usable": 1}
    assert len({request.content_hash() for request in speaker.requests}) == 5
    assert search.progress.credits["grammar"].candidates == 1
    search.ask(1, archive)
    assert '- "this design is not new' in speaker.requests[5].messages[1].content


def test_what_does_not_pass_the_examination_goes_back():
    def examine(design):
        return "probe: a NaN in the output" if design.model.fusion.rank < 10 else None

    speaker = Speaker(source(3), source(30))
    (candidate,) = proposer(writer=writer(speaker, examine=examine)).ask(1, SharedArchive())
    assert candidate.design.model.fusion == Bilinear(rank=30)
    assert '"probe: a NaN in the output"' in speaker.requests[1].messages[3].content


def test_a_model_that_cannot_be_asked_leaves_the_search_to_the_grammar():
    speaker = Speaker(UnansweredError("no money", reason="capped"), UnansweredError("down", reason="closed"))
    search = proposer(writer=writer(speaker))
    found = run(search, SharedArchive(), 4)
    assert len(found) == 8
    assert {each.genome.author for each in found} == {"grammar"}
    assert search.progress.written.instead == {"capped": 4, "closed": 4}


def test_parents_and_the_reasons_of_rejections_are_told_to_the_model():
    speaker = Speaker(*(source(rank) for rank in range(10, 60)))
    search = proposer(writer=writer(speaker), show=show)
    archive = SharedArchive()
    for candidate in search.ask(3, archive):
        outcome = Rejected(stage="jail", reason="RuntimeError: shapes")
        search.tell([Evaluation(candidate, outcome, 0, 0, 1.0)])
    run(search, archive, 12)
    asked = [request.messages[1].content for request in speaker.requests]
    assert '- "jail: RuntimeError: shapes"' in asked[3]
    assert any("rank = " in words and "The design to build on" in words for words in asked)
    assert any("The designs to build on" in words for words in asked)


def test_a_typed_tree_is_read_from_json():
    speaker = Speaker('{"rank": 12}')
    bridge = Bridge("json", schema={"type": "object"})
    (candidate,) = proposer(writer=writer(speaker, bridge=bridge)).ask(1, SharedArchive())
    assert candidate.genome.author == "json"
    assert candidate.design.model.fusion == Bilinear(rank=12)
    assert speaker.requests[0].json_only


def test_what_does_not_fit_the_design_that_it_is_an_edit_of_is_made_anew_or_sent_back():
    def refuse(design, base):
        assert base == BASE
        return "too low" if design.model.fusion.rank < 2048 else None

    speaker = Speaker(source(7), source(3000))
    for changes, author in (({}, "grammar"), ({"writer": writer(speaker)}, "code")):
        search = proposer(refuse=refuse, **changes)
        found = search.ask(8 if author == "grammar" else 1, SharedArchive())
        assert all(each.design.model.fusion.rank >= 2048 for each in found)
        assert {each.genome.author for each in found} == {author}
    assert "too low" in speaker.requests[1].messages[-1].content
    assert search.progress.written.refused == {"too low": 1}


def test_gain_is_credited_to_whoever_made_it_and_measured_against_what_was_there_before():
    speaker = Speaker(source(7), UnansweredError("down", reason="server_error"), source(8))
    search, archive = proposer(writer=writer(speaker)), SharedArchive()
    archive.add(scored(Candidate("floor", None, BASE), error=0.7))
    for error in (0.5, 0.4, 0.1):
        (candidate,) = search.ask(1, archive)
        search.tell([scored(candidate, error=error)])
    credits = search.progress.credits
    assert credits["grammar"].gain == pytest.approx(0.1)
    assert credits["code"].gain == pytest.approx(0.2 + 0.3)
    assert (credits["code"].candidates, credits["code"].valid) == (2, 2)


def test_a_candidate_that_was_trained_less_than_others_is_given_what_these_gained_but_raises_no_best_reward():
    kept = {}
    search, archive = proposer(keep=kept.__setitem__), SharedArchive()
    archive.add(Evaluation(Candidate("floor", None, BASE), Scored(objectives={"error": 0.5}), 1, 0, 1.0))
    stopped, climbed = search.ask(2, archive)

    def trained(candidate, rung, error):
        return Evaluation(candidate, Scored(objectives={"error": error}), rung, 0, 1.0)

    search.tell([trained(stopped, 0, 0.55), trained(climbed, 0, 0.6), trained(climbed, 1, 0.4)])
    assert search.rewards[climbed.hash].reward == pytest.approx(0.6)
    assert search.rewards[stopped.hash].metric == pytest.approx(0.45)
    assert search.rewards[stopped.hash].reward == pytest.approx(0.45 + 0.2)
    assert kept == search.rewards
    assert search.progress.best == pytest.approx(0.6)
    assert search.progress.credits["grammar"].gain == pytest.approx(0.1)


class Blind(Ranks):
    """Reads bilinear fusions alone, and says what it was asked for."""

    def follow(self, action, parents, rng):
        return super().follow(action, parents, rng)[0], f"{action.operation} of {len(parents)}"

    def at(self, design):
        return design.model.fusion if isinstance(design.model.fusion, Bilinear) else None


class Clear(Ranks):
    """Reads every fusion."""

    def at(self, design):
        return design.model.fusion


@pytest.mark.parametrize(
    ("author", "changes", "words"),
    [
        ("grammar", {"grammar": Blind(), "writer": writer(Speaker("nothing")), "show": lambda design: "shown"}, "mut"),
        ("code", {"grammar": Clear(), "writer": writer(Speaker(*map(source, range(10, 60)))), "show": show}, "m wrote"),
    ],
)
def test_a_cross_with_a_parent_that_its_author_cannot_read_is_an_edit_of_the_other(author, changes, words):
    archive = SharedArchive()
    for place, fusion in enumerate((Bilinear(rank=3), Gated())):
        design = replace_at(BASE, "model.fusion", fusion)
        archive.add(scored(Candidate("random", None, design), error=0.1 * (1 + place)))
    readable = replace_at(BASE, "model.fusion", Bilinear(rank=3)).content_hash()
    found = [each for each in proposer(**changes).ask(40, archive) if each.genome.action.operation == "crossover"]
    assert {(each.genome.author, each.parents) for each in found} == {(author, (readable,))}
    assert all(each.edit.startswith(words) for each in found)


def rank_of(body):
    """Answer with a rank that follows from the question, sometimes badly or not at all."""
    number = derive_seed(0, json.dumps(body)) % 1000
    if number % 5 == 0:
        return CASES["500"]
    return says(completion("no code" if number % 5 == 1 else source(number)))


def asking(store, server):
    """Return a search that asks a server and keeps what it says."""
    settings = SETTINGS.model_copy(
        update={"base_url": server.url, "backoff_seconds": 0.001, "attempts": 2, "deadline_seconds": 30.0}
    )
    generator = StoredGenerator(OpenAIGenerator(settings, store, environment={}), store)
    return proposer(writer=writer(generator, settings=settings, keep=store.add_conversation), show=show)


def test_a_search_that_is_killed_and_run_again_asks_nothing_twice_and_goes_on_alike(tmp_path):
    """The search resumes by replaying its rows: the same asks, answered from the store."""
    with serving(choose=rank_of) as server:
        with AnswerStore(tmp_path / "whole.db") as store:
            whole = run(asking(store, server), SharedArchive(), 8)
        calls = len(server.calls)
        with AnswerStore(tmp_path / "killed.db") as store:
            run(asking(store, server), SharedArchive(), 5)
        with AnswerStore(tmp_path / "killed.db") as store:
            resumed = run(asking(store, server), SharedArchive(), 8)
            written = [each for each in resumed if each.genome.author == "code"]
            assert written
            assert all(store.conversation(each.hash) for each in written)
        assert len(server.calls) == 2 * calls
    assert resumed == whole
    with AnswerStore(tmp_path / "whole.db") as recorded:
        replayed = proposer(writer=writer(ReplayGenerator(recorded), settings=SETTINGS), show=show)
        assert run(replayed, SharedArchive(), 8) == whole


def test_a_search_whose_key_is_refused_goes_on_without_the_model_also_after_it_is_killed(tmp_path):
    found = []
    for stops in ([4], [2, 4]):
        good = [says(completion(source(rank))) for rank in (7, 8, 9)]
        with serving([good[0], CASES["401"], *good[1:]]) as server:
            for stop in stops:
                with AnswerStore(tmp_path / f"{len(stops)}.db") as store:
                    candidates = run(asking(store, server), SharedArchive(), stop)
            assert len(server.calls) == 2
        found.append(candidates)
    assert found[0] == found[1]


def test_the_action_of_a_candidate_is_kept_with_it():
    (candidate,) = proposer().ask(1, SharedArchive())
    genome = type(candidate.genome).from_json(candidate.genome.to_json())
    assert genome == candidate.genome
    assert isinstance(genome.action, FusionAction)


def test_a_fusion_that_the_grammar_cannot_read_is_no_parent_without_a_language_model():
    archive = SharedArchive()
    strange = replace_at(BASE, "model.fusion", Gated())
    archive.add(scored(Candidate("random", None, strange), error=0.1))
    assert all(each.genome.action.operation == "fresh" for each in proposer().ask(10, archive))
