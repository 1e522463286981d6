"""Drawings of results as inline SVG: text stays text, colours follow the page, equal results give equal bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from chiasma.experiment.front import Front, Mechanism
from chiasma.experiment.report.wording import PERCENT, amount, large, metric_words, points, score_value
from chiasma.experiment.results import Results

# Stand-ins that become the page's own colours, so that one drawing serves light and dark.
INK, MUTED, GRID, PANEL = "#00ff01", "#00ff02", "#00ff03", "#00ff04"
GOOD, BAD = "#00ff05", "#00ff06"
SERIES = ("#00ff11", "#00ff12", "#00ff13", "#00ff14", "#00ff15", "#00ff16")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PANEL: "--panel",
    GOOD: "--good",
    BAD: "--bad",
    **{color: f"--series-{place + 1}" for place, color in enumerate(SERIES)},
}
MARKERS = "osD^vP"
WIDTH = 5.6
LONGEST_NAME = 24
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "legend.frameon": False,
    "figure.facecolor": "none",
}


def forest(results: Results) -> Markup | None:
    """Draw the winner's gain over each arm with its interval; right of zero the winner is better."""
    gains = sorted(results.gains, key=lambda gain: gain.gain.value, reverse=True)
    if not gains:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(0.95 + 0.34 * len(gains))
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, item in enumerate(gains):
            color = {"better": GOOD, "worse": BAD, "no difference": MUTED}[item.verdict]
            axes.plot([item.gain.low, item.gain.high], [place, place], color=color, linewidth=2, solid_capstyle="round")
            axes.plot(item.gain.value, place, marker="o", markersize=5.5, color=color)
        axes.set_yticks(range(len(gains)), [_short(item.against) for item in gains], color=INK)
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
        axes.spines["left"].set_visible(False)
        metric = gains[0].metric
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(metric, value)))
        unit = " (points)" if metric in PERCENT else ""
        axes.set_xlabel(f"gain in {metric_words(metric)}{unit}")
        words = "; ".join(
            f"{item.against}: {points(metric, item.gain.value)}, {item.verdict}" for item in reversed(gains)
        )
        return svg(figure, "forest", f"Gain of the winner over each arm with its interval. {words}.")


def anytime(results: Results) -> Markup | None:
    """Draw the best score on select over time; each improvement is marked by the proposer that made it."""
    improvements = list(results.anytime)
    if not improvements:
        return None
    seconds = [float(point["seconds"]) for point in improvements]
    scores = [score_value(results, float(point["error"])) for point in improvements]
    end = max(float(results.budget.get("spent_seconds") or 0), seconds[-1])
    scale, unit = (60.0, "minutes") if end > 180 else (1.0, "seconds")
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(2.9)
        axes.step([s / scale for s in [*seconds, end]], [*scores, scores[-1]], where="post", color=MUTED, linewidth=1.2)
        for place, name in enumerate(dict.fromkeys(str(point["proposer"]) for point in improvements)):
            mine = [k for k, point in enumerate(improvements) if point["proposer"] == name]
            axes.plot(
                [seconds[k] / scale for k in mine],
                [scores[k] for k in mine],
                linestyle="none",
                marker=MARKERS[place % len(MARKERS)],
                color=SERIES[place % len(SERIES)],
                markeredgecolor=PANEL,
                markersize=7.5,
                label=_short(name),
            )
        axes.set_xlim(left=0)
        axes.grid(axis="y", linewidth=0.6)
        axes.set_xlabel(f"{unit} since the start")
        _score_axis(axes, results.metric)
        axes.set_ylabel(f"best {metric_words(results.metric)} on select")
        axes.legend(loc="lower right" if results.higher_is_better else "upper right", title="found by")
        first, last = (amount(results.metric, value) for value in (scores[0], scores[-1]))
        return svg(figure, "anytime", f"Best score on select over time, in {len(scores)} steps from {first} to {last}.")


def training(results: Results) -> Markup | None:
    """Draw the winner's training loss and its metric on steer over epochs."""
    rows = [row for row in results.history if "epoch" in row]
    losses = {"train": "train_loss", "steer": "log_loss"}
    shown = {name: key for name, key in losses.items() if any(key in row for row in rows)}
    metric = results.metric if any(results.metric in row for row in rows) else None
    panels = bool(shown) + (metric is not None and metric not in shown.values())
    if len(rows) < 2 or not panels:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.75 * panels), layout="constrained")
        areas: list[Axes] = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        if shown:
            for place, (name, key) in enumerate(shown.items()):
                _curve(areas[0], rows, key, label=name, place=place)
            areas[0].set_ylabel("loss")
            areas[0].legend(loc="upper right")
        if metric and metric not in shown.values():
            _curve(areas[-1], rows, metric, label="steer", place=1 if shown else 0)
            areas[-1].set_ylabel(f"{metric_words(metric)}\non steer")
            _score_axis(areas[-1], metric)
        areas[-1].set_xlabel("epoch")
        areas[-1].xaxis.set_major_locator(MaxNLocator(8, integer=rows[-1]["epoch"] >= 4))
        for axes in areas:
            axes.grid(axis="y", linewidth=0.6)
        return svg(figure, "training", _training_words(rows, metric))


def reliability(results: Results) -> Markup | None:
    """Draw how often answers were right against how sure the winner was; on the diagonal, sureness can be believed."""
    bins = results.reliability
    if not bins:
        return None
    total = sum(row["count"] for row in bins)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(3.4)
        low = min(0.5, *(min(row["confidence"], row["accuracy"]) for row in bins))
        axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(
            [row["confidence"] for row in bins], [row["accuracy"] for row in bins], color=SERIES[0], linewidth=1.2
        )
        for row in bins:
            size = 4 + 10 * (row["count"] / total) ** 0.5
            axes.plot(row["confidence"], row["accuracy"], "o", color=SERIES[0], markersize=size, markeredgecolor=PANEL)
        axes.grid(linewidth=0.6)
        axes.set_xlabel("how sure the winner was (larger dots: more answers)")
        axes.set_ylabel("how often it was right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        words = "; ".join(f"sure {row['confidence']:.0%}, right {row['accuracy']:.0%}" for row in bins)
        return svg(figure, "reliability", f"Reliability of the winner's probabilities on test: {words}.")


def score_against_cost(front: Front) -> Markup | None:
    """Draw the score of each judged candidate against its first cost, with intervals; None where nothing costs."""
    if not front.costs:
        return None
    cost = front.costs[0]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(3.4)
        for place, (label, chosen) in enumerate(_kinds(front).items()):
            values = [each.objectives[cost] for each in chosen]
            scores = [each.score.value for each in chosen]
            low = [each.score.value - each.score.low for each in chosen]
            high = [each.score.high - each.score.value for each in chosen]
            color, marker = SERIES[place], MARKERS[place]
            axes.errorbar(
                values, scores, yerr=[low, high], fmt=marker, color=color, markersize=6, elinewidth=1.2, label=label
            )
        axes.grid(linewidth=0.6)
        axes.set_xlabel(f"{cost} of the whole model for one example")
        axes.set_ylabel(f"{metric_words(front.metric)} on select")
        _score_axis(axes, front.metric)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: large(value) if cost != "latency" else f"{value:g}")
        )
        axes.legend(loc="best")
        words = "; ".join(f"{e.name}: {amount(front.metric, e.score.value)}" for e in front.mechanisms)
        return svg(figure, "front", f"Score of each candidate against {cost}. {words}.")


def _kinds(front: Front) -> dict[str, list[Mechanism]]:
    """Return the candidates by what they are, in the order of the legend; none is empty."""
    found = front.discovered
    kinds = {
        **{each.name: [each] for each in front.mechanisms if not each.name.startswith("#")},
        "discovered, on the front": [each for each in found if each.on_front],
        "discovered": [each for each in found if not each.on_front],
    }
    return {label: chosen for label, chosen in kinds.items() if chosen}


def _training_words(rows: Sequence[Mapping[str, float]], metric: str | None) -> str:
    words = f"Training of the winner over {rows[-1]['epoch']:.3g} epochs"
    if metric is None:
        return f"{words}."
    measured = [row[metric] for row in rows if metric in row]
    first, last = amount(metric, measured[0]), amount(metric, measured[-1])
    return f"{words}: {metric_words(metric)} on steer from {first} to {last}."


def _curve(axes: Axes, rows: Sequence[Mapping[str, float]], key: str, *, label: str, place: int) -> None:
    known = [(row["epoch"], row[key]) for row in rows if key in row]
    axes.plot(
        [epoch for epoch, _ in known],
        [value for _, value in known],
        color=SERIES[place],
        marker=MARKERS[place],
        markersize=4,
        linewidth=1.6,
        label=label,
    )


def _tick(metric: str, value: float) -> str:
    return f"{100 * value if metric in PERCENT else value:.4g}".replace("-", "−")


def _score_axis(axes: Axes, metric: str) -> None:
    if metric in PERCENT:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width with one area."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _short(name: str) -> str:
    """Return a name that fits and that the font can measure."""
    plain = "".join(letter if ord(letter) < 0x530 else "?" for letter in name)
    return plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 1] + "…"


def svg(figure: Figure, name: str, words: str) -> Markup:
    """Return the figure as an ``svg`` element that takes the page's font, colours and width, described in words."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    # Several drawings share one page: names must not meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(
        r"<svg\b[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg class="chart" role="img" \1 {_label(words)}>', text
    )
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Markup(text.strip())


def _label(words: str) -> str:
    return f'aria-label="{escape(words)}"'.replace("\\", r"\\")
