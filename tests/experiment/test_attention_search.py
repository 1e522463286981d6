"""A search for attention mechanisms on small data with real worker processes: what it leaves, and how it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import ConfigError, StorageError
from chiasma.core.outcome import Scored
from chiasma.core.spec import value_at
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.experiment.attention_search import resume, search_attention
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import default_design
from chiasma.experiment.discoveries import attention_of
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training
from chiasma.experiment.front import STANDINGS, Front, Mechanism, comparable, on_front
from chiasma.experiment.judging import Judging
from chiasma.experiment.mechanism import around_slot, baselines, slot_path
from chiasma.experiment.part_result import SearchResult
from chiasma.experiment.report.drawing import draw
from chiasma.experiment.report.front import headline
from chiasma.experiment.results import Interval
from chiasma.experiment.runs import read_results, story
from chiasma.experiment.setting import Setting
from chiasma.experiment.statistics import verdict
from chiasma.model.attention import DotProduct, Mean
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.kernel import Projections
from chiasma.search.attention_space import attention_slots, short_slot, slot_named
from chiasma.store.folders import ledger_folder
from chiasma.store.openings import OpeningLedger
from chiasma.store.run import RunStore
from tests.experiment.test_evolve import TalkingConsole, home
from tests.experiment.toy_run import SIGNATURE

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("attention_search")

__all__ = ["home"]
SETTINGS = (
    "data.rows=320",
    "train.epochs=1",
    "model.dim=8",
    "evaluate.seeds=2",
    "model.encoders.text.kind=ngram",
    # One is enough where nothing is said of several: each takes seconds to start.
    "run.workers=1",
    "search.generation=2",
    # With this seed children and crosses of what was found are among the few that there is time for.
    "run.seed=3",
)


def config(runs: Path, *settings: str):
    overrides = [f"run.folder={runs}", "run.budget=8", "search.slot=image.attention", *SETTINGS, *settings]
    return load_config("quick", overrides=overrides)


@pytest.fixture(scope="module")
def searched(home, tmp_path_factory) -> SearchResult:
    """An uninterrupted search."""
    return search_attention(config(tmp_path_factory.mktemp("runs")), console=TalkingConsole())


def told(front: Front):
    """Return everything that must be the same after an interruption."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in front.history]
    return front.mechanisms, front.hypervolume, front.duplicates_saved, front.refused, rows


@pytest.mark.slow
def test_a_search_leaves_the_front_with_intervals_drawings_and_a_report(searched):
    front = Front.from_dict(json.loads((searched.run_path / "pareto_front.json").read_text()))
    assert front == searched.front
    assert front.slot == "image.attention"
    assert {"standard", "mean"} < {each.name for each in front.mechanisms}
    assert all(each.score.low <= each.score.value <= each.score.high for each in front.mechanisms)
    assert front.named("standard").gain is None
    assert front.best.gain is not None
    assert front.attention_matters is not None
    drawing = (searched.run_path / "graphs" / f"{front.best.candidate}.svg").read_text()
    assert drawing.startswith("<svg")
    report = (searched.run_path / "report.html").read_text()
    assert drawing in report
    assert "<script" not in report


@pytest.mark.slow
def test_the_test_split_stays_sealed(searched):
    with RunStore.open(searched.run_path) as store:
        (data,) = store.events("dataset")
    assert OpeningLedger(ledger_folder()).openings(data.data["fingerprint"]) == []
    assert "a test split that is sealed until then" in " ".join(searched.front.notes)


@pytest.mark.slow
def test_the_best_are_judged_on_seeds_that_did_not_select_them(searched):
    with RunStore.open(searched.run_path) as store:
        selecting = {job.seed for job in store.jobs() if job.purpose == "search"}
        judging = {job.seed for job in store.jobs() if job.purpose == "final"}
    assert len(judging) == 2
    assert not selecting & judging


@pytest.mark.slow
def test_a_limit_holds_for_what_is_not_an_objective_too(home, tmp_path):
    settings = (
        "evaluate.objectives=[error]",
        "search.limits={flops: 1}",
        "search.proposers=[random]",
        "evaluate.seeds=1",
        "run.budget=2",
    )
    result = search_attention(config(tmp_path, *settings), console=TalkingConsole())
    assert result.front.objectives == ("error",)
    assert not any(each.feasible or each.on_front for each in result.front.mechanisms)
    assert result.front.best is None
    assert result.use == ""
    assert any("Beyond search.limits" in note for note in result.front.notes)
    with RunStore.open(result.run_path) as store:
        proposers = {row.proposer for row in store.candidates()}
        measured = [row.outcome.objectives for row in store.jobs("search")]
    assert proposers == {"floor", "random"}
    assert all(set(each) == {"error", "flops"} for each in measured)


@pytest.mark.slow
def test_further_tasks_are_objectives_of_their_own_and_the_search_goes_on_with_them(home, tmp_path):
    also = {"second": config(tmp_path, "model.dim=16", "data.rows=400")}
    settings = config(tmp_path, "run.budget=3", "evaluate.seeds=1")
    stopping = TalkingConsole(stop_at="generation 1")
    stopped = search_attention(settings, also=also, console=stopping)
    assert stopped.stopped == "interrupted"
    result = resume(stopped.run_path, console=TalkingConsole())
    assert result.front.objectives == ("error", "error@second", "flops")
    assert all(each.elsewhere["second"].metric == "accuracy" for each in result.front.mechanisms)
    assert result.front.named("mean").elsewhere["second"].gain is not None
    assert "on second" in (result.run_path / "report.html").read_text()
    with RunStore.open(result.run_path) as store:
        assert all({"error@second"} < set(row.outcome.objectives) for row in store.jobs("search"))


@pytest.mark.slow
def test_with_a_warm_start_children_begin_with_the_weights_of_their_parents(home, tmp_path, monkeypatch):
    begun = []
    make = Setting.make_job

    def noted(self, **arguments):
        job = make(self, **arguments)
        begun.append((job.key.partition("/")[0], job.start_from))
        return job

    monkeypatch.setattr(Setting, "make_job", noted)
    warm = ("search.warm_start=true", "search.generation=2", "search.floor_share=0", "evaluate.seeds=1", "run.budget=6")
    result = search_attention(config(tmp_path, *warm), console=TalkingConsole())
    assert any(start is not None and Path(start).is_dir() for purpose, start in begun if purpose == "search")
    assert all(start is None for purpose, start in begun if purpose == "judge")
    assert result.front.best is not None


@pytest.mark.parametrize(("name", "value"), [("search.generator", "openai"), ("run.usd", "2")])
def test_a_search_for_attention_asks_no_language_model_and_says_so(name, value, tmp_path):
    settings = load_config(None, overrides=[f"{name}={value}", f"run.folder={tmp_path}"])
    with pytest.raises(ConfigError, match=rf"{name}: no language model writes attention mechanisms"):
        search_attention(settings, console=TalkingConsole())


@pytest.mark.parametrize("part", ["fusion", "fusion.attention"])
def test_a_run_without_a_candidate_is_not_a_part_of_a_model(part):
    with pytest.raises(
        ConfigError, match=r"expected settings \(\w+\.kind=\.\.\.\) or a candidate of a run, RUN#K, but got 'latest'"
    ):
        load_config(overrides=[f"model.{part}=latest"])


def test_a_search_without_anybody_who_makes_mechanisms_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.proposers"):
        search_attention(config(tmp_path, "search.proposers=[local]"), console=TalkingConsole())


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_the_same_front(home, searched, tmp_path):
    stopped = search_attention(config(tmp_path, "run.workers=2"), console=TalkingConsole(stop_at="generation 3"))
    assert stopped.stopped == "interrupted"
    assert not stopped.front.fresh
    assert all(each.standing is None for each in stopped.front.mechanisms)
    assert "nobody is ahead" in " ".join(stopped.front.notes)
    assert "As the search itself measured them" in (stopped.run_path / "report.html").read_text()
    resumed = resume(stopped.run_path, console=TalkingConsole()).front
    assert told(resumed) == told(searched.front)
    with RunStore.open(stopped.run_path) as store:
        bred = [row for row in store.candidates() if row.proposer == "attention"]
        first = {arm.candidate for arm in resumed.mechanisms if arm.name == "standard"}
        assert any({store.by_hash(hash).number for hash in row.parents} - first for row in bred)
        assert any(len(row.parents) == 2 for row in bred)
        assert any(job.key.startswith("again-") for job in store.jobs("search"))
    # The time of a generation is when it ended, not when a resume went through it again.
    assert resumed.history[0]["seconds"] == stopped.front.history[0]["seconds"]


@pytest.mark.slow
def test_a_search_that_is_stopped_while_it_judges_keeps_what_was_judged(home, tmp_path):
    stopped = search_attention(config(tmp_path), console=TalkingConsole(stop_at="judging on fresh seed 2"))
    assert stopped.stopped == "interrupted"
    assert stopped.front.fresh
    assert {each.seeds for each in stopped.front.mechanisms} == {1}


@pytest.mark.slow
def test_the_front_says_how_it_was_judged_and_what_was_left_out(searched):
    front = searched.front
    assert front.fresh
    assert front.trained == 1
    assert any(f"the best of {front.candidates} on these rows" in note for note in front.notes)
    named = {each.name for each in front.mechanisms} | {each.name for each in front.unjudged}
    assert len(named) == len(front.mechanisms) + len(front.unjudged)


def front_with(gain: tuple[float, float, float], *, seeds: int = 3, fresh: bool = True) -> Front:
    """A front of one discovery with half of the standard's FLOPs."""
    low, value, high = gain
    score = Interval(value=0.6, low=0.5, high=0.7, level=0.95)
    over = Interval(value=value, low=low, high=high, level=0.95)
    shared = {"attention": GraphAttention().to_dict(), "formula": "", "score": score, "seeds": seeds, "on_front": True}
    standard = Mechanism(name="standard", candidate=1, objectives={"error": 0.4, "flops": 8.0}, **shared)
    found = Mechanism(
        name="#7",
        candidate=7,
        objectives={"error": 0.3, "flops": 4.0},
        gain=over,
        standing=STANDINGS[verdict(over)],
        **shared,
    )
    return Front(
        run="r",
        source="s",
        slot="image.attention",
        metric="accuracy",
        objectives=("error", "flops"),
        mechanisms=(standard, found),
        reference=(1.0, 9.0),
        hypervolume=0.1,
        candidates=50,
        fresh=fresh,
    )


def test_the_headline_claims_a_gain_only_where_its_interval_is_above_zero():
    assert headline(front_with((0.01, 0.02, 0.03))).startswith("#7 is ahead of standard attention by 2.0 points")
    assert "at 0.50 times the flops, on the rows that chose it" in headline(front_with((0.01, 0.02, 0.03)))
    assert "benchmark --candidate r#7 says whether that holds" in headline(front_with((0.01, 0.02, 0.03)))
    assert headline(front_with((-0.01, 0.02, 0.03))).startswith("No mechanism is ahead of standard")
    assert "the best of 50, #7" in headline(front_with((-0.01, 0.02, 0.03)))


def test_the_headline_says_when_a_gain_rests_on_one_seed_or_on_the_seed_that_selected():
    assert "on one fresh seed, which says nothing of the luck" in headline(front_with((0.01, 0.02, 0.03), seeds=1))
    assert "not judged on fresh seeds" in headline(front_with((0.01, 0.02, 0.03), fresh=False))


def test_the_words_of_a_mechanism_name_the_projections_that_it_lacks():
    assert GraphAttention().words == "softmax(q·kᵀ/√d)·v"
    assert GraphAttention(projections=Projections(v=False, o=False)).words.endswith("·v, without W_v, W_o")


def arm(name: str, **errors: float) -> TrainedArm:
    trainings = [
        Training(Path(), int(seed[1:]), Scored(objectives={"error": error}), 1.0) for seed, error in errors.items()
    ]
    return TrainedArm(ArmDesign(name, "finalist", "", 1, default_design(SIGNATURE)), tuple(trainings))


def test_whoever_was_trained_on_fewer_seeds_is_compared_as_if_trained_on_all():
    arms = [arm("a", s0=0.2, s1=0.1), arm("b", s0=0.1)]
    assert comparable(arms, ["error"]) == pytest.approx(np.array([[0.15], [0.05]]))
    assert on_front(arms, ["error"], [True, True]) == {"b"}
    assert on_front(arms, ["error"], [True, False]) == {"a"}


def test_an_arm_with_one_seed_does_not_make_the_others_forget_theirs():
    arms = [arm("a", s0=0.3, s1=0.3, s2=0.3), arm("b", s0=0.31, s1=0.2, s2=0.2), arm("c", s0=0.5)]
    assert comparable(arms[:2], ["error"]) == pytest.approx(np.array([[0.3], [0.71 / 3]]))
    assert on_front(arms, ["error"], [True, True, True]) == {"b"}


@pytest.mark.slow
def test_without_a_number_the_best_mechanism_is_shown_and_a_winner_is_not_pretended(searched):
    assert story(searched.run_path, None).title.startswith(f"{searched.run_path.name}{searched.front.best.name}")
    with pytest.raises(StorageError, match="is a search for one part of a model: it has no classifier as its winner"):
        read_results(searched.run_path)


@pytest.mark.slow
def test_a_discovery_is_named_by_its_run_and_number(searched):
    best = searched.front.best
    runs = f"run.folder={searched.run_path.parent}"
    used = load_config(overrides=[runs, *searched.use.split()])
    assert used.model.encoders["image"].attention.to_dict() == best.part
    assert f"chiasma train --set {searched.use}<" in (searched.run_path / "report.html").read_text()
    assert attention_of(f"{searched.run_path}#{best.candidate}").to_dict() == best.part


def test_a_discovery_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"run 'nothing' was not found"):
        load_config(overrides=[f"run.folder={tmp_path}", "model.fusion={kind: early, attention: 'nothing#3'}"])


@pytest.mark.parametrize("slot", ["image.attention", "text.attention", "fusion.attention"])
def test_every_slot_has_a_model_around_it_with_standard_attention_in_it(slot):
    settings = around_slot(load_config(overrides=[f"search.slot={slot}"]), SIGNATURE)
    path, design = slot_path(settings, SIGNATURE), settings.design(SIGNATURE)
    assert path in attention_slots(design)
    assert value_at(design, path) == DotProduct()
    assert value_at(baselines(design, path)["mean"][0], path) == Mean()


def test_a_part_without_attention_is_named_with_one_that_has():
    with pytest.raises(ConfigError, match=r"'film', which has no attention.*--set model\.fusion\.kind=early"):
        around_slot(load_config(overrides=["model.fusion.kind=film"]), SIGNATURE)


@pytest.mark.parametrize("name", ["image.attention", "text.attention", "fusion.attention"])
def test_a_slot_that_a_user_names_is_found_again(name):
    assert short_slot(slot_named(name)) == name
    settings = [f"search.slot={name}"]
    assert slot_path(load_config(overrides=settings), SIGNATURE) == slot_named(name)


def test_a_slot_that_the_data_lack_is_refused():
    images = SIGNATURE.model_copy(update={"inputs": {"image": SIGNATURE.inputs["image"]}})
    with pytest.raises(ConfigError, match=r"fusion\.attention needs images and texts, but the data have only image"):
        slot_path(load_config(overrides=["search.slot=fusion.attention"]), images)
    with pytest.raises(ConfigError, match="the data have no text, only image"):
        slot_path(load_config(overrides=["search.slot=text.attention"]), images)
    assert slot_path(load_config(), images) == "model.encoders.image.attention"


def test_a_drawing_has_a_box_for_every_input_and_operator():
    drawing = str(draw(AttentionGraph()))
    assert drawing.count("<rect") == 6
    assert drawing.count("<path") == 5
    assert ">weighted sum<" in drawing


def test_a_front_of_an_older_version_is_read():
    whole = front_with((0.01, 0.02, 0.03)).to_dict()
    for each in whole["mechanisms"]:
        each["verdict"] = {"ahead": "better"}.get(each.pop("standing"))
    assert Front.from_dict(whole) == front_with((0.01, 0.02, 0.03))


def answering(folder: Path, labels: np.ndarray, correct: float) -> TrainedArm:
    """Return an arm that is right on a share of the examples, evenly over labels."""
    folder.mkdir()
    right = np.empty(len(labels), dtype=bool)
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        right[places] = np.arange(len(places)) < round(correct * len(places))
    np.savez(folder / "select.npz", logits=np.eye(2)[np.where(right, labels, 1 - labels)])
    training = Training(folder, 0, Scored(objectives={"error": 1 - correct}), 1.0)
    return TrainedArm(ArmDesign(folder.name, "finalist", "", 1, default_design(SIGNATURE)), (training,))


def test_the_more_mechanisms_are_judged_the_more_it_takes_to_be_above_chance(tmp_path):
    dataset, _ = prepare(DataSpec(source="digit_claims", rows=2500), seed=0, cache=tmp_path / "cache")
    judging = Judging(dataset, metric="accuracy", level=0.95, resamples=4000)
    labels = dataset.labels(dataset.rows("select")).numpy()
    floor = np.tile([1.0, 0.0], (len(labels), 1))
    spread = 0.5 / np.sqrt(len(labels))
    chance = answering(tmp_path / "chance", labels, 0.5)
    lucky = answering(tmp_path / "lucky", labels, 0.5 + 2.6 * spread)
    able = answering(tmp_path / "able", labels, 0.5 + 8 * spread)
    assert judging.above([chance], floor) is False
    assert judging.above([lucky], floor) is True
    assert judging.above([lucky] + [chance] * 40, floor) is False
    assert judging.above([able] + [chance] * 40, floor) is True


@pytest.mark.slow
def test_a_front_knows_what_chance_is_and_whether_anything_is_above_it(searched):
    assert 0.4 < searched.front.chance < 0.6
    assert searched.front.above_chance in (True, False)
    nothing = any("there was nothing to find" in note for note in searched.front.notes)
    assert nothing is not searched.front.above_chance


def test_limits_are_read_from_the_settings_and_hold_for_costs_that_exist():
    with pytest.raises(ConfigError, match=r"search\.limits\.speed"):
        load_config(overrides=["search.limits={speed: 3}"])
    assert load_config(overrides=["search.limits={flops: 2e6}"]).search.limits == {"flops": 2e6}


def test_a_front_of_a_version_that_knew_attention_alone_is_still_read(searched):
    content = searched.front.to_dict()
    for each in (*content["mechanisms"], *content["unjudged"]):
        each["attention"] = each.pop("part")
    del content["standard"]
    assert Front.from_dict(content) == searched.front
