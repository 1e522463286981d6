"""A discovered attention against the standard one: arms, matching, pairing, and what a reader is told."""

import pytest

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at, value_at
from chiasma.experiment.beginning import StoppedTooSoonError
from chiasma.experiment.benchmark import benchmark, read_benchmark, resume
from chiasma.experiment.benchmark_judge import Benchmark, BenchmarkArm, Order, TaskResult, benchmark_notes
from chiasma.experiment.benchmark_tasks import task_configs
from chiasma.experiment.compose import load_config
from chiasma.experiment.matching import matched
from chiasma.experiment.mechanism import around_slot
from chiasma.experiment.report.benchmark import task_table
from chiasma.experiment.results import Gain, Interval
from chiasma.experiment.statistics import verdict
from chiasma.model.cost import cost
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.kernel import Projections
from chiasma.store.run import RunStore
from tests.experiment.test_evolve import TalkingConsole, home
from tests.experiment.toy_run import SIGNATURE

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("benchmark")

__all__ = ["home"]
SMALL = ("data.rows=320", "train.epochs=1", "model.dim=16", "evaluate.resamples=200")
SIGMOID = AttentionGraph.from_dict(
    {
        "nodes": [
            {"op": "dot", "inputs": ["q", "k"]},
            {"op": "sigmoid", "inputs": [0]},
            {"op": "weighted_sum", "inputs": [1, "v"]},
        ]
    }
)
SELF_ONLY = AttentionGraph.from_dict(
    {
        "nodes": [
            {"op": "dot", "inputs": ["v", "k"]},
            {"op": "softmax", "inputs": [0]},
            {"op": "weighted_sum", "inputs": [1, "v"]},
        ]
    }
)


def order(folder, *, seeds=2, arms=("standard", "matched_flops", "mean"), graph=SIGMOID) -> Order:
    configs = task_configs("digit_claims", preset="cpu", overrides=[f"run.folder={folder}", *SMALL])
    attention = GraphAttention(graph=graph, projections=Projections(q=False))
    return Order(reference="search#7", attention=attention, tasks=configs, seeds=seeds, arms=arms)


@pytest.fixture(scope="module")
def measured(home, tmp_path_factory) -> tuple[Benchmark, list[str]]:
    """A benchmark that was stopped once and went on."""
    runs, console = tmp_path_factory.mktemp("runs"), TalkingConsole(stop_at="seed 1, candidate")
    with pytest.raises(StoppedTooSoonError, match=r"no test split was opened\. Go on: chiasma resume"):
        benchmark(order(runs), console=console)
    (run,) = runs.iterdir()
    console = TalkingConsole()
    result = resume(run, console=console)
    assert read_benchmark(run) == result.benchmark
    with RunStore.open(run) as store:
        trained = [arm for arm in result.benchmark.tasks[0].arms if arm.dim is not None and arm.same_as is None]
        assert len([job for job in store.jobs() if job.outcome is not None]) == 2 * len(trained)
    return result.benchmark, console.lines


@pytest.mark.slow
def test_every_arm_is_trained_on_every_seed_and_the_candidate_is_compared_with_each(measured):
    (task,) = measured[0].tasks
    arms = {arm.name: arm for arm in task.arms}
    assert {"candidate", "standard", "matched_flops", "mean", "majority"} <= set(arms)
    assert all(arms[name].seeds == 2 for name in ("candidate", "standard", "matched_flops", "mean"))
    assert arms["candidate"].gain is None
    assert all(arm.gain is not None for name, arm in arms.items() if name != "candidate")


@pytest.mark.slow
def test_an_arm_that_diverges_is_reported_and_compared_with_nothing(home, tmp_path):
    settings = [f"run.folder={tmp_path}", *SMALL, "run.workers=1", "optim.lr=1e30"]
    configs = task_configs("digit_claims", preset="cpu", overrides=settings)
    diverging = order(tmp_path, seeds=1, arms=("standard",)).model_copy(update={"tasks": configs})
    found = benchmark(diverging, console=TalkingConsole()).benchmark
    arms = {arm.name: arm for arm in found.tasks[0].arms}
    assert (arms["candidate"].diverged, arms["candidate"].test) == (1, None)
    assert all(arm.gain is None for arm in arms.values())
    assert any("candidate could not be trained on 1 of 1 seeds" in note for note in found.notes)
    assert task_table(found.tasks[0]).row_count == len(arms)


@pytest.mark.slow
def test_the_gain_of_standard_attention_over_the_mean_is_paired_and_said(measured):
    matters = measured[0].tasks[0].attention_matters
    assert matters.low <= matters.value <= matters.high
    assert any("standard attention over the mean of the values: " in note for note in measured[0].notes)


@pytest.mark.slow
def test_the_opening_of_the_test_split_is_counted_and_said(measured):
    found, lines = measured
    assert found.tasks[0].opening == 0
    assert "digit_claims: This test split had never been opened before." in lines


@pytest.mark.slow
def test_what_makes_figures_weak_is_said(measured):
    notes = " ".join(measured[0].notes)
    assert "fewer than three seeds" in notes
    assert "attention is not shown to matter here" in notes
    assert len(task_table(measured[0].tasks[0]).rows) == len(measured[0].tasks[0].arms)


def test_a_mechanism_for_one_sequence_is_refused_where_two_meet(home, tmp_path):
    with pytest.raises(ConfigError, match=r"fusion\.attention of task digit_claims, where one modality looks at anoth"):
        benchmark(order(tmp_path, graph=SELF_ONLY), console=TalkingConsole())


def test_matching_finds_the_width_of_the_nearest_cost():
    design = around_slot(load_config(overrides=["search.slot=image.attention"]), SIGNATURE).design(SIGNATURE)
    wide = replace_at(design, "model.dim", 96)
    target = cost(wide.model, SIGNATURE).flops
    assert matched(design, SIGNATURE, measure=lambda c: c.flops, target=1.01 * target) == wide
    assert matched(design, SIGNATURE, measure=lambda c: c.flops, target=0.99 * target) == wide
    narrow = matched(design, SIGNATURE, measure=lambda c: c.flops, target=0.0)
    assert narrow.model.dim == int(value_at(design, "model.encoders.image.heads"))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("cifar", r"there is no task 'cifar'\. Did you mean 'cifar10'\?"),
        ("cifar10", r"say where its data lie, cifar10=PATH, or set CHIASMA_DATA"),
    ],
)
def test_a_task_that_cannot_be_found_is_refused_with_the_remedy(names, reason, monkeypatch):
    monkeypatch.delenv("CHIASMA_DATA", raising=False)
    with pytest.raises(ConfigError, match=reason):
        task_configs(names, preset="cpu")


def test_a_task_is_found_below_the_folder_of_data(monkeypatch, tmp_path):
    (tmp_path / "imdb").mkdir()
    monkeypatch.setenv("CHIASMA_DATA", str(tmp_path))
    assert task_configs("imdb", preset="full")["imdb"].data.source == str(tmp_path / "imdb")
    with pytest.raises(ConfigError, match="task easy_vqa has no sizes 'full', only cpu"):
        task_configs("easy_vqa", preset="full")


def ablation(folder, *, parts=("growth",), settings=()) -> Order:
    overrides = [f"run.folder={folder}", *SMALL, "train.epochs=2", "train.evaluations=4", "growth.learned=0", *settings]
    config = load_config("growth", overrides=overrides)
    return Order(reference="the design of the settings", tasks={"data": config}, seeds=2, ablate=parts)


@pytest.fixture(scope="module")
def ablated(home, tmp_path_factory) -> tuple[Benchmark, list[str], RunStore]:
    """An ablation that was stopped once, after its first part was measured, and went on."""
    runs = tmp_path_factory.mktemp("ablations")
    with pytest.raises(StoppedTooSoonError, match="no test split was opened"):
        benchmark(ablation(runs), console=TalkingConsole(stop_at="without growth"))
    (run,) = runs.iterdir()
    console = TalkingConsole()
    result = resume(run, console=console)
    with RunStore.open(run) as store:
        return result.benchmark, console.lines, store


@pytest.mark.slow
def test_what_growth_is_worth_is_asked_at_equal_time_on_paired_seeds(ablated):
    (task,) = ablated[0].tasks
    arms = {arm.name: arm for arm in task.arms}
    assert {"candidate", "without_growth", "majority"} <= set(arms)
    assert arms["candidate"].seeds == arms["without_growth"].seeds == 2
    assert arms["without_growth"].gain is not None
    assert task_table(task).title.startswith("data, ")
    goal, took = (arms[name].train_seconds for name in ("candidate", "without_growth"))
    (note, *_) = ablated[0].notes
    assert any(words.startswith("data: the training with growth ") for words in ablated[0].notes)
    assert f"candidate {goal:.1f} s, without_growth {took:.1f} s" in note
    assert note.startswith("Every arm had the same wall time") == (abs(took / goal - 1) <= 0.1)


@pytest.mark.slow
def test_the_arm_without_a_part_has_the_epochs_that_fit_into_the_time_of_the_whole(ablated):
    (line,) = [line for line in ablated[1] if line.startswith("without growth: ")]
    epochs = float(line.split()[2])
    assert epochs > 2
    with RunStore.open(ablated[2].path) as store:
        (design,) = [row.design for row in store.candidates() if row.genome["arm"] == "without_growth"]
    assert design["training"]["loop"]["epochs"] == epochs
    assert design["training"]["growth"] is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (
            0.01,
            0.05,
            "the training with controller beats the one without it; its gain is 3.0 points (1.0 to 5.0).",
        ),
        (
            -0.05,
            -0.01,
            "the training with controller does not beat the one without it, but is behind it; its gain",
        ),
        (
            -0.01,
            0.05,
            "the training with controller does not beat the one without it: no difference can be shown;",
        ),
    ],
)
def test_a_benchmark_says_in_words_whether_a_part_paid(low: float, high: float, said: str):
    middle = Interval(value=(low + high) / 2, low=low, high=high)
    gain = Gain(against="without_controller", metric="accuracy", gain=middle, verdict=verdict(middle), detectable=0.1)
    arms = (
        BenchmarkArm(name="candidate", description="whole", test=middle),
        BenchmarkArm(name="without_controller", description="without", test=middle, gain=gain),
    )
    task = TaskResult(task="data", source="x", slot="", metric="accuracy", test_examples=9, opening=0, arms=arms)
    order = Order(reference="the design of the settings", tasks={}, seeds=3, ablate=("controller",))
    assert [note for note in benchmark_notes(order, [task]) if note.startswith(f"data: {said}")]
    untrained = task.model_copy(update={"arms": (arms[0], arms[1].model_copy(update={"gain": None}))})
    assert "what controller is worth is not known" in "".join(benchmark_notes(order, [untrained]))


@pytest.mark.slow
def test_every_worker_has_trained_before_anything_is_timed(ablated):
    """The run was stopped once: its second sitting had new workers."""
    with RunStore.open(ablated[2].path) as store:
        purposes = [row.key.split("/")[0] for row in store.jobs()]
    assert purposes.count("warm data") == 4
    assert purposes[:3] == ["warm data", "warm data", "benchmark data"]


def timed(took: dict[str, float]) -> str:
    """Return what is said of the time of arms that took so long."""
    arms = [BenchmarkArm(name=name, description="", train_seconds=each, test=None) for name, each in took.items()]
    floor = BenchmarkArm(name="majority", description="", test=None)
    result = TaskResult(
        task="data", source="", slot="", metric="auroc", test_examples=1, opening=0, arms=(*arms, floor)
    )
    asked = Order(reference="x", tasks={}, seeds=3, ablate=("growth",))
    return benchmark_notes(asked, [result])[0]


def test_arms_are_said_to_have_had_the_same_time_only_where_they_had():
    assert timed({"candidate": 20.0, "without_growth": 21.0}) == (
        "Every arm had the same wall time, within 10 %, and 3 paired seed(s); epochs may differ. Wall time of a "
        "training on average: candidate 20.0 s, without_growth 21.0 s (+5 %)."
    )
    said = timed({"candidate": 20.3, "without_growth": 15.5})
    assert "but not the same wall time" in said
    assert "without_growth 15.5 s (-24 %)" in said


def test_a_part_is_left_out_once():
    with pytest.raises(ConfigError, match="each part is named once, but got growth, growth"):
        Order.from_dict({"reference": "x", "tasks": {}, "seeds": 1, "ablate": ["growth", "growth"]})


def test_a_part_that_is_not_there_cannot_be_left_out(home, tmp_path):
    plain = ablation(tmp_path, settings=["growth=null"])
    with pytest.raises(ConfigError, match="--ablate growth: the settings have no growth to leave out"):
        benchmark(plain, console=TalkingConsole())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_part_cannot_be_left_out_where_the_controller_then_sets_nothing(home, tmp_path):
    controls = ["controller.kind=lstm", "controller.controls=[structure]"]
    with pytest.raises(ConfigError, match=r"would set nothing in this design: structure needs a trunk that grows"):
        benchmark(ablation(tmp_path, settings=controls), console=TalkingConsole())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
