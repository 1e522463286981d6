"""Generators that need no network, the store, and what counts as new."""

import json
import sqlite3
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from chiasma.core.errors import ConfigError, CorruptFileError, StorageError
from chiasma.search.generators.choosing import build_generator
from chiasma.search.generators.generator import Answer, Generator, Message, Request, UnansweredError
from chiasma.search.generators.replay import ReplayGenerator
from chiasma.search.generators.settings import LanguageModel, Prices
from chiasma.search.generators.store import AnswerStore
from chiasma.search.generators.stored import StoredGenerator
from chiasma.search.generators.transformers import TransformersGenerator
from chiasma.search.novelty import UnreadableSourceError, source_hash

MESSAGES = (Message(role="system", content="You write."), Message(role="user", content="Write a fusion."))
REQUEST = Request(model="m", messages=MESSAGES, template="1", seed=3, max_tokens=12)
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


def changed(**changes):
    return Request.from_dict({**REQUEST.to_dict(), **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a real checkpoint of a tiny language model over bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: place for place, letter in enumerate(letters, 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def local(folder):
    return TransformersGenerator(LanguageModel(folder=str(folder)))


def test_a_model_in_a_folder_answers_and_the_seed_decides_what(local):
    first, again, other = (local.answer(each) for each in (REQUEST, REQUEST, changed(seed=4)))
    assert first.text == again.text != other.text
    assert first.answer_tokens == 12
    assert first.finish == "length"
    assert first.cost == 0.0


def test_what_a_model_in_a_folder_samples_leaves_the_global_generator_alone(local):
    before = torch.get_rng_state()
    local.answer(REQUEST)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_temperature_the_seed_does_not_matter(local):
    assert local.answer(changed(temperature=0)).text == local.answer(changed(temperature=0, seed=9)).text


def test_the_models_own_form_of_a_conversation_is_used_where_it_has_one(folder, local):
    plain = local.answer(REQUEST)
    form = TransformersGenerator(LanguageModel(folder=str(folder)))
    form._tokenizer.chat_template = CHAT
    own = form.answer(REQUEST)
    assert own.prompt_tokens == len("<system>You write.<user>Write a fusion.<answer>")
    assert plain.prompt_tokens == len("### system\nYou write.\n\n### user\nWrite a fusion.\n\n### assistant\n")


def test_an_answer_ends_where_the_model_ends_it(folder):
    generator = TransformersGenerator(LanguageModel(folder=str(folder)))
    with torch.no_grad():
        generator._model.lm_head.weight.zero_()
        generator._model.lm_head.weight[0] = generator._model.model.norm.weight * 0 + 1
        generator._model.model.norm.weight.zero_()
    found = generator.answer(changed(temperature=0))
    assert (found.text, found.finish, found.answer_tokens) == ("", "stop", 1)


def test_a_request_that_the_model_cannot_read_is_refused(local):
    long = changed(messages=[{"role": "user", "content": "a" * 200}])
    with pytest.raises(UnansweredError, match=r"m: the request has 225 tokens, but the model reads at most 128\."):
        local.answer(long)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"llm\.folder: the folder of a model is needed, but none is given"):
        TransformersGenerator(LanguageModel())
    with pytest.raises(ConfigError, match=r"holds no model: it has no config\.json"):
        TransformersGenerator(LanguageModel(folder=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="holds no causal language model that can be used"):
        TransformersGenerator(LanguageModel(folder=str(tmp_path)))


class Once(Generator):
    """Answers each time with another number."""

    def __init__(self):
        self.asked = 0

    def answer(self, request):
        self.asked += 1
        return Answer(text=f"answer {self.asked}", prompt_tokens=3, answer_tokens=2, cost=0.5)


def test_recorded_answers_and_failures_are_replayed_without_cost_and_nothing_else_is_answered(tmp_path):
    with AnswerStore(tmp_path / "llm.db") as store:
        StoredGenerator(Once(), store).answer(REQUEST)
        replay = ReplayGenerator(store)
        found = replay.answer(REQUEST)
        assert (found.text, found.cost, found.prompt_tokens) == ("answer 1", 0.0, 3)
        with pytest.raises(
            UnansweredError, match=r"llm\.db has no record of request [0-9a-f]{16}: other settings"
        ) as no:
            replay.answer(changed(seed=4))
        assert no.value.reason == "not_recorded"
        store.add_result(store.add_request(changed(seed=4)), UnansweredError("m: down.", reason="timeout"))
        with pytest.raises(UnansweredError, match=r"m: down\.") as down:
            replay.answer(changed(seed=4))
        assert down.value.reason == "timeout"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"template": "2"},
        {"model": "n"},
        {"temperature": 0.1},
        {"max_tokens": 13},
        {"json_only": True},
        {"messages": [{"role": "user", "content": "Write a fusion!"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_on_which_an_answer_depends_is_part_of_its_hash(change):
    assert changed(**change).content_hash() != REQUEST.content_hash()


def test_the_greatest_cost_counts_every_byte_as_a_token():
    asked = changed(messages=[{"role": "user", "content": "naïve " * 100}])
    assert asked.most_tokens >= len(("naïve " * 100).encode())
    assert Prices(prompt=2.0, answer=4.0).most(asked) == (2.0 * asked.most_tokens + 4.0 * 12) / 1e6


def test_an_unanswered_request_stays_unanswered_in_the_same_words(tmp_path):
    error = UnansweredError("m: down.", reason="server_error", for_good=False)
    for _ in range(2):
        with AnswerStore(tmp_path / "llm.db") as store:
            name = store.add_request(REQUEST)
            store.add_result(name, error)
            found = store.result(name)
            assert isinstance(found, UnansweredError)
            assert (str(found), found.reason) == ("m: down.", "server_error")
            assert store.answer(name) is None


def test_the_first_result_and_the_first_conversation_stay(tmp_path):
    with AnswerStore(tmp_path / "llm.db") as store:
        name = store.add_request(REQUEST)
        for text in ("first", "second"):
            store.add_result(name, Answer(text=text))
            store.add_conversation("abc", [{"role": "user", "content": text}])
        found = store.answer(name)
        assert found is not None
        assert found.text == "first"
        assert store.conversation("abc") == [{"role": "user", "content": "first"}]
        assert store.conversation("unknown") is None


def test_an_answer_is_on_disk_together_with_what_it_cost(tmp_path):
    path = tmp_path / "llm.db"
    with AnswerStore(path) as store:
        name = store.add_request(REQUEST)
        number = store.send(name, 0.75)
        store.settle(number, "answered", cost=0.5, answer=Answer(text="yes", prompt_tokens=3, answer_tokens=2))
        # Another connection sees what is committed, and nothing else.
        with sqlite3.connect(path) as other:
            assert json.loads(other.execute("SELECT answer FROM results").fetchone()[0])["text"] == "yes"
        other.close()
        costs = store.costs()
    assert (costs.dollars, costs.prompt_tokens, costs.answer_tokens) == (0.5, 3, 2)
    assert (dict(costs.calls), costs.answers) == ({"answered": 1}, 1)


def test_keys_in_the_environment_are_masked_in_all_that_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_TOKEN", "canary-of-another-kind")
    with AnswerStore(tmp_path / "llm.db") as store:
        asked = changed(messages=[{"role": "user", "content": "canary-of-another-kind"}])
        name = store.add_request(asked)
        store.add_result(name, Answer(text='say "canary-of-another-kind"'))
        store.add_conversation("abc", [{"role": "user", "content": "canary-of-another-kind"}])
        found = store.answer(name)
        assert found is not None
        assert found.text == 'say "***"'
    assert not [each for each in tmp_path.iterdir() if b"canary-of-another-kind" in each.read_bytes()]


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptFileError, match=r"bad\.db cannot be used: it is not a database"):
        AnswerStore(tmp_path / "bad.db")
    with AnswerStore(tmp_path / "new.db"):
        pass
    database = sqlite3.connect(tmp_path / "new.db")
    database.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(StorageError, match="has schema version 9, but this chiasma knows versions up to 1"):
        AnswerStore(tmp_path / "new.db")


def test_sources_that_differ_in_words_alone_are_equal():
    one = 'class FusionModule:\n    """First."""\n\n    def forward(self):  # add\n        return 1 + 2\n'
    two = "class FusionModule:\n  def forward(self):\n\n    return (1+2)"
    assert source_hash(one) == source_hash(two)
    assert source_hash(one) != source_hash(two.replace("1+2", "2+1"))


@pytest.mark.parametrize("source", ["class (", "a = '\0'", "(" * 5000 + ")" * 5000, "x = " + "-" * 50_000 + "1"])
def test_source_that_python_cannot_read_says_so_in_one_line(source):
    with pytest.raises(UnreadableSourceError) as error:
        source_hash(source)
    assert "\n" not in str(error.value)


def test_an_address_that_is_none_is_refused():
    for value in ("localhost:8000", "ftp://host/v1", "http://"):
        with pytest.raises(ConfigError, match=r"base_url: .*an address is http:// or https:// and a host"):
            LanguageModel.from_dict({"base_url": value})


@pytest.mark.parametrize(
    "address",
    [
        "http://u:canary1@127.0.0.1:1/v1",
        "http://canary1@127.0.0.1:1/v1",
        "http://u:can/ary1@127.0.0.1:1/v1",
        "u:canary1@127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1?key=canary1",
        "http://127.0.0.1:1/v1#canary1",
    ],
)
def test_an_address_with_a_secret_is_refused_in_one_line_without_the_secret(address):
    with pytest.raises(ConfigError, match=r"base_url: .*no login, no query .*llm\.variable=NAME") as error:
        LanguageModel.from_dict({"base_url": address})
    assert "ary1" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_in_a_folder_is_called_by_the_folders_name():
    assert LanguageModel(folder="/models/tiny-coder").named_model() == "tiny-coder"
    assert LanguageModel(folder="/models/tiny-coder", model="mine").named_model() == "mine"


def test_the_generator_that_a_user_names_keeps_its_answers(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("MY_KEY", "canary-of-a-third-kind")
    settings = LanguageModel(model="m", variable="MY_KEY", folder=str(folder), prices=Prices(prompt=1, answer=1))
    with AnswerStore(tmp_path / "a.db") as store, AnswerStore(tmp_path / "b.db") as other:
        found = build_generator("transformers", settings, store).answer(REQUEST)
        assert build_generator("replay", settings, other, recorded=store).answer(REQUEST).text == found.text
        assert other.answer(REQUEST.content_hash()) is not None
        capped = build_generator("openai", settings, store, cap=1e-9)
        with pytest.raises(UnansweredError, match=r"m: not asked, since \$0\.0000 of \$1e-09 are spent"):
            capped.answer(changed(seed=77))
        with pytest.raises(ConfigError, match="--generator replay needs the run whose answers are replayed"):
            build_generator("replay", settings, store)


def test_what_is_missing_is_named_with_the_remedy():
    code = "import sys; sys.modules['openai'] = None; import chiasma.search.generators.exchange"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode != 0
    assert 'needs openai: pip install "chiasma[llm]"' in ended.stderr
