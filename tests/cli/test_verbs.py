"""The verbs on real, small runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import SMALL, invoke

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("shared_runs")


def test_a_training_ends_with_its_figures_and_paths(trained):
    assert (trained / "report.html").is_file()
    assert (trained / "model").is_dir()
    assert json.loads((trained / "results.json").read_text())["verb"] == "train"


def test_a_training_leaves_the_test_split_sealed(trained):
    assert all(not arm["test"] for arm in json.loads((trained / "results.json").read_text())["arms"])


def test_a_run_stores_its_resolved_settings_and_command(trained):
    assert json.loads((trained / "config.json").read_text())["data"]["rows"] == 320
    assert json.loads((trained / "provenance.json").read_text())["command"]


@pytest.mark.slow
def test_a_search_ends_with_floors_winner_and_gains(evolved):
    _, result = evolved
    for words in ("majority", "winner", "on test", "report.html", "model"):
        assert words in result.stdout


@pytest.mark.slow
def test_show_tells_the_winner_and_any_candidate(evolved):
    run, _ = evolved
    winner, first = invoke("show", str(run)), invoke("show", f"{run.name}#1")
    assert winner.exit_code == first.exit_code == 0
    assert "encoder" in winner.stdout
    assert "parameters" in winner.stdout
    assert f"{run.name}#1, proposed by floor" in first.stdout
    assert "scored" in first.stdout


@pytest.mark.slow
def test_compare_pairs_runs_over_the_same_test_split(evolved, tmp_path):
    run, _ = evolved
    shutil.copytree(run, tmp_path / "evolve-copy")
    result = invoke("compare", str(run), str(tmp_path / "evolve-copy"))
    assert result.exit_code == 0
    assert "No difference" in result.stdout
    assert "0.0000 [0.0000, 0.0000]" in result.stdout


@pytest.mark.slow
def test_a_candidate_that_is_not_there_is_one_line(evolved):
    run, _ = evolved
    result = invoke("show", f"{run.name}#999")
    assert result.exit_code == 2
    assert "has no candidate 999" in result.stderr


def test_show_describes_a_trained_design(trained):
    result = invoke("show", str(trained))
    assert result.exit_code == 0
    assert "ngram" in result.stdout


def test_list_runs_names_them(trained):
    result = invoke("list", "runs")
    assert trained.name in result.stdout
    assert "finished" in result.stdout


def test_list_runs_of_an_empty_folder_says_how_to_start(tmp_path):
    result = invoke("list", "runs", "--run-folder", str(tmp_path))
    assert "No runs yet. Start one" in result.stdout


def test_list_components_names_every_part():
    result = invoke("list", "components")
    for word in ("cross_attention", "convolution", "focal", "one_cycle", "multilabel"):
        assert word in result.stdout


def test_report_writes_the_file_again(trained):
    (trained / "report.html").unlink()
    result = invoke("report", str(trained))
    assert result.stdout.strip() == str(trained / "report.html")
    assert (trained / "report.html").is_file()


def test_compare_without_test_predictions_says_why_it_is_not_paired(trained):
    result = invoke("compare", str(trained), str(trained))
    assert result.exit_code == 0
    assert "Not paired" in result.stdout


def test_evaluate_on_select_needs_no_opening(trained):
    result = invoke("evaluate", str(trained), "--on", "select")
    assert result.exit_code == 0
    assert "accuracy" in result.stdout
    assert "By label" in result.stdout
    assert "expected calibration error" in result.stdout
    assert "opened" not in result.stderr


def test_rows_that_the_model_has_learnt_from_are_left_out_of_another_file(trained, tmp_path):
    texts = ["this is a zero", "this is a one", "an even number", "an odd number"]
    rows = [{"id": k, "text": f"{texts[k % 4]} {k}", "label": ("true", "false")[k % 2]} for k in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "runs"
    first = invoke("train", str(tmp_path / "rows.jsonl"), "--run-folder", str(folder), "--set", "train.epochs=1")
    assert first.exit_code == 0, first.stderr
    (tmp_path / "grown.jsonl").write_text("".join(json.dumps({**row, "id": f"new {row['id']}"}) + "\n" for row in rows))
    grown = ["evaluate", "latest", str(tmp_path / "grown.jsonl"), "--run-folder", str(folder)]
    told = invoke(*grown, "--set", "data.test_fraction=0.5").stderr
    assert "because the model has learnt from them" in told


def test_a_model_reads_grown_data_with_its_own_tokenizer_though_the_test_rows_are_the_same(tmp_path):
    def row(k, split, words):
        return {
            "id": f"{split}{k}",
            "text": f"{words[k % 2]} {split} {k}",
            "label": ("yes", "no")[k % 2],
            "split": split,
        }

    words = ["alpha beta", "gamma delta"]
    rows = [row(k, split, words) for split in ("train", "select", "test") for k in range(100)]
    more = [row(k, "train", ["zeta omicron quick", "theta brown lazy"]) for k in range(1000, 1400)]
    folder = ["--run-folder", str(tmp_path / "runs")]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in rows))
    made = invoke("train", str(source), *folder, "--set", "train.epochs=30", "--set", "optim.lr=1e-2")
    assert made.exit_code == 0, made.stderr

    def accuracy():
        told = invoke("evaluate", "latest", str(source), *folder)
        return next(line.split()[1] for line in told.stdout.splitlines() if line.strip().startswith("accuracy"))

    before = accuracy()
    source.write_text("".join(json.dumps(item) + "\n" for item in [*more, *rows]))
    assert accuracy() == before == "1"


def test_text_tokens_made_elsewhere_are_trained_on_and_predicted_from_with_their_mask(tmp_path):
    rng = np.random.default_rng(0)
    labels = [("no", "yes")[k % 2] for k in range(200)]
    x = rng.normal(size=(200, 4, 6)).astype(np.float16)
    x[:, :3, 0] += np.array([[6.0 * (label == "yes") - 3.0] for label in labels], dtype=np.float16)
    x[:, 3] = 100.0
    mask = np.tile([True, True, True, False], (200, 1))
    np.savez(tmp_path / "t.npz", tokens=x, id=np.array([str(k) for k in range(200)]), mask=mask)
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text,label\n" + "".join(f"{k},row {k},{label}\n" for k, label in enumerate(labels)))
    folder, features = ["--run-folder", str(tmp_path / "runs")], ["--features", f"text={tmp_path / 't.npz'}"]
    trained = invoke("train", str(rows), *folder, *features, "--set", "train.epochs=20")
    assert trained.exit_code == 0, trained.stderr
    predicted = invoke("predict", "latest", str(rows), *folder, *features)
    assert predicted.exit_code == 0, predicted.stderr
    answers = [line.split(",")[1] for line in predicted.stdout.splitlines()[1:]]
    assert np.mean([said == label for said, label in zip(answers, labels, strict=True)]) > 0.85


def test_data_settings_without_data_are_refused_where_they_would_be_ignored(trained):
    told = invoke("evaluate", str(trained), "--label", "nonsense")
    assert told.exit_code == 2
    assert "leave data.* alone" in told.stderr


def test_a_device_that_is_not_there_is_refused_before_there_is_a_run(tmp_path):
    told = invoke("evolve", "--device", "cuda:7", "--run-folder", str(tmp_path / "runs"))
    assert told.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_a_verb_offers_no_option_that_it_ignores():
    assert "--workers" not in invoke("evaluate", "--help").stdout
    assert "--device" not in invoke("data", "check", "--help").stdout
    assert invoke("data", "check", "--workers", "3").exit_code == 2


def test_each_opening_of_test_is_counted(trained):
    told = [invoke("evaluate", str(trained)).stderr for _ in range(2)]
    assert "had never been opened before" in told[0] or "opened" in told[0]
    assert "opened" in told[1]
    assert told[0] != told[1]


def test_predict_prints_a_label_with_probabilities(trained, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "zero.png")
    image = str(tmp_path / "zero.png")
    result = invoke("predict", str(trained), "--image", image, "--text", "this is a zero", "--json")
    scores = json.loads(result.stdout)["scores"]
    assert set(scores) == {"true", "false"}
    assert sum(scores.values()) == pytest.approx(1)


def test_predict_takes_a_model_folder_that_was_moved(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "elsewhere")
    assert "probability" in invoke("predict", str(tmp_path / "elsewhere"), "--text", "this is a zero").stdout


def test_predict_writes_a_row_for_every_row(trained, tmp_path):
    (tmp_path / "rows.csv").write_text("id,img,text\n1,gone.png,a\n2,,this is a one\n")
    result = invoke("predict", str(trained), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "out.csv"))
    assert result.exit_code == 0
    assert "1 rows predicted" in result.stderr
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()] == ["id", "1", "2"]


def test_predict_fails_where_no_row_could_be_read(trained, tmp_path):
    (tmp_path / "rows.csv").write_text("id,img\n1,gone.png\n")
    assert invoke("predict", str(trained), str(tmp_path / "rows.csv")).exit_code == 1


def test_data_check_prints_the_cleaning_report():
    result = invoke("data", "check", "--set", "data.rows=320")
    assert result.exit_code == 0
    assert "rows read" in result.stdout


def test_data_show_never_shows_the_test_split():
    result = invoke("data", "show", "--set", "data.rows=320")
    assert "sealed" in result.stdout
    assert "First rows of train" in result.stdout


def test_sensitive_data_is_not_shown():
    result = invoke("data", "show", "--set", "data.rows=320", "data.sensitive=true")
    assert "First rows" not in result.stdout


def test_config_show_prints_what_a_file_may_hold(tmp_path):
    shown = invoke("config", "show", "--config", "quick", "--set", "optim.lr=3e-5").stdout
    (tmp_path / "mine.yaml").write_text(shown)
    assert invoke("config", "show", "--config", str(tmp_path / "mine.yaml")).stdout == shown


def test_config_schema_is_json_with_descriptions():
    schema = json.loads(invoke("config", "schema").stdout)
    assert schema["$defs"]["RunSection"]["properties"]["budget"]["description"]


def test_doctor_finds_this_machine_fit():
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "sqlite" in result.stdout


def test_features_of_pixels_can_be_trained_on(tmp_path):
    (tmp_path / "pictures").mkdir()
    lines = ["id,img,text,label"]
    for k in range(40):
        pixels = np.full((8, 8, 3), 255 * (k % 2), dtype=np.uint8)
        pixels[k % 8] = k
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
        lines.append(f"r{k},pictures/{k}.png,what is it number {k},{['dark', 'bright'][k % 2]}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "tokens.npz"
    made = invoke("features", str(tmp_path / "rows.csv"), "--extractor", "pixels", "-o", str(out))
    assert made.exit_code == 0, made.output
    with np.load(out) as file:
        assert file["tokens"].shape == (40, 16, 48)
    seen = invoke("data", "show", str(tmp_path / "rows.csv"), "--features", f"image={out}")
    assert "16 ready-made tokens of width 48" in seen.stdout


def test_features_can_come_from_a_trained_encoder(trained, tmp_path):
    out = tmp_path / "tokens.safetensors"
    words = ["--set", "data.rows=320", "--extractor", str(trained), "--modality", "image", "-o", str(out)]
    assert "of width 16" in invoke("features", *words).stdout
    checked = invoke("features", "--set", "data.rows=320", "--import", f"image={out}")
    assert "rows of the data without      0" in checked.stdout


def test_resume_of_a_finished_training_ends_with_the_same_figures(trained):
    before = json.loads((trained / "results.json").read_text())["arms"][0]["select"]
    assert invoke("resume", str(trained)).exit_code == 0
    assert json.loads((trained / "results.json").read_text())["arms"][0]["select"] == before


def test_the_same_settings_train_the_same_model(trained, tmp_path):
    assert invoke("train", *SMALL, "--run-folder", str(tmp_path)).exit_code == 0
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    figures = [json.loads((path / "results.json").read_text())["arms"][0]["select"] for path in (run, trained)]
    assert figures[0] == figures[1]


def test_reading_runs_takes_no_writing(trained: Path):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.json")}
    invoke("show", str(trained))
    invoke("list", "runs")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.json")} == before
