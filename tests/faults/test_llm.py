"""Promise 19: a language model's faults neither lose nor fake work; and no key leaks (promise 20)."""

import asyncio
import gc
import importlib
import logging
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.llm_fault_server import CASES, SOURCE, completion, says, serving, status
from chiasma.core.errors import ConfigError
from chiasma.search.generators.generator import Answer, Message, Request, UnansweredError
from chiasma.search.generators.openai import OpenAIGenerator
from chiasma.search.generators.parsing import Code, Nothing, code_of
from chiasma.search.generators.settings import LanguageModel, Prices
from chiasma.search.generators.store import AnswerStore
from chiasma.search.generators.stored import Breaker, StoredGenerator

KEY = "canary-5f1d3c9b-not-a-real-key"
VARIABLE = "SERVER_KEY"
PRICES = Prices(prompt=1.0, answer=2.0)
REQUEST = Request(model="m", messages=(Message(role="user", content="Write."),), template="1", seed=7, max_tokens=1000)

# What each fault comes to: the reason, how many attempts, and whether it may have to be paid for.
FAULTS = {
    "hang before headers": ("timeout", 2, True),
    "hang in the body": ("timeout", 2, True),
    "slow drip": ("timeout", 2, True),
    "slow headers": ("timeout", 2, True),
    "cut off": ("connection", 3, True),
    "400": ("refused_request", 1, False),
    "401": ("denied", 1, False),
    "403": ("denied", 1, False),
    "404": ("denied", 1, False),
    "408": ("overloaded", 3, False),
    "409": ("overloaded", 3, False),
    "413": ("refused_request", 1, False),
    "422": ("refused_request", 1, False),
    "429": ("overloaded", 3, False),
    "429 Retry-After seconds": ("overloaded", 3, False),
    "429 Retry-After an hour": ("overloaded", 1, False),
    "429 nonsense": ("overloaded", 3, False),
    "429 no credit": ("denied", 1, False),
    "500": ("server_error", 3, False),
    "502": ("server_error", 3, False),
    "503": ("server_error", 3, False),
    "529": ("server_error", 3, False),
    "empty body": ("unreadable", 3, True),
    "HTML": ("unreadable", 3, True),
    "invalid JSON": ("unreadable", 3, True),
    "not an object": ("unreadable", 3, True),
    "deep JSON": ("unreadable", 3, True),
    "non-UTF-8": ("unreadable", 3, True),
    "5 MB": ("too_long", 1, True),
    "redirect": ("redirect", 1, False),
    "key echoed in an error": ("refused_request", 1, False),
}
# Answers that were paid for and hold nothing to try.
EMPTY = {
    "choices []": "the answer is empty",
    "no choices": "the answer is empty",
    "content null": "the answer is empty",
    "no content": "the answer is empty",
    "no message": "the answer is empty",
    "finish_reason length": "the answer was cut off at its longest",
    "refusal": 'the model declined: "I cannot help with that."',
    "refusal in words": "the model declined: \"I'm sorry, but I can't help with that.\"",
    "no code block": "the answer holds no fenced block of Python",
    "half a character": "the answer holds bytes that are not text",
    "key echoed in an answer": "the answer holds no fenced block of Python",
}


# Only for what would never end: a busy machine must not turn another fault into this one.
SHORT = {"timeout_seconds": 0.5, "deadline_seconds": 1.0}


def settings(url, **changes):
    quick = {"timeout_seconds": 20.0, "deadline_seconds": 30.0, "attempts": 3, "backoff_seconds": 0.01}
    return LanguageModel(model="m", base_url=url, variable=VARIABLE, prices=PRICES, **{**quick, **changes})


def generator(store, url, *, cap=None, key=KEY, **changes):
    return OpenAIGenerator(settings(url, **changes), store, cap=cap, environment={VARIABLE: key})


@pytest.fixture
def figures(monkeypatch):
    """Return the benchmark, which imports its neighbours as a script does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("faults_llm")


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "llm.db") as opened:
        yield opened


def test_every_case_of_the_fault_server_is_expected_to_come_to_something():
    answered = {"429 Retry-After date", "content in parts", "no usage", "nonsense usage", "two code blocks", "good"}
    assert FAULTS.keys() | EMPTY.keys() | answered | {"fences in docstrings"} == CASES.keys()


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_ends_within_its_attempts_and_its_time(store, case):
    reason, attempts, charged = FAULTS[case]
    times = SHORT if reason == "timeout" else {}
    with serving([CASES[case]]) as server:
        asked = generator(store, server.url, **times)
        started = time.monotonic()
        with pytest.raises(UnansweredError) as error:
            asked.answer(REQUEST)
        assert time.monotonic() - started < (3.0 if reason == "timeout" else 20.0)
        assert len(server.calls) == attempts
    assert error.value.reason == reason
    assert len(str(error.value).splitlines()) == 1
    assert error.value.for_good == (reason in ("denied", "redirect"))
    assert store.costs().calls == {reason: attempts}
    assert store.spent == pytest.approx(attempts * PRICES.most(REQUEST) if charged else 0.0)


@pytest.mark.parametrize("case", EMPTY)
def test_an_answer_without_anything_to_try_is_paid_for_once_and_says_why(store, case):
    with serving([CASES[case]]) as server:
        answer = generator(store, server.url).answer(REQUEST)
        assert len(server.calls) == 1
    found = code_of(answer)
    assert isinstance(found, Nothing)
    assert found.reason.startswith(EMPTY[case])
    assert store.costs().dollars == answer.cost > 0


@pytest.mark.parametrize("case", ["two code blocks", "fences in docstrings", "content in parts", "good"])
def test_an_answer_with_something_to_try_is_read(store, case):
    with serving([CASES[case]]) as server:
        answer = generator(store, server.url).answer(REQUEST)
    assert isinstance(code_of(answer), Code)
    assert (answer.prompt_tokens, answer.answer_tokens) == (100, 50)
    assert answer.cost == pytest.approx((100 * 1.0 + 50 * 2.0) / 1e6)


@pytest.mark.parametrize("case", ["no usage", "nonsense usage"])
def test_an_answer_that_does_not_say_what_it_used_is_counted_at_its_greatest_cost(store, case):
    with serving([CASES[case]]) as server:
        assert generator(store, server.url).answer(REQUEST).cost == PRICES.most(REQUEST)


@pytest.mark.parametrize("case", ["429", "500", "cut off", "empty body", "hang before headers"])
def test_a_fault_that_passes_is_waited_out(store, case):
    with serving([CASES[case], CASES["good"]]) as server:
        times = {"timeout_seconds": 1.5} if case.startswith("hang") else {}
        answer = generator(store, server.url, **times).answer(REQUEST)
        assert len(server.calls) == 2
    assert code_of(answer) == Code(SOURCE)


@pytest.mark.parametrize(("case", "least"), [("429 Retry-After seconds", 0.04), ("429 Retry-After date", 0.0)])
def test_a_server_that_names_a_time_is_given_it(store, case, least):
    waited = []
    with serving([CASES[case], CASES["good"]]) as server:
        asked = OpenAIGenerator(
            settings(server.url, backoff_seconds=10.0),
            store,
            environment={VARIABLE: KEY},
            sleep=waited.append,
        )
        asked.answer(REQUEST)
    assert len(waited) == 1
    assert least <= waited[0] <= 1.0


def test_waits_double_with_a_random_part_that_the_seed_decides(store):
    def waits(seed):
        found = []
        with serving([CASES["503"]]) as server:
            asked = OpenAIGenerator(
                settings(server.url, attempts=6, patience_seconds=0.08),
                store,
                environment={VARIABLE: KEY},
                sleep=found.append,
            )
            with pytest.raises(UnansweredError):
                asked.answer(Request.from_dict({**REQUEST.to_dict(), "seed": seed}))
        return found

    found = waits(1)
    for wait, longest in zip(found, [0.01, 0.02, 0.04, 0.08, 0.08], strict=True):
        assert longest / 2 <= wait <= longest
    assert found == waits(1)
    assert found != waits(2)


@pytest.mark.parametrize("kind", ["refused", "name not found", "TLS"])
def test_a_server_that_cannot_be_reached_costs_nothing(store, kind):
    with socket.socket() as unused, serving([CASES["good"]]) as server:
        unused.bind(("127.0.0.1", 0))
        url = {
            "refused": f"http://127.0.0.1:{unused.getsockname()[1]}/v1",
            "name not found": "http://no-such-host.invalid/v1",
            "TLS": server.url.replace("http://", "https://"),
        }[kind]
        with pytest.raises(UnansweredError, match="m: the server cannot be reached: ") as error:
            generator(store, url).answer(REQUEST)
    assert error.value.reason == "connection"
    assert store.spent == 0.0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed.")
def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(store, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *made, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving([CASES["good"]], tls=context) as server:
        url = server.url.replace("http://", "https://")
        with pytest.raises(UnansweredError, match="the server's certificate is not trusted: ") as error:
            generator(store, url).answer(REQUEST)
        assert server.calls == []
    assert error.value.for_good
    assert store.costs().calls == {"connection": 1}


def test_a_redirect_to_another_host_is_not_followed(store):
    with serving([CASES["good"]]) as elsewhere, serving([CASES["redirect"]]) as server:
        server.elsewhere = elsewhere.url.removesuffix("/v1")
        with pytest.raises(UnansweredError, match="it sends to another address, which is not followed"):
            generator(store, server.url).answer(REQUEST)
        assert elsewhere.calls == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("401", r"refuses the key: .* \(\"Incorrect API key\"\); check the key in \$SERVER_KEY"),
        ("404", "know model 'm'"),
    ],
)
def test_what_cannot_be_mended_by_asking_again_is_said_in_one_line(store, case, words):
    with serving([CASES[case]]) as server, pytest.raises(UnansweredError, match=words):
        generator(store, server.url).answer(REQUEST)


def outcomes_of(asked, count):
    """Ask as many different requests and return what each came to."""
    found = []
    for number in range(count):
        try:
            asked.answer(Request.from_dict({**REQUEST.to_dict(), "seed": number}))
            found.append("answered")
        except UnansweredError as error:
            found.append(error.reason)
    return found


def test_nothing_is_sent_that_could_exceed_the_limit(store):
    most = PRICES.most(REQUEST)
    with serving([CASES["good"]]) as server:
        outcomes = outcomes_of(generator(store, server.url, cap=1.5 * most), 10)
        sent = len(server.calls)
    assert outcomes == ["answered"] * sent + ["capped"] * (10 - sent)
    assert 0 < sent < 10
    assert store.spent <= 1.5 * most < store.spent + most


@pytest.mark.parametrize("case", ["empty body", "hang in the body", "cut off", "5 MB"])
def test_calls_that_may_be_charged_count_against_the_limit(store, case):
    most = PRICES.most(REQUEST)
    with serving([CASES[case]]) as server:
        times = {"timeout_seconds": 0.5} if case.startswith("hang") else {}
        asked = generator(store, server.url, cap=2.5 * most, attempts=9, **times)
        for number in range(4):
            with pytest.raises(UnansweredError):
                asked.answer(Request.from_dict({**REQUEST.to_dict(), "seed": number}))
        assert len(server.calls) == 2
    assert store.spent == pytest.approx(2 * most)


def test_a_limit_without_known_prices_is_refused(store):
    with pytest.raises(ConfigError, match=r"llm.prices: a limit of \$5 can only be kept where both prices are known"):
        OpenAIGenerator(LanguageModel(model="m", base_url="http://x/v1"), store, cap=5.0)


def test_openai_itself_is_not_asked_without_a_key(store):
    with pytest.raises(ConfigError, match=r"llm.variable: OpenAI needs a key, but \$MY_KEY is not set"):
        OpenAIGenerator(LanguageModel(model="m", variable="MY_KEY"), store, environment={})
    with pytest.raises(ConfigError, match=r"llm.model: the name of a model is needed"):
        OpenAIGenerator(LanguageModel(base_url="http://x/v1"), store, environment={})


def test_a_model_that_fails_is_left_alone_and_tried_again_later(store):
    breaker = Breaker(failures=2, pause=3)
    with serving([CASES["413"]] * 3 + [CASES["good"]]) as server:
        asked = StoredGenerator(generator(store, server.url), store, breaker=breaker)
        outcomes = outcomes_of(asked, 14)
        assert len(server.calls) == 3 + 2
    refused, closed = "refused_request", "closed"
    assert outcomes == [refused] * 2 + [closed] * 3 + [refused] + [closed] * 6 + ["answered"] * 2


def test_a_wrong_key_closes_for_good_and_is_told_once_in_each_sitting(tmp_path):
    said = []
    with serving([CASES["401"], CASES["good"]]) as server:
        for more in range(2):
            with AnswerStore(tmp_path / "llm.db") as store:
                asked = StoredGenerator(generator(store, server.url), store, tell=said.append)
                assert asked.broken is None
                assert outcomes_of(asked, 10 + more) == ["denied"] + ["closed"] * (9 + more)
            assert len(server.calls) == 1
            assert said == [asked.broken] * (1 + more)
            assert f"{server.url} refuses the key" in asked.broken
            assert f"check the key in ${VARIABLE}" in asked.broken


def test_an_answer_is_asked_for_once_whatever_is_opened_again(tmp_path):
    found = []
    with serving([CASES["good"]]) as server:
        for _ in range(3):
            with AnswerStore(tmp_path / "llm.db") as store:
                found.append(StoredGenerator(generator(store, server.url), store).answer(REQUEST))
        assert len(server.calls) == 1
    assert found[0] == found[1] == found[2]


def test_two_requests_that_read_alike_are_answered_apart(store):
    bodies = [completion("```python\nclass FusionModule: a = 1\n```"), completion("class FusionModule: b = 1")]
    with serving([says(body) for body in bodies]) as server:
        asked = StoredGenerator(generator(store, server.url), store)
        first, second = (asked.answer(Request.from_dict({**REQUEST.to_dict(), "seed": s})) for s in (1, 2))
        assert len(server.calls) == 2
    assert first.text != second.text


@pytest.mark.parametrize("case", [*FAULTS, *EMPTY, "good"])
def test_the_key_is_in_no_file_error_or_log(tmp_path, caplog, case):
    caplog.set_level(logging.DEBUG)
    words = ""
    with serving([CASES[case]]) as server, AnswerStore(tmp_path / "llm.db") as store:
        try:
            times = SHORT if FAULTS.get(case, ("",))[0] == "timeout" else {}
            answer = StoredGenerator(generator(store, server.url, attempts=1, **times), store).answer(REQUEST)
            words = answer.to_json()
        except UnansweredError as error:
            seen: BaseException | None = error
            while seen is not None:
                words += str(seen)
                seen = seen.__context__
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert files
    assert not [content for content in files if KEY.encode() in content]
    assert KEY not in words
    assert KEY not in caplog.text


@pytest.mark.parametrize("place", range(150, 201, 5))
@pytest.mark.parametrize("status_code", [200, 400])
def test_no_part_of_the_key_is_told_where_what_the_server_says_is_cut(store, place, status_code):
    def echo(handler):
        words = f"{'x' * place}{handler.headers['Authorization'].removeprefix('Bearer ')} is wrong"
        answer = says(words.encode()) if status_code == 200 else status(status_code, words=words)
        answer(handler)

    with serving([echo]) as server, pytest.raises(UnansweredError) as error:
        generator(store, server.url, attempts=1).answer(REQUEST)
    assert "xxx" in str(error.value)
    assert not [part for part in range(len(KEY) - 3) if KEY[part : part + 4] in str(error.value)]


@pytest.mark.parametrize("key", ["canary-of\nmany-lines", "canary-of\x01control", "canary-of-naïvety"], ids=ascii)
def test_a_key_that_no_header_can_hold_is_refused_without_its_words(store, key):
    with pytest.raises(ConfigError, match=r"a key is printable ASCII on one line, but what \$SERVER_KEY") as error:
        generator(store, "http://localhost:1/v1", key=key)
    assert "canary" not in str(error.value)


def test_what_is_sent_follows_the_settings(store):
    with serving([CASES["good"]]) as server:
        asked = generator(store, server.url, limit="max_completion_tokens", send_seed=True, temperature=0.3)
        asked.answer(Request.from_dict({**REQUEST.to_dict(), "temperature": 0.3, "json_only": True}))
        (body,) = server.calls
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "Write."}]
    assert (body["max_completion_tokens"], body["seed"], body["temperature"]) == (1000, 7, 0.3)
    assert body["response_format"] == {"type": "json_object"}
    assert "max_tokens" not in body


def test_a_caller_that_runs_an_event_loop_can_ask(store):
    async def inside():
        return generator(store, server.url).answer(REQUEST)

    with serving([CASES["good"]]) as server:
        assert isinstance(asyncio.run(inside()), Answer)


def test_nothing_is_left_open_after_a_call(store):
    with serving([status(500), CASES["slow drip"]]) as server, pytest.raises(UnansweredError):
        generator(store, server.url, **SHORT).answer(REQUEST)
    # Sockets that nobody closed warn when they are collected, and warnings are errors.
    gc.collect()


def test_a_search_that_is_killed_while_it_asks_asks_for_no_stored_answer_again(tmp_path, figures):
    tally = figures.kill_while_asking(tmp_path, kills=5)
    assert tally.faults == 5
    assert tally.acknowledged > 0
    assert tally.bad == 0, tally.notes


def test_a_server_that_fails_at_random_cannot_make_a_search_spend_more_than_its_limit(tmp_path, figures):
    tally = figures.spend_at_random(tmp_path, requests=40, cap=0.01)
    assert tally.bad == 0, tally.notes
    assert tally.acknowledged > 0


def test_a_call_that_was_under_way_at_a_kill_is_counted_at_its_greatest_cost(tmp_path):
    with AnswerStore(tmp_path / "llm.db") as store:
        store.send(store.add_request(REQUEST), 0.25)
    with AnswerStore(tmp_path / "llm.db") as store:
        assert store.spent == 0.25
        assert store.costs().calls == {"unknown": 1}


def test_openais_key_is_not_sent_to_another_server(store, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving([CASES["good"]]) as server:
        OpenAIGenerator(LanguageModel(model="m", base_url=server.url, prices=PRICES), store).answer(REQUEST)
        assert not any(KEY in value for headers in server.headers for value in headers.values())


def test_a_dummy_key_is_not_taken_out_of_what_the_model_wrote(store):
    with serving([CASES["good"]]) as server:
        assert code_of(generator(store, server.url, key="k").answer(REQUEST)) == Code(SOURCE)
