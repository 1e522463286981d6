"""The report says what the results say: in order, in words, without a network and without a script."""

import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from chiasma.experiment.report import charts, wording
from chiasma.experiment.report.console import render_table
from chiasma.experiment.report.render import Extras, render, write_report
from chiasma.experiment.results import Arm, Gain, Interval, Results
from tests.experiment.sample_results import arms, design, full_results, gain, near

HOSTILE = '--><script>alert("x")</script><img src=http://evil.example/x onerror=y> & $\\frac{1}{2}$'
VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"})


class Page(HTMLParser):
    """What a test wants to know about a page: tags with attributes, the text, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, words = self.headings[-1]
            self.headings[-1] = (level, words + data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render(full_results())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def minimal(**changes: object) -> Results:
    """Return the results of ``train``: one arm, measured on select alone."""
    arm = Arm(name="winner", role="winner", description="the design of the settings", select={"accuracy": 0.9})
    values: dict[str, object] = {
        "run": "train-1",
        "verb": "train",
        "source": "digit_claims",
        "metric": "accuracy",
        "higher_is_better": True,
        "budget": {},
        "data": {},
        "arms": (arm,),
        "winner": "winner",
    }
    return Results(**{**values, **changes})  # type: ignore[arg-type]


def test_the_headline_says_how_good_how_sure_and_how_much_better():
    assert wording.headline(full_results()) == (
        "The winner is right on 97.2 % of unseen examples (95 % interval 96.3 to 98.1); it beats the best floor, "
        "concat, by 3.1 points (2.0 to 4.2): better."
    )


def test_the_headline_compares_with_the_floor_that_is_hardest_to_beat_and_never_with_a_control():
    found = wording.best_floor_gain(full_results())
    assert found is not None
    assert found.against == "concat"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.004, "its gain over the best floor, concat, is 0.4 points (−0.7 to 1.5): no difference that can be shown."),
        (-0.02, "it is behind the best floor, concat, by 2.0 points (0.9 to 3.1): worse."),
        (0.0, "its gain over the best floor, concat, is 0.0 points (−1.1 to 1.1): no difference that can be shown."),
    ],
)
def test_a_gain_that_is_not_there_is_not_claimed(value: float, words: str):
    assert wording.headline(full_results(gains=(gain("concat", value),))).endswith(words)


def test_other_metrics_are_named_and_not_made_percentages():
    tested = Arm(name="winner", role="winner", description="x", test={"auroc": near(0.9123)})
    floor = Arm(name="majority", role="floor", description="x", test={"auroc": near(0.5)})
    results = full_results(
        metric="auroc", arms=(floor, tested), gains=(gain("majority", 0.4123, metric="auroc", width=0.02),)
    )
    assert wording.headline(results) == (
        "The winner's area under the ROC curve on unseen examples is 0.912 (95 % interval 0.903 to 0.921); it beats "
        "the best floor, majority, by 0.412 (0.392 to 0.432): better."
    )


def test_a_sealed_test_split_is_said_to_be_sealed():
    assert wording.headline(minimal()) == (
        "The winner is right on 90.0 % of the select split; the test split is still sealed."
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (12.4, "12 s"), (59.6, "1 min 00 s"), (200.0, "3 min 20 s"), (3900.0, "1 h 05 min")],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str):
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.08412, "0.084"), (12.0, "12"), (-0.5, "−0.500"), (1234.5, "1.23e+03"), (0.00012, "0.00012"), (1500, "1,500")],
)
def test_numbers_have_three_digits(value: float, words: str):
    assert wording.number(value) == words


def test_the_sections_come_in_the_order_of_a_readers_questions(page: Page):
    assert [words for level, words in page.headings if level == 2] == [
        "Keep in mind",
        "How good is it, and how sure are we?",
        "What is it?",
        "What did the search do?",
        "How did the winner train?",
        "Where does it fail?",
        "Can I trust the data?",
        "How do I repeat and use it?",
    ]


def test_headings_never_skip_a_level(page: Page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_tag_is_closed_and_every_id_is_unique(page: Page):
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_link_and_reference_leads_somewhere_in_the_page(html: str, page: Page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    references = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', html)
    assert set(references) <= ids
    assert len(references) > 10


def test_the_page_asks_for_nothing_from_outside_and_runs_nothing(html: str, page: Page):
    assert "http:" not in html
    assert "https:" not in html
    assert not page.all("script")
    assert not page.all("img")
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_chart_is_described_and_every_table_has_headers(page: Page):
    drawings = page.all("svg")
    assert len(drawings) == 4
    assert all(drawing["role"] == "img" and len(drawing["aria-label"] or "") > 30 for drawing in drawings)
    assert len(page.all("table")) == 12
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert all("tabindex" in region for region in page.all("div") if region.get("class") == "scroll")


@pytest.mark.parametrize(
    "words",
    [
        "47.0 (44.5 to 49.5)",
        "no difference",
        "On these examples a gain of 1.6 points over concat would be detected four times in five",
        "The test split had never been opened before.",
        "1,600 examples in 359 independent groups, averaged over 3 fresh seeds",
        "temperature of 1.31",
        "it was 0.031 before",
        "A convolutional encoder reads the image and a BERT-style encoder reads the text; a multiplicative fusion",
        "depth 2, heads 4, attention dot_product (projections (k, no o, q, v))",
        "184,322",
        "2.34 MFLOPs",
        "1.83 ms",
        "learning rate 0.0021 instead of 0.001",
        "5 proposals equal to an earlier design were not trained again",
        "loss is not finite",
        "0.83",
        "2,331",
        "unreadable image",
        "8,012 rows were read and 8,000 kept.",
        "chiasma evolve --budget 10m",
        "chiasma predict evolve-20260312-101500-ab12 new.csv -o predicted.csv",
        "from chiasma import Classifier",
        "0.1.0, commit ab12cd34ef56",
        "torch 2.13.0",
        "80% of each design's full training",
    ],
)
def test_what_the_results_know_is_on_the_page(page: Page, words: str):
    assert words in page.text


@pytest.mark.parametrize(
    ("before", "words"), [(0, "never been opened before"), (1, "once before"), (3, "3 times before")]
)
def test_earlier_openings_are_owned_up_to(before: int, words: str):
    said = wording.opening_words(full_results(opening=before))
    assert said is not None
    assert words in said
    assert wording.opening_words(full_results(opening=None)) is None


def test_a_run_without_search_and_test_says_so_instead_of_showing_empty_parts():
    page = Page(render(minimal()))
    for words in (
        "The test split is still sealed, so the winner has not been compared with the floors there.",
        "There was no search in this run.",
        "There is no training curve",
        "The test split was not opened, so there is nothing to say about single labels.",
        "The design of the winner was not recorded.",
        "Nothing was recorded about the data.",
    ):
        assert words in page.text
    assert not page.all("svg")
    assert page.open == []


def test_what_users_wrote_is_shown_and_never_run():
    hostile = full_results(
        run=HOSTILE,
        source=HOSTILE,
        notes=(HOSTILE,),
        arms=(Arm(name=HOSTILE, role="floor", description=HOSTILE, test={"accuracy": near(0.5)}), *arms()),
        gains=(gain(HOSTILE, 0.3),),
        per_label=tuple({"label": HOSTILE + n, "count": 1, "recall": 1.0, "precision": None, "f1": 1.0} for n in "ab"),
        anytime=({"seconds": 1.0, "candidates": 1, "error": 0.2, "proposer": HOSTILE},),
        proposers=({"proposer": HOSTILE, "candidates": 1, "seconds": 1.0},),
        rejections={HOSTILE: 1},
        lineage=({"candidate": 1, "proposer": HOSTILE, "edit": HOSTILE, "error": 0.1},),
        data={"source": HOSTILE, "task": HOSTILE, "quarantined": {HOSTILE: 1}, "notes": [HOSTILE]},
        design={"model": {"encoders": {HOSTILE: {"kind": HOSTILE, "name": HOSTILE}}, "fusion": {"kind": HOSTILE}}},
        provenance={"command": ["chiasma", HOSTILE], "time": HOSTILE},
    )
    html = render(hostile, extras=Extras(model_folder=HOSTILE))
    page = Page(html)
    assert not page.all("script")
    assert not page.all("img")
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.open == []
    assert page.text.count(HOSTILE) >= 10


def test_the_same_results_give_the_same_bytes(html: str):
    assert render(full_results()) == html


def test_results_survive_json_and_give_the_same_report(html: str):
    assert render(Results.from_json(full_results().to_json())) == html


def test_charts_take_their_colours_from_the_page(html: str):
    assert "#00ff" not in html
    assert "var(--good)" in html
    assert "prefers-color-scheme: dark" in html


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_on(html: str, scheme: str):
    light, dark = re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)[:2]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    for name in ("ink", "muted", "accent", "good", "bad"):
        assert all(contrast(colors[name], colors[ground]) >= 4.5 for ground in ("page", "panel", "soft"))
    for name in (name for name in colors if name.startswith("series")):
        assert contrast(colors[name], colors["panel"]) >= 3


def test_a_gain_against_many_arms_still_draws_every_name():
    many = full_results(gains=tuple(gain(f"arm {k}", k / 100) for k in range(20)))
    drawn = charts.forest(many)
    assert drawn is not None
    assert all(f">arm {k}<" in drawn for k in range(20))


def test_the_training_curve_of_a_regression_has_its_own_metric():
    rows = tuple({"step": k, "epoch": k, "train_loss": 1 / k, "mae": 2 / k} for k in range(1, 5))
    drawn = charts.training(full_results(metric="mae", higher_is_better=False, history=rows))
    assert drawn is not None
    assert "mean absolute error on steer from 2 to 0.500" in drawn


def test_labels_of_a_regression_are_shown_by_their_errors():
    page = Page(render(full_results(confusion=(), per_label=({"label": "price", "mae": 3.2, "rmse": 4.1, "r2": 0.5},))))
    assert "price" in page.text
    assert "3.200" in page.text


def test_too_many_labels_for_a_confusion_table_say_so():
    rows = tuple({"label": f"l{k}", "count": 1, "recall": k / 20, "precision": None, "f1": 0.5} for k in range(16))
    page = Page(render(full_results(confusion=(), per_label=rows)))
    assert "With more than 15 labels a table of confusions cannot be read" in page.text
    assert page.text.index("l3") < page.text.index("l12")


def test_a_model_of_one_modality_has_no_fusion():
    model = design()["model"]
    alone = {"encoders": {"text": {"kind": "ngram", "order": 2}}, "head": model["head"], "fusion": None, "dim": 32}
    page = Page(render(full_results(design={"model": alone})))
    assert "An n-gram encoder reads the text, all 32 wide." in page.text


def test_the_report_is_written_beside_the_model_it_talks_about(tmp_path: Path):
    path = write_report(full_results(), tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    assert f'Classifier.load("{tmp_path / "model"}")' in Page(path.read_text()).text


def test_the_table_on_the_terminal_has_every_arm_its_interval_and_the_headline():
    console = Console(file=io.StringIO(), width=160)
    console.print(render_table(full_results()))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for arm in arms():
        assert arm.name in text
    assert "97.2 % (96.3 to 98.1)" in text
    assert "3.1 points (2.0 to 4.2)" in text
    assert wording.headline(full_results()) in " ".join(text.split())


def test_the_table_without_a_test_has_no_empty_columns():
    console = Console(file=io.StringIO(), width=120)
    console.print(render_table(minimal(notes=("[bold]not markup[/bold]",))))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "on test" not in text
    assert "[bold]not markup[/bold]" in text


def test_a_gain_near_zero_never_reads_minus_zero():
    assert wording.points("accuracy", -0.0001) == "0.0 points"
    one = Gain(
        against="x",
        metric="accuracy",
        gain=Interval(value=0.01, low=-0.0002, high=0.02),
        verdict="no difference",
        detectable=0.01,
    )
    assert wording.gain_interval(one) == "1.0 point (0.0 to 2.0)"
