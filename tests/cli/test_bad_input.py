"""Bad input: one line that says what and how to mend it, or a row set aside with its reason; nothing lost."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.cli.main import report_error
from chiasma.store.run import RunStore
from tests.cli.conftest import SMALL, invoke


def fails(*words: str, code: int = 1) -> str:
    """Run a command line that must fail with one line, and return the line."""
    result = invoke(*words)
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("chiasma: error:")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    return lines[0]


def table(folder: Path, *rows: str, name: str = "rows.csv", header: str = "id,img,text,label") -> str:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return str(folder / name)


def image_bytes(size: tuple[int, int] = (12, 12), mode: str = "RGB", *, color: object = 0, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def test_a_missing_manifest_is_named_with_its_neighbours(tmp_path):
    table(tmp_path, "1,,a,x")
    said = fails("data", "check", str(tmp_path / "row.csv"))
    assert "row.csv does not exist" in said
    assert "rows.csv" in said


def test_a_missing_image_folder_is_named(tmp_path):
    said = fails("data", "check", table(tmp_path, "1,,a,x"), "--image-dir", str(tmp_path / "none"))
    assert "The image folder" in said


def test_an_empty_manifest_is_refused(tmp_path):
    assert "empty" in fails("data", "check", table(tmp_path))


def test_one_class_only_is_refused(tmp_path):
    rows = [f"{k},,text number {k},same" for k in range(30)]
    assert "at least two different labels" in fails("data", "check", table(tmp_path, *rows))


def test_a_mistyped_column_suggests_the_nearest(tmp_path):
    said = fails("data", "check", table(tmp_path, "1,,a,x"), "--label", "lable")
    assert "Did you mean 'label'?" in said


def test_a_mistyped_built_in_name_suggests_the_nearest():
    assert "Did you mean 'digit_claims'" in fails("train", "digit_claim")


def test_an_unknown_setting_suggests_the_nearest():
    said = fails("train", "--set", "optim.larning_rate=1", "optim.lrr=3", code=2)
    assert "optim.lrr: unknown key. Did you mean 'lr'?" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["growth.births=guided"], "settings: growth is of the trunk's members, but the model has no trunk"),
        (["growth.births=none", "model.trunk=null"], "settings: growth is of the trunk's members"),
        (
            ["model.encoders.text.kind=bert", "model.encoders.text.heads=4", "model.dim=30"],
            "model: dim must be divisible by encoders.text.heads, but dim=30 and heads=4.",
        ),
        (
            ["model.trunk.kind=population", "model.trunk.heads=3"],
            "model: dim must be divisible by trunk.heads, but dim=64 and heads=3.",
        ),
        (["train.train_on_steer=true", "train.restore_best=false", "controller.kind=lstm"], "settings: a controller"),
        (
            ["controller.every=20"],
            "controller.kind: is required, but it is missing. Known here: hypergradient, lstm.",
        ),
        (
            ["model.encoders.text.dropout=0"],
            "model.encoders.text.kind: is required, but it is missing. Known here: bert, convolution, features,",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_do_not_go_together_are_one_line_in_our_own_words(overrides, said):
    line = fails("train", "--set", "data.rows=320", *overrides, code=2)
    assert said in line
    assert "pydantic" not in line
    assert "discriminator" not in line


def test_a_bad_budget_says_what_a_budget_is():
    assert "a budget is a time such as 90s, 10m or 1h30m" in fails("evolve", "--budget", "soon", code=2)


def test_a_missing_config_file_lists_the_presets():
    assert "neither a file nor a preset" in fails("train", "--config", "nowhere.yaml", code=2)


def test_a_missing_run_is_one_line(tmp_path):
    assert "no runs in" in fails("show", "latest", "--run-folder", str(tmp_path), code=2)


def test_a_missing_model_is_one_line(tmp_path):
    assert "not found" in fails("predict", "no-such-run", "--text", "x", "--run-folder", str(tmp_path), code=2)


@pytest.mark.xdist_group("shared_runs")
def test_predicting_nothing_says_what_to_give(trained):
    assert "give --image FILE, --text TEXT or a MANIFEST" in fails("predict", str(trained), code=2)


@pytest.mark.xdist_group("shared_runs")
def test_a_missing_image_to_predict_is_one_line(trained, tmp_path):
    assert "cannot be read" in fails("predict", str(trained), "--image", str(tmp_path / "none.png"))


@pytest.mark.xdist_group("shared_runs")
def test_an_output_of_another_kind_is_refused(trained, tmp_path):
    said = fails("predict", str(trained), table(tmp_path, "1,,a,x"), "-o", "out.xlsx", code=2)
    assert "--out must end in .csv or .jsonl" in said


@pytest.mark.xdist_group("shared_runs")
def test_a_second_process_on_the_same_run_is_refused(trained):
    with RunStore.open(trained, write=True):
        assert "another process" in fails("resume", str(trained))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    assert "permission is denied" in fails("train", *SMALL, "--run-folder", str(tmp_path))


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "Cannot write" in fails("train", *SMALL, "--run-folder", str(tmp_path / "file" / "runs"))


def test_a_wrong_option_of_features_says_what_is_needed():
    assert "Give either --extractor" in fails("features", code=2)


def test_the_traceback_is_shown_only_when_asked_for(tmp_path):
    result = invoke("data", "check", str(tmp_path / "none.csv"), "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_every_bad_row_is_set_aside_with_its_reason_and_the_rest_is_kept(tmp_path):
    pictures = {
        "cut.jpg": image_bytes((64, 64), format="JPEG")[:300],
        "one.png": image_bytes((1, 1)),
        "many.png": image_bytes((9000, 6000), mode="1"),
        "cmyk.jpg": image_bytes(mode="CMYK", format="JPEG"),
        "deep.png": image_bytes(mode="I;16"),
        "not.png": b"not an image",
    }
    frames = [Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)) for value in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for k in range(60):
        pictures[f"{k}.png"] = image_bytes(color=(4 * k, k, 255 - k))
    rows = [{"id": str(k), "img": f"{k}.png", "text": f"caption {k}", "label": "ab"[k % 2]} for k in range(60)]
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    odd = ["cut.jpg", "one.png", "many.png", "cmyk.jpg", "deep.png", "not.png", "moving.gif", "../outside.png"]
    rows += [{"id": name, "img": name, "text": f"about {name}", "label": "a"} for name in odd]
    rows.append({"id": "nul", "text": "zero\0byte", "label": "b"})
    rows.append({"id": "long", "text": "word " * 100_000, "label": "b"})
    rows.append({"id": "3", "img": "3.png", "text": "the same id again", "label": "b"})
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    result = invoke("data", "check", str(manifest))
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if "quarantine" in line)
    file = next(Path(word) for word in line.split() if word.endswith(".jsonl"))
    aside = [json.loads(text) for text in file.read_text().splitlines()]
    told = {str(item.get("id")): item["reason"] for item in aside}
    for name in ("cut.jpg", "many.png", "not.png", "../outside.png"):
        assert told[name], name
    read, kept = (int(word) for word in result.stdout.splitlines()[0].replace(",", "").split() if word.isdigit())
    assert read == len(rows) + 1
    assert kept + len(aside) == read


def test_sizes_of_further_tasks_without_further_tasks_are_refused():
    assert "--preset is about the tasks of --also" in fails("search", "attention", "--preset", "cpu", code=2)


def test_a_further_task_that_there_is_not_is_named_with_the_nearest():
    said = fails("search", "attention", "--also", "imbd", code=2)
    assert "--also: there is no task 'imbd'." in said
    assert "imdb" in said


def test_what_a_library_raises_is_cut_to_its_first_line(capsys):
    code = report_error(RuntimeError("\nthe cause\n" + "a log " * 30_000), debug=False)
    assert code == 1
    said = capsys.readouterr().err
    assert said == "chiasma: error: RuntimeError: the cause Run again with --debug for the traceback.\n"


@pytest.mark.slow
def test_of_processes_together_only_the_leading_one_says_what_is_missing(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = ("train", str(tmp_path / "none.csv"), "--set", "run.device=cpu", "--run-folder", str(tmp_path))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "chiasma", *words],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    leader, follower = (process.communicate(timeout=200)[1] for process in started)
    assert [process.returncode for process in started] == [1, 1]
    assert "none.csv does not exist" in leader
    assert "error" not in follower
