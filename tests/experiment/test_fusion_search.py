"""A search for fusions on small data with real worker processes: what it leaves, how it goes on, who wrote what."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from benchmarks.llm_fault_server import CASES, SOURCE, completion, says, serving
from chiasma.cli.mechanism_view import printable
from chiasma.core.errors import ConfigError, JailError
from chiasma.evaluate.jail import Jail, Layers
from chiasma.evaluate.jailed_model import JailedModel
from chiasma.experiment.benchmark_judge import Benchmark
from chiasma.experiment.compose import load_config
from chiasma.experiment.evolve import evolve
from chiasma.experiment.front import Front
from chiasma.experiment.fusing import name_of
from chiasma.experiment.fusion_search import resume, search_fusion
from chiasma.experiment.kept_rewards import kept_rewards, reward_keeper
from chiasma.experiment.part_result import SearchResult
from chiasma.experiment.report.proposing import spent_words
from chiasma.experiment.runs import find_folder, find_model, read_results, story
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.writers import made, open_answers, with_writer
from chiasma.model.fusion import Composed, Concat, CrossAttention, Generated
from chiasma.search.fusion_rewards import RewardParts
from chiasma.search.fusion_space import FusionSpace
from chiasma.search.generators.generator import Answer, Message, Request
from chiasma.search.generators.settings import LanguageModel
from chiasma.search.generators.store import AnswerStore
from chiasma.store.run import RunStore
from chiasma.store.trust import forget_source
from tests.cli.conftest import invoke
from tests.experiment.test_attention_search import told
from tests.experiment.test_evolve import TalkingConsole, home
from tests.experiment.toy_run import SIGNATURE

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("fusion_search")

__all__ = ["home"]
SETTINGS = ("data.rows=320", "train.epochs=1", "model.dim=8", "evaluate.seeds=2", "search.generation=3", "run.seed=3")
ALONE = "run.workers=1"
"""One worker is enough where nothing is said of several: each takes seconds to start."""
ANSWER = SOURCE.replace("(image_tokens * image_mask[..., None])", "image_tokens.masked_fill(~image_mask[..., None], 0)")
ANSWER = ANSWER.replace("(text_tokens * text_mask[..., None])", "text_tokens.masked_fill(~text_mask[..., None], 0)")


def config(runs: Path, *settings: str):
    return load_config("quick", overrides=[f"run.folder={runs}", "run.budget=7", ALONE, *SETTINGS, *settings])


def asking(url: str, *settings: str) -> tuple[str, ...]:
    return ("search.generator=openai", "llm.model=m", f"llm.base_url={url}", "llm.backoff_seconds=0.01", *settings)


@pytest.fixture(scope="module")
def searched(home, tmp_path_factory) -> SearchResult:
    """An uninterrupted search with the grammar."""
    return search_fusion(config(tmp_path_factory.mktemp("runs")), console=TalkingConsole())


@pytest.fixture(scope="module")
def written(home, tmp_path_factory) -> SearchResult:
    """A search in which a language model says the same again and again."""
    always = says(completion(f"An idea.\n```python\n{ANSWER}```"))
    with serving(choose=lambda body: always) as server:
        return search_fusion(config(tmp_path_factory.mktemp("runs"), *asking(server.url)), console=TalkingConsole())


@pytest.mark.slow
def test_a_search_leaves_fusions_that_are_compared_with_concatenation_and_cross_attention(searched):
    front = Front.from_dict(json.loads((searched.run_path / "pareto_front.json").read_text()))
    assert front == searched.front
    assert (front.slot, front.standard) == ("fusion", "concat")
    assert front.named("concat").part == Concat(hidden=8).to_dict()
    assert front.named("cross_attention").part == CrossAttention().to_dict()
    assert front.named("cross_attention").gain is not None
    assert {each.part["kind"] for each in front.discovered} == {"composed"}
    report = (searched.run_path / "report.html").read_text()
    assert (searched.run_path / "graphs" / f"{front.best.candidate}.svg").read_text() in report
    assert "over concat" in report
    assert "Who made the fusions" in report
    assert front.gains.keys() == {"fusion", "random"}
    assert "By how much each proposer lowered the lowest error on select" in report


@pytest.mark.slow
def test_a_lesser_jail_stands_in_the_front_and_in_the_report(searched, tmp_path):
    assert not any("lesser jail" in note for note in searched.front.notes)
    run = shutil.copytree(searched.run_path, tmp_path / searched.run_path.name)
    with sqlite3.connect(run / "run.db") as database:
        rows = database.execute("SELECT rowid, outcome FROM jobs WHERE outcome IS NOT NULL").fetchall()
        for row, text in rows:
            outcome = json.loads(text)
            if "metrics" in outcome:
                outcome["metrics"] |= {"jailed": 1.0, "jail_without_kernel": 1.0, "jail_without_files": 1.0}
            database.execute("UPDATE jobs SET outcome = ? WHERE rowid = ?", (json.dumps(outcome), row))
    database.close()
    again = resume(run, console=TalkingConsole())
    words = "Generated source ran in a lesser jail (evaluate.accept_lesser_jail), without: files, kernel."
    assert words in again.front.notes
    assert words in (run / "report.html").read_text()


@pytest.mark.parametrize("closable", [True, False])
def test_a_jail_that_cannot_be_closed_is_found_before_an_answer_is_paid_or_anything_trained(
    closable, home, tmp_path, monkeypatch
):
    layers = Layers() if closable else Layers(landlock=False, seccomp=False)
    with Jail(layers=layers) as jail, serving(choose=lambda body: says(completion("nothing"))) as server:
        monkeypatch.setattr("chiasma.experiment.writers.shared_jail", lambda **_: jail)
        settings = config(tmp_path, *asking(server.url))
        if closable:
            assert with_writer(settings).search.generator == "openai"
            assert jail.warm_pid is not None
        else:
            with pytest.raises(JailError, match=r"cannot be closed on this machine: .*kernel, layers does not hold"):
                search_fusion(settings, console=TalkingConsole())
        assert server.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_control_draws_and_the_policy_proposes(searched):
    with RunStore.open(searched.run_path) as store:
        by = [row.proposer for row in store.candidates() if row.proposer != "floor"]
    assert set(by) == {"fusion", "random"}
    assert searched.front.proposing["credits"]["grammar"]["candidates"] == by.count("fusion")
    assert searched.front.proposing["credits"]["grammar"]["invalid"] == 0


@pytest.mark.slow
def test_a_discovered_fusion_is_named_by_its_run_and_number_and_its_reward_is_kept(searched, tmp_path):
    assert searched.use.startswith("model.fusion=")
    best = searched.front.best
    used = load_config(overrides=[f"model.fusion={searched.run_path}#{best.candidate}"])
    assert used.model.fusion == Composed.from_dict(best.part)
    found = story(searched.run_path, best.candidate)
    assert found.rewards["reward"] == found.rewards["metric"] > 0
    with RunStore.open(searched.run_path) as store:
        fusions = {row.hash: row.number for row in store.candidates() if row.proposer == "fusion"}
        kept, events = kept_rewards(store), store.events("reward")
    assert kept.keys() == fusions.keys()
    assert len(events) == len(kept)
    # Nothing climbs on so few rows: what is shown is what was recorded, and nothing that was worked out again.
    run = shutil.copytree(searched.run_path, tmp_path / searched.run_path.name)
    with RunStore.open(run, write=True) as store:
        lifted = RewardParts(reward=0.6, metric=0.5, lift=0.2, penalties={"flops": 0.1})
        reward_keeper(store)(next(iter(kept)), lifted)
    parts = "reward 0.6000, metric 0.5000, lift for longer training 0.2000, penalty for flops 0.1000"
    assert parts in invoke("show", f"{run}#{fusions[next(iter(kept))]}").output.replace("\n", " ")


@pytest.mark.slow
def test_a_discovered_fusion_is_compared_on_the_sealed_test_split(searched, tmp_path):
    small = ("--run-folder", str(tmp_path), "--config", "quick", "--seeds", "1", "--set", ALONE, *SETTINGS)
    found = invoke("benchmark", "--candidate", f"{searched.run_path}#{searched.front.best.candidate}", *small)
    assert found.exit_code == 0, found.output
    (run,) = tmp_path.iterdir()
    (task,) = Benchmark.from_dict(json.loads((run / "benchmark.json").read_text())).tasks
    trained = {arm.name: arm for arm in task.arms if arm.flops is not None}
    assert list(trained) == ["candidate", "concat", "cross_attention", "champion"]
    assert all(arm.gain is not None for name, arm in trained.items() if name != "candidate")
    wrong = invoke("benchmark", "--candidate", f"{searched.run_path}#1", "--arms", "standard", *small)
    assert "a fusion is compared with concat, cross_attention, champion, but got standard" in wrong.output


@pytest.mark.slow
def test_an_interrupted_search_for_fusions_goes_on_to_the_same_front(home, searched, tmp_path):
    stopped = search_fusion(config(tmp_path, "run.workers=2"), console=TalkingConsole(stop_at="generation 1"))
    assert stopped.stopped == "interrupted"
    result = resume(stopped.run_path, console=TalkingConsole())
    assert told(result.front) == told(searched.front)
    assert result.front.proposing == searched.front.proposing
    with RunStore.open(stopped.run_path) as once, RunStore.open(searched.run_path) as whole:
        assert kept_rewards(once) == kept_rewards(whole)


@pytest.mark.slow
def test_source_of_a_language_model_is_trained_in_the_jail_and_the_rest_by_the_grammar(written):
    with RunStore.open(written.run_path) as store:
        rows = {row.number: row for row in store.candidates() if row.proposer == "fusion"}
        sources = [row for row in rows.values() if row.design["model"]["fusion"]["kind"] == "generated"]
        outcomes = [job.outcome for job in store.jobs() if job.candidate == sources[0].number]
    assert len(sources) == 1
    assert all(outcome.kind == "scored" and outcome.metrics["jailed"] == 1.0 for outcome in outcomes)
    told = written.front.proposing["written"]
    assert told["usable"] == 1 < told["asked"]
    assert told["instead"] == {"nothing usable": told["asked"] - 1}
    assert told["answers"] == 1 + 4 * (told["asked"] - 1)
    conversation = story(written.run_path, sources[0].number).conversation
    assert [turn["role"] for turn in conversation] == ["system", "user", "assistant"]
    assert "FusionModule" in conversation[-1]["content"]


@pytest.mark.slow
def test_what_a_language_model_wrote_is_replayed_without_it(home, written, tmp_path):
    settings = ("search.generator=replay", f"search.replay={written.run_path}")
    again = search_fusion(config(tmp_path, *settings), console=TalkingConsole())
    assert told(again.front) == told(written.front)
    assert again.front.proposing["spent"]["dollars"] == 0


@pytest.mark.slow
def test_the_latest_run_is_replayed_and_not_the_one_that_replays(home, written):
    settings = config(written.run_path.parent, "search.generator=replay", "search.replay=latest")
    assert with_writer(settings).search.replay == str(written.run_path)


@pytest.mark.slow
def test_written_source_runs_in_this_process_only_while_its_hash_is_approved(written):
    with RunStore.open(written.run_path) as store:
        (row,) = [each for each in store.candidates() if each.design["model"]["fusion"]["kind"] == "generated"]
    source, reference = Generated.from_dict(row.design["model"]["fusion"]), f"{written.run_path}#{row.number}"
    train = ["train", "--run-folder", str(written.run_path.parent), "--set", f"model.fusion={reference}", *SETTINGS[:3]]
    assert "not approved: it runs in the jail" in invoke("show", reference).output
    jailed = invoke(*train)
    assert jailed.exit_code == 0, jailed.output
    assert "training in the jail" in jailed.output
    fenced = read_results(find_folder("latest", str(written.run_path.parent)))
    refused = invoke(*train, "run.compile=true")
    assert (refused.exit_code, f"--trust {source.sha256}" in refused.output) == (2, True)
    try:
        open_air = invoke(*train, "--trust", source.sha256)
        assert open_air.exit_code == 0
        assert "training in the jail" not in open_air.output
        free = read_results(find_folder("latest", str(written.run_path.parent)))
        assert (fenced.arms[0].select, fenced.history) == (free.arms[0].select, free.history)
        assert "approved" in invoke("show", reference).output
        one = ("predict", "latest", "--run-folder", str(written.run_path.parent), "--text", "a seven", "--json")
        trusted = json.loads(invoke(*one).output)
    finally:
        forget_source(source.sha256)
    assert json.loads(invoke(*one).output) == trusted
    assert isinstance(SavedModel.load(find_model("latest", str(written.run_path.parent))).model, JailedModel)


def test_a_language_model_without_a_name_a_key_a_price_or_a_folder_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for settings, words in (
        (("search.generator=openai", "llm.model=m"), "OPENAI_API_KEY is not set"),
        (("search.generator=openai", "llm.base_url=http://localhost:1"), "llm.model"),
        (("search.generator=openai", "llm.model=m", "llm.base_url=http://localhost:1", "run.usd=1"), "llm.prices"),
        (("search.generator=transformers",), "llm.folder"),
        (("search.generator=transformers", "llm.folder=/nowhere"), "holds no model"),
        (("run.usd=1",), "run.usd: grammar costs nothing"),
        (("search.generator=openai", "search.proposers=[random]"), "openai writes for the proposer fusion, but search"),
    ):
        for search in (search_fusion, evolve):
            with pytest.raises(ConfigError, match=words):
                search(config(tmp_path, *settings), console=TalkingConsole())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_whole_evolution_asks_a_language_model_too_and_says_what_it_wrote_and_cost(home, tmp_path):
    tree = json.dumps(Composed().to_dict())
    settings = ("llm.form=json", "search.proposers=[random,fusion]", "run.budget=4", "evaluate.seeds=1")
    console = TalkingConsole()
    with serving(choose=lambda body: says(completion(tree))) as server:
        found = evolve(config(tmp_path, *asking(server.url), *settings), console=console)
        asked = len(server.calls)
    told = found.results.proposing
    assert told["spent"]["calls"] == {"answered": asked}
    assert told["spent"]["dollars"] is None
    assert told["written"]["answers"] == asked
    assert {row["proposer"]: row["gain"] >= 0 for row in found.results.proposers} == {"random": True, "fusion": True}
    report, live = found.report_path.read_text(), "\n".join(console.lines)
    unknown = f"{told['spent']['tokens']:,} tokens, cost unknown (llm.prices)"
    for words in (unknown, f"language model {told['written']['usable']} of"):
        assert words in live
    for words in ("What the language model wrote", unknown, "error lowered by"):
        assert words in report


@pytest.mark.slow
def test_a_refused_key_is_said_when_it_happens_and_on_resume_and_in_the_report(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "canary-1b9e-not-a-real-key")
    acts = [says(completion(json.dumps(Composed().to_dict()))), CASES["401"], CASES["good"]]
    first, again = TalkingConsole(), TalkingConsole()
    with serving(acts) as server:
        settings = asking(server.url, "llm.form=json", "llm.variable=SERVER_KEY", "run.budget=4", "evaluate.seeds=1")
        found = search_fusion(config(tmp_path, *settings), console=first)
        calls = len(server.calls)
        longer = resume(found.run_path, budget="6", console=again)
        assert len(server.calls) == calls
    for console, result in ((first, found), (again, longer)):
        (line,) = [line for line in console.lines if "refuses the key" in line]
        for words in (server.url, "check the key in $SERVER_KEY", "The grammar takes over", "begin a new run"):
            assert words in line
        assert line.removeprefix("warning: ") in result.front.notes
    assert "The grammar takes over" in (found.run_path / "report.html").read_text()


@pytest.mark.parametrize("verb", [("evolve",), ("search", "fusion")], ids=" ".join)
def test_both_searches_have_options_for_who_writes_fusions(verb, tmp_path):
    for options, words in (
        (("--usd", "1"), "run.usd: grammar costs nothing"),
        (("--generator", "replay"), "generator=replay and replay=RUN need each other"),
        (("--generator", "replay", "--replay", "absent"), "absent"),
        (("--policy", "luck"), "search.policy"),
    ):
        found = invoke(*verb, "--run-folder", str(tmp_path), *options)
        assert (found.exit_code, words in found.output) == (2, True), found.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "15 tokens, cost unknown (llm.prices)"),
        (("llm.prices.prompt=1",), "15 tokens, cost unknown (llm.prices)"),
        (("llm.prices.prompt=1", "llm.prices.answer=2"), "$0.5000 and 15 tokens"),
        (("search.generator=transformers",), "$0.5000 and 15 tokens"),
    ],
)
def test_dollars_are_given_only_where_they_are_known(tmp_path, settings, words):
    with open_answers(config(tmp_path, *asking("http://localhost:1"), *settings), tmp_path) as answers:
        request = Request(model="m", messages=(Message(role="user", content="Write."),), template="1", seed=1)
        number = answers.own.send(answers.own.add_request(request), 1.0)
        answers.own.settle(number, "answered", cost=0.5, answer=Answer(text="", prompt_tokens=10, answer_tokens=5))
        assert spent_words(answers.spent()) == words


def test_what_a_repeated_run_recorded_is_closed_with_the_run_that_repeats_it(home, tmp_path):
    with RunStore.create(tmp_path, verb="search", config={}, provenance={}) as store:
        recorded = store.path
    AnswerStore(recorded / "answers.db").close()
    settings = config(tmp_path, "search.generator=replay", f"search.replay={recorded}")
    with open_answers(settings, tmp_path) as answers:
        assert answers.recorded.result("unknown") is None
    for store in (answers.own, answers.recorded):
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            store.result("unknown")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("llm.temperature=0.1", r"llm.temperature: a replay asks as the recorded run did, with 0.8, but got 0.1"),
        ("run.seed=5", "run.seed: a replay asks what the recorded run asked, with seed 0, but got 5"),
    ],
)
def test_a_replay_that_would_ask_something_else_is_refused(setting, words, home, tmp_path):
    recorded = {"llm": LanguageModel(model="some", temperature=0.8).to_dict(), "run": {"seed": 0}}
    with RunStore.create(tmp_path, verb="search", config=recorded, provenance={}) as store:
        pass
    AnswerStore(store.path / "answers.db").close()
    asked = ("search.generator=replay", f"search.replay={store.path}", "llm.form=json")
    with pytest.raises(ConfigError, match=r"llm.form: a replay asks .* with 'code', but got 'json'"):
        with_writer(config(tmp_path, *asked))
    with pytest.raises(ConfigError, match=words):
        with_writer(config(tmp_path, *asked[:2], setting))


def test_a_replay_needs_a_run_that_recorded_answers():
    with pytest.raises(ConfigError, match="generator=replay and replay=RUN need each other"):
        load_config(overrides=["search.generator=replay"])
    with pytest.raises(ConfigError, match="need each other"):
        load_config(overrides=["search.replay=latest"])


def test_modules_that_differ_in_a_comment_are_one():
    space, base = FusionSpace(), load_config().design(SIGNATURE)
    designs = [made(f"# note {number}\n{ANSWER}", base) for number in range(2)]
    assert designs[0].content_hash() != designs[1].content_hash()
    assert name_of(space, designs[0]) == name_of(space, designs[1]) != name_of(space, base)


def test_what_a_reader_is_shown_of_unread_source_cannot_move_the_cursor_or_turn_the_line():
    assert printable("a\tb\n\x1b[2Kc\u202ed") == "a\tb\n\\x1b[2Kc\\u202ed"
