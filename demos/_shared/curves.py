"""Two more pictures, with names beside what they name: curves that share their heights, and intervals on one axis."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _shared.plots import _save, spread_labels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


def curves(path: Path, title: str, series: Mapping, panels: Sequence[Mapping], show=False) -> None:
    """Draw the same curves in two panels, whose heights are the same, with their names between the two.

    series: name -> {"x": one sequence a panel, "y": a sequence, and matplotlib's keywords, as "color"}; what all curves
    reach at the right end of the first panel is where its name begins. panels: {"xlabel": …, "title": …}, two of them;
    the first has the ylabel, too. Both axes are logarithmic.
    """
    figure = FigureCanvasAgg(Figure(figsize=(16, 9), dpi=100)).figure
    figure.suptitle(title, fontsize=22, parse_math=False)
    places = [(0.07, 0.11, 0.33, 0.75), (0.665, 0.11, 0.32, 0.75)]
    axes = [figure.add_axes(place) for place in places]
    for name, look in series.items():
        style = {key: value for key, value in look.items() if key not in "xy"}
        for x, on in zip(look["x"], axes, strict=True):
            if len(x) != len(look["y"]) or not len(x) or not np.isfinite([x, look["y"]]).all():
                raise ValueError(f"{name}: {len(x)} and {len(look['y'])} numbers; expected as many, all finite")
            on.plot(x, look["y"], **{"linewidth": 3, "marker": "o", "markersize": 5} | style)
    heights = np.concatenate([look["y"] for look in series.values()])
    limits = heights.min() / 1.2, heights.max() * 1.2
    for on, panel in zip(axes, panels, strict=True):
        on.set(xscale="log", yscale="log", ylim=limits)
        on.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        on.yaxis.set_major_formatter("{x:g}")
        on.yaxis.set_minor_formatter(NullFormatter())
        on.set_title(panel["title"], fontsize=18, parse_math=False, pad=12)
        on.set_xlabel(panel["xlabel"], fontsize=17, parse_math=False)
        on.tick_params(labelsize=15)
        on.spines[["top", "right"]].set_visible(False)
        on.grid(alpha=0.3)
    axes[0].set_ylabel(panels[0]["ylabel"], fontsize=17, parse_math=False)
    axes[1].tick_params(labelleft=False)

    left = axes[0]
    ends = np.array([left.transData.transform((look["x"][0][-1], look["y"][-1])) for look in series.values()])
    low, high = (places[0][i] * 900 + extra for i, extra in ((1, 0), (1, 675)))
    apart = spread_labels(np.stack([np.zeros(len(ends)), ends[:, 1]], axis=1), np.tile([1, 13.0], (len(ends), 1)),
                          low=[-1, low], high=[1, high])[:, 1]  # fmt: skip
    for (name, look), (x, y), to in zip(series.items(), ends, in_order(ends[:, 1], apart), strict=True):
        colour, dashes = look.get("color"), look.get("linestyle", "-")
        line = left.transData.inverted().transform([(x + 8, y), (x + 40, to)])
        left.plot(*line.T, color=colour, linewidth=1, clip_on=False)
        figure.add_artist(_line((x + 44) / 1600, (x + 84) / 1600, to / 900, color=colour, linestyle=dashes))
        figure.text((x + 92) / 1600, to / 900, name, fontsize=15, color=colour, va="center", parse_math=False)
    _save(figure, path, show)


def in_order(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The same places, given to those who want them so that no two cross."""
    given = np.empty_like(places)
    given[np.argsort(wanted, kind="stable")] = np.sort(places)
    return given


def _line(x0: float, x1: float, y: float, **style):
    from matplotlib.lines import Line2D

    return Line2D([x0, x1], [y, y], linewidth=3, **style)


def intervals(path: Path, title: str, rows: Sequence[tuple[str, float, float]], xlabel: str, show=False) -> None:
    """Draw a row for each (name, mean, spread), the first on top: a dot, a bar from mean − spread to mean + spread."""
    middle, spread = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2).T
    if not len(middle) or not np.isfinite([middle, spread]).all():
        raise ValueError(f"a row needs finite numbers, one row or more; got {rows}")
    figure = FigureCanvasAgg(Figure(figsize=(16, 1.9 + 0.55 * len(rows)), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    axes, heights = figure.add_subplot(), np.arange(len(rows))
    axes.axvline(0, color="gray", linewidth=2, linestyle=":")
    axes.errorbar(middle, heights, xerr=spread, fmt="o", markersize=10, linewidth=5, color="#0072B2")
    for height, x, wide in zip(heights, middle, spread, strict=True):
        said = f"{x:.2f} ± {wide:.2f}".replace("-", "−")
        axes.annotate(said, (x + wide, height), (10, 0), textcoords="offset points", fontsize=15, va="center")
    axes.set_yticks(heights, [row[0] for row in rows], fontsize=16, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="x", labelsize=14)
    axes.set_xlabel(xlabel, fontsize=16, parse_math=False)
    axes.set_title(title, fontsize=22, parse_math=False, pad=14)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path, show)
