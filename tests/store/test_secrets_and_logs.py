"""Logs are structured, and no key, token or password is ever written down."""

import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from chiasma.core.errors import StorageError
from chiasma.store.logs import log_to, log_to_console
from chiasma.store.secrets import is_secret_name, mask_command, redact, redact_json

CANARY = "canary-7d1e0b-value"


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EXAMPLE_API_KEY", CANARY)
    return CANARY


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["llm.api_key", "HF_TOKEN", "--password", "AWS_SECRET_ACCESS_KEY", "apiKey", "auth"])
def test_names_of_secrets_are_known(name: str):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["model.max_tokens", "tokenizer", "monkey", "author", "keep", "TOKENIZERS_PARALLELISM"]
)
def test_names_that_only_sound_alike_are_not_secrets(name: str):
    assert not is_secret_name(name)


def test_secrets_in_a_command_are_masked():
    command = ["chiasma", "evolve", "--api-key", "abc", "--set", "llm.token=xyz", "model.dim=8", "--key=1", "--debug"]
    assert mask_command(command) == [
        *("chiasma", "evolve", "--api-key", "***", "--set"),
        *("llm.token=***", "model.dim=8", "--key=***", "--debug"),
    ]


def test_a_flag_without_a_value_does_not_hide_the_next_flag():
    assert mask_command(["--auth", "--debug", "data.csv"]) == ["--auth", "--debug", "data.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "sk-abcdefghijklmnop1234",
        "hf_abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_well_known_keys_are_masked_wherever_they_stand(text: str):
    assert redact(f"header: {text}, next") == "header: ***, next"
    assert mask_command([text]) == ["***"]


def test_passwords_in_addresses_are_masked():
    assert redact("postgres://me:hunter2@host/db") == "postgres://me:***@host/db"


def test_ordinary_text_is_left_alone():
    text = "epoch 3: loss 0.123 (runs/evolve-20261122-013618-7f3a) at https://host/path"
    assert redact(text) == text
    assert redact_json({"a": [1, None, {"b": text}]}) == {"a": [1, None, {"b": text}]}


def test_values_of_the_environment_are_found_inside_nested_json(canary: str):
    assert redact_json({"a": [f"x{canary}y", {"b": canary}], "n": 1}) == {"a": ["x***y", {"b": "***"}], "n": 1}


def test_a_log_line_is_one_json_object(tmp_path: Path):
    with log_to(tmp_path) as path:
        logging.getLogger("chiasma.train").info(
            "epoch %d\nsecond line", 3, extra={"data": {"loss": 0.5, "path": Path("a")}}
        )
        logging.getLogger("elsewhere").warning("not ours")
    (line,) = lines(path)
    assert (line["level"], line["logger"], line["message"]) == ("info", "chiasma.train", "epoch 3\nsecond line")
    assert line["data"] == {"loss": 0.5, "path": "a"}
    assert line["time"].endswith("+00:00")


def test_a_log_is_continued_and_ends_with_its_block(tmp_path: Path):
    for word in ("first", "second"):
        with log_to(tmp_path):
            logging.getLogger("chiasma").warning(word)
    logging.getLogger("chiasma").warning("after")
    assert [line["message"] for line in lines(tmp_path / "log.jsonl")] == ["first", "second"]
    assert logging.getLogger("chiasma").handlers == []


def test_a_traceback_is_logged_without_the_secret(tmp_path: Path, canary: str):
    with log_to(tmp_path) as path:
        try:
            raise ValueError(f"401 for {canary}")
        except ValueError:
            logging.getLogger("chiasma").exception("call %s failed", canary, extra={"data": {"headers": [canary]}})
    (line,) = lines(path)
    assert canary not in path.read_text()
    assert "ValueError: 401 for ***" in line["traceback"]
    assert line["message"] == "call *** failed"


def test_the_console_shows_warnings_without_the_secret(canary: str):
    screen = io.StringIO()
    with log_to_console(Console(file=screen, width=200)):
        logging.getLogger("chiasma").info("quiet")
        logging.getLogger("chiasma").warning("key %s [bold]is[/bold] wrong", canary)
    assert "quiet" not in screen.getvalue()
    assert "key *** [bold]is[/bold] wrong" in screen.getvalue()


def test_a_log_in_a_missing_folder_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError, match="its folder does not exist"), log_to(tmp_path / "missing"):
        pass


def test_the_working_folder_is_no_secret_though_its_variable_is_called_pwd(monkeypatch):
    monkeypatch.setenv("PWD", "/home/someone/project")
    assert redact("/home/someone/project/data.csv") == "/home/someone/project/data.csv"
