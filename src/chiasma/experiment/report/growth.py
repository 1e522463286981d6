"""How a trunk grew: the life and contribution of every member, and who heard of whom in the end."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from chiasma.experiment.report.charts import INK, MARKERS, MUTED, SERIES, STYLE, new_figure, svg
from chiasma.experiment.report.rows import Table
from chiasma.experiment.results import Results

DASHES = ("-", "--", ":")
FAINTEST = 0.08
WIDEST = 5.0
SHADE = 0.15
UNDONE = " (undone: after the step that is kept)"
EVENTS = {"birth": "born", "promotion": "promoted", "retirement": "teaches the others", "pruning": "pruned"}


def lives(results: Results) -> Markup | None:
    """Draw one bar a member from birth to death; it is thin while a newcomer."""
    members = _members(results)
    if not members:
        return None
    last = results.growth["reviews"]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(0.9 + 0.34 * len(members))
        for row, life in enumerate(members):
            end = life["died"] or last
            promoted = end if life["promoted"] is None else life["promoted"]
            axes.plot([life["born"], promoted], [row, row], color=SERIES[1], linewidth=2)
            axes.plot([promoted, end], [row, row], color=SERIES[0], linewidth=8, solid_capstyle="butt")
            if life["died"] is not None:
                axes.plot(end, row, "x", color=INK, markersize=7)
        axes.set_yticks(range(len(members)), [life["name"] for life in members])
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel(f"review (thin: a newcomer; cross: pruned{_mark_kept(axes, results)})")
        axes.grid(axis="x", linewidth=0.6)
        words = "; ".join(_life_words(life, results) for life in members)
        return svg(figure, "lives", f"Lives of the members: {words}.")


def contributions(results: Results) -> Markup | None:
    """Draw each member's contribution over the reviews."""
    members = [life for life in _members(results) if life["contributions"]]
    if not members:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(2.6)
        for place, life in enumerate(members):
            values = life["contributions"]
            reviews = range(life["born"] + 1, life["born"] + 1 + len(values))
            axes.plot(
                list(reviews),
                values,
                color=SERIES[place % len(SERIES)],
                marker=MARKERS[place % len(MARKERS)],
                linestyle=DASHES[place // len(SERIES) % len(DASHES)],
                markersize=4,
                linewidth=1.4,
                label=life["name"],
            )
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("review" + _mark_kept(axes, results))
        axes.set_ylabel("contribution")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", linewidth=0.6)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        words = "; ".join(f"{life['name']} {life['contributions'][-1]:.2f}" for life in members)
        return svg(figure, "contributions", f"Contributions at the end of each life: {words}.")


def router(results: Results) -> Markup | None:
    """Draw the members that the kept model weighs in a circle, and how much each hears of each other one."""
    kept = _kept(results)
    edges = (kept or results.growth).get("edges") or {}
    names, weights = edges.get("members", []), edges.get("weights", [])
    if len(names) < 2 or not weights:
        return None
    at = {
        name: (math.cos(2 * math.pi * place / len(names)), math.sin(2 * math.pi * place / len(names)))
        for place, name in enumerate(names)
    }
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(3.2)
        for hearer, row in zip(names, weights, strict=True):
            for heard, weight in zip(names, row, strict=True):
                if hearer != heard:
                    arrow = {"arrowstyle": "-|>", "color": SERIES[0], "alpha": max(FAINTEST, min(1.0, weight))}
                    arrow |= {"linewidth": WIDEST * weight, "connectionstyle": "arc3,rad=0.15", "shrinkA": 14}
                    axes.annotate("", at[hearer], at[heard], arrowprops={**arrow, "shrinkB": 14})
        last = {life["name"]: life["shares"][-1] for life in _members(results) if life["shares"]}
        shares = kept["shares"] if kept else last
        for name, (x, y) in at.items():
            axes.plot(x, y, "o", color=SERIES[1], markersize=6 + 8 * math.sqrt(shares.get(name, 0.0)))
            axes.annotate(name, (x, y), (0, 14), textcoords="offset points", ha="center", color=MUTED)
        axes.set_xlim(-1.7, 1.7)
        axes.set_ylim(-1.35, 1.5)
        axes.axis("off")
        words = "; ".join(
            f"{hearer} hears {', '.join(f'{heard} {weight:.2f}' for heard, weight in zip(names, row, strict=True))}"
            for hearer, row in zip(names, weights, strict=True)
        )
        return svg(figure, "router", f"The router's graph: {words}.")


def events(results: Results) -> Table | None:
    """Return what happened, with its reasons; what the kept model does not hold any more is said to be undone."""
    found: list[dict[str, Any]] = results.growth.get("events") or []
    if not found:
        return None
    rows = tuple(
        (e["name"], _event_words(e), str(e["review"]), str(e["step"]), f"{e['loss']:.3f}", e["reason"]) for e in found
    )
    columns = ("member", "what happened", "review", "step", "loss on steer", "reason")
    return Table("What happened to the members", columns, rows, numeric=frozenset(columns[2:5]))


def _members(results: Results) -> list[Mapping[str, Any]]:
    return sorted(results.growth.get("lives", {}).values(), key=lambda life: (life["born"], life["name"]))


def _event_words(event: Mapping[str, Any]) -> str:
    return EVENTS[event["event"]] + (UNDONE if event.get("undone") else "")


def _kept(results: Results) -> Mapping[str, Any]:
    """Return what is kept of the training; empty in results of older versions."""
    return results.growth.get("kept") or {}


def _mark_kept(axes: Axes, results: Results) -> str:
    """Draw a line at the review whose weights are kept, with all later ones shaded, and return what it is."""
    kept = _kept(results)
    if not kept:
        return ""
    axes.axvline(kept["review"], color=INK, linewidth=1, linestyle="--")
    if kept["review"] < results.growth["reviews"]:
        axes.axvspan(kept["review"], results.growth["reviews"], color=MUTED, alpha=SHADE, linewidth=0)
    return f"; dashed line: review {kept['review']}, which is kept; shaded: undone"


def _life_words(life: Mapping[str, Any], results: Results) -> str:
    end = "alive" if life["died"] is None else f"pruned after {life['died']}"
    words = f"{life['name']} from {life['born']}, {end}"
    kept = _kept(results)
    if not kept:
        return words
    role = kept["members"].get(life["name"])
    return f"{words}, {'not in the kept model' if role is None else f'kept as {role}'}"
