"""What a controller did while a model trained: its actions over time, its roll-backs, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from chiasma.experiment.report.charts import BAD, MARKERS, SERIES, STYLE, WIDTH, svg
from chiasma.experiment.report.rows import Fact, Table
from chiasma.experiment.results import Results

DASHES = ("-", "--", ":")
NOT_SETTINGS = ("step", "loss")
FACTORS = ("all", "encoders", "fusion", "trunk", "head", "dropout", "decay")
TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def actions(results: Results) -> Markup | None:
    """Draw every setting over the steps: factors above on a logarithmic axis, gates and proposals below."""
    points = _points(results)
    if len(points) < 2:
        return None
    names = [name for name in points[-1] if name not in NOT_SETTINGS]
    factors = [name for name in names if name.startswith("rate") or name in FACTORS]
    panels = [chosen for chosen in (factors, [name for name in names if name not in factors]) if chosen]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * len(panels)), layout="constrained")
        areas: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
        for axes, chosen in zip(areas, panels, strict=True):
            _curves(axes, points, chosen)
            for item in _returns(results):
                axes.axvline(item["step"], color=BAD, linewidth=0.8, linestyle=(0, (2, 3)))
            if chosen == factors:
                _factor_axis(axes)
            else:
                axes.set_ylabel("setting (0: neutral)")
        areas[-1].set_xlabel("step (broken lines: roll-backs)")
        areas[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ends = "; ".join(f"{_words(name)} {points[-1][name]:.2f}" for name in names)
        return svg(figure, "controller", f"What the controller set, at the end: {ends}.")


def returns(results: Results) -> Table | None:
    """Return its roll-backs, with their reasons."""
    found = _returns(results)
    if not found:
        return None
    rows = tuple((str(item["step"]), str(item["reason"])) for item in found)
    return Table("What the controller took back", ("step", "reason"), rows, numeric=frozenset({"step"}))


def cost(results: Results) -> tuple[Fact, ...]:
    """Return what its computing and its measuring cost, in parts of the time of the training steps."""
    seconds: Mapping[str, float] = results.controller.get("seconds", {})
    steps = seconds.get("steps", 0.0)
    if not steps:
        return ()
    facts = [Fact("its computing, in parts of the steps' time", _part(seconds["computing"], steps))]
    if seconds["measuring"]:
        every = results.controller.get("every")
        name = f"its measuring on steer, every {every} steps"
        facts.append(Fact(name, _part(seconds["measuring"], steps)))
    return tuple(facts)


def _points(results: Results) -> Sequence[Mapping[str, float]]:
    return results.controller.get("trace", [])


def _returns(results: Results) -> Sequence[Mapping[str, Any]]:
    return results.controller.get("returns", [])


def _part(seconds: float, steps: float) -> str:
    return f"{100 * seconds / steps:.1f} %"


def _curves(axes: Axes, points: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        known = [(point["step"], point[name]) for point in points if name in point]
        axes.plot(
            [step for step, _ in known],
            [value for _, value in known],
            color=SERIES[place % len(SERIES)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle=DASHES[place // len(SERIES) % len(DASHES)],
            markersize=2.5,
            linewidth=1.3,
            label=_words(name),
        )
    axes.grid(axis="y", linewidth=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _factor_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_yticks(TICKS)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_ylabel("factor")


def _words(name: str) -> str:
    """Return a setting as a reader says it."""
    if name in ("rate", "all"):
        return "learning rate"
    if name.startswith("rate_"):
        return f"rate of {name.removeprefix('rate_')}"
    return {"decay": "weight decay"}.get(name, name.replace("_", " "))
