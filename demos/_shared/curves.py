"""Pictures with the names beside what they name: curves that share their heights, curves by themselves, intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _shared.plots import save_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

HIGH, GAP = 900, 27  # of the picture of curves; from one name to the next: pixels


def curves(
    path: Path,
    title: str,
    series: Mapping[str, Mapping],
    panels: Sequence[Mapping],
    show=False,
    level: tuple[float, str] | None = None,
    highest: float = np.inf,
) -> None:
    """Draw the same heights over two things, in a panel each; between them the names, with the last height of each.

    series: name -> {"x": a sequence for each panel, "y": a sequence} and matplotlib's keywords, as "color".
    panels: two of {"title": …, "xlabel": …, "ylabel": …}; the second needs no ylabel. All axes are logarithmic.
    level: a height, marked by a dotted line, and its name. highest: what is above it is cut off,
    and an arrow stands behind the name of what ends there.
    """
    for name, look in series.items():
        for numbers in (*look["x"], look["y"]):
            if len(numbers) != len(look["y"]) or not len(numbers) or not (np.asarray(numbers, np.float64) > 0).all():
                raise ValueError(f"{name}: {numbers}; expected as many positive numbers on each axis, one or more")
    if highest <= min(min(look["y"]) for look in series.values()):
        raise ValueError(f"highest: {highest}; expected a height above that of the lowest point")
    if level and not 0 < level[0] < np.inf:
        raise ValueError(f"level: {level}; expected a positive height, and its name")
    figure = FigureCanvasAgg(Figure(figsize=(16, HIGH / 100), dpi=100)).figure
    figure.suptitle(title, fontsize=22, parse_math=False)
    grid = [figure.add_axes((left, 0.1, wide, 0.76)) for left, wide in ((0.065, 0.305), (0.7, 0.285))]
    heights = np.concatenate([look["y"] for look in series.values()] + [[level[0]] if level else []])
    heights = np.minimum(heights, highest)
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        for look in series.values():
            style = {key: value for key, value in look.items() if key not in ("x", "y")}
            axes.plot(look["x"][i], look["y"], **{"linewidth": 3, "marker": "o", "markersize": 5} | style)
        if level:
            axes.axhline(level[0], color="gray", linewidth=2, linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(heights.min() / 1.15, heights.max() * 1.15))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        few_decades(axes.yaxis, heights, much=True)
        few_decades(axes.xaxis, np.concatenate([look["x"][i] for look in series.values()]))
        axes.set_title(panel["title"], fontsize=18, parse_math=False, pad=12)
        axes.set_xlabel(panel["xlabel"], fontsize=17, parse_math=False)
        axes.set_ylabel(panel.get("ylabel", ""), fontsize=17, parse_math=False)
        axes.tick_params(labelsize=15, labelleft=i == 0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)

    if level:
        beside = {"textcoords": "offset points", "va": "bottom", "xycoords": ("axes fraction", "data")}
        grid[0].annotate(level[1], (0, level[0]), (8, 3), fontsize=14, color="gray", parse_math=False, **beside)
    top = min(heights.max() * 1.15, highest)
    last = [(look["x"][0][-1], min(look["y"][-1], top)) for look in series.values()]
    ends = np.array([grid[0].transData.transform(end) for end in last])
    places = apart(ends[:, 1], GAP, 0.1 * HIGH, 0.86 * HIGH)
    for (name, look), (x, y), place in zip(series.items(), ends, places, strict=True):
        style = {"color": look.get("color"), "alpha": look.get("alpha")}
        to_pixels = {"transform": None, **style}  # on a figure of no transform one unit is one pixel
        above = bool(look["y"][-1] > top)
        if not above:
            figure.add_artist(Line2D([x + 6, 622], [y, place], linewidth=1, **to_pixels))
        dashes = {"linestyle": look.get("linestyle", "-"), "linewidth": min(look.get("linewidth", 3), 4)}
        figure.add_artist(Line2D([624, 664], [place, place], **dashes, **to_pixels))
        height = look["y"][-1]
        said = f"{height:#.3g}  {name}" if height < 100 else f"{height:,.0f}  {name}"
        said += " ↑" * above
        figure.text(0.42, place / HIGH, said, fontsize=14, color=look.get("color"), va="center", parse_math=False)
    save_figure(figure, path, show)


def few_decades(axis, numbers: np.ndarray, much: bool = False) -> None:
    """On a logarithmic axis on which there would be a number or two: 1, 2, 5, 10, 20, … much: with room for more."""
    times = numbers.max() / numbers.min()
    if times < 100:
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 8) if much and times < 10 else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def named_at_the_end(path: Path, title: str, panels: Sequence[Mapping], show=False) -> None:
    """Draw panels of curves side by side, the name of each curve at its right end; each panel a dictionary of

    series: name -> (x, y, style), with matplotlib's keywords. title, xlabel, ylabel: of the panel, each with its own
    heights; all axes are logarithmic. mark: (x, name), a vertical line there.
    """
    figure = FigureCanvasAgg(Figure(figsize=(16, HIGH / 100), dpi=100)).figure
    figure.suptitle(title, fontsize=22, parse_math=False)
    part, low, high = 0.95 / len(panels), 0.1, 0.86
    for i, panel in enumerate(panels):
        axes = figure.add_axes((0.06 + i * (part + 0.045), low, part - 0.235, high - low))
        for name, (x, y, style) in panel["series"].items():
            if len(x) != len(y) or not len(x) or not (np.asarray([x, y], np.float64) > 0).all():
                raise ValueError(f"{name}: {x}, {y}; expected as many positive numbers on each axis, one or more")
            axes.plot(x, y, **{"linewidth": 3, "marker": "o", "markersize": 5} | style)
        axes.set(xscale="log", yscale="log")
        axes.set_title(panel["title"], fontsize=18, parse_math=False, pad=12)
        axes.set_xlabel(panel["xlabel"], fontsize=17, parse_math=False)
        axes.set_ylabel(panel["ylabel"], fontsize=17, parse_math=False)
        axes.tick_params(labelsize=15)
        for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
            numbers = np.concatenate([curve[place] for curve in panel["series"].values()])
            few_decades(axis, numbers, much=place == 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if "mark" in panel:
            at, name = panel["mark"]
            axes.axvline(at, color="gray", linestyle=":", linewidth=2)
            beside = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "parse_math": False}
            axes.annotate(name, (at, 0.96), (6, 0), fontsize=14, color="gray", **beside)
        ends = np.array([axes.transData.transform((x[-1], y[-1])) for x, y, _ in panel["series"].values()])
        edge = axes.transAxes.transform((1, 0))[0] + 20
        places = apart(ends[:, 1], GAP, low * HIGH, high * HIGH)
        for (name, (_, _, style)), (x, y), place in zip(panel["series"].items(), ends, places, strict=True):
            colour = style.get("color")
            figure.add_artist(Line2D([x + 6, edge], [y, place], linewidth=1, color=colour, transform=None))
            place_of_text = (edge + 4) / 1600, place / HIGH
            figure.text(*place_of_text, name, fontsize=14, color=colour, va="center", parse_math=False)
    save_figure(figure, path, show)


def apart(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Places in low … high, in the order of those wanted, at least `gap` apart, and else as near them as can be.

    In Σ (place − wanted)²: after n gaps are taken off the n-th, that is to find numbers that don't fall, and where
    those wanted fall, all of such a run get their mean. Where there is no room for so many, the gaps are smaller.
    """
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    steps = gap * np.arange(len(wanted))
    runs = []  # (mean, how many)
    for number in wanted[order] - steps:
        mean, many = number, 1
        while runs and runs[-1][0] >= mean:
            before, n = runs.pop()
            mean, many = (mean * many + before * n) / (many + n), many + n
        runs.append((mean, many))
    found = np.repeat([mean for mean, _ in runs], [many for _, many in runs])
    places = np.empty(len(wanted))
    places[order] = np.clip(found, low, high - steps[-1:]) + steps
    return places


def intervals(path: Path, title: str, rows: Sequence[tuple[str, float, float]], xlabel: str, show=False) -> None:
    """Draw a row for each (name, mean, spread), the first on top: a dot, and a bar from mean − spread to mean + spread.

    A dotted line marks zero.
    """
    middle, spread = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2).T
    if not len(middle) or not np.isfinite([middle, spread]).all():
        raise ValueError(f"a row needs finite numbers, and there must be one or more; got {rows}")
    figure = FigureCanvasAgg(Figure(figsize=(16, 1.9 + 0.55 * len(rows)), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    axes, heights = figure.add_subplot(), np.arange(len(rows))
    axes.axvline(0, color="gray", linewidth=2, linestyle=":")
    axes.errorbar(middle, heights, xerr=spread, fmt="o", markersize=10, linewidth=5, color="#0072B2")
    for height, x, wide in zip(heights, middle, spread, strict=True):
        said = f"{x:.2f} ± {wide:.2f}".replace("-", "−")
        beside = {"textcoords": "offset points", "va": "center", "bbox": {"fc": "white", "lw": 0, "pad": 1}}
        axes.annotate(said, (x + wide, height), (12, 0), fontsize=15, **beside)
    axes.set_yticks(heights, [row[0] for row in rows], fontsize=16, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.05)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.16 * (right - left))  # room for the numbers
    axes.tick_params(axis="x", labelsize=14)
    axes.set_xlabel(xlabel, fontsize=16, parse_math=False)
    figure.suptitle(title, fontsize=22, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, axis="x")
    save_figure(figure, path, show)
