"""Pictures: a map of words, bars, lines, bands, and an equation in blocks. Each can be read from the last row."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _shared.report import atomic_write, cell_text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

COLOURS = ["#1f5fa8", "#c0392b", "#1e8449", "#7d3c98", "#b9570a", "#00798c", "#8d5524", "#c2185b"]
NO_WINDOW = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}  # matplotlib's backends that only write files


def word_map(path: Path, words: Sequence[str], vectors: np.ndarray, title: str, show=False, num_words=150) -> None:
    """Draw the first `num_words` words (400 at most) so that similar vectors stand together; 1600 × 1200 pixels.

    The places are t-SNE's (van der Maaten and Hinton, JMLR 2008): near means similar, far means little. The colours
    are k-means of the vectors themselves. A word moved far aside to be readable has a line to its dot; one that finds
    no room is its dot alone.
    """
    words, vectors = words[: min(num_words, 400)], np.array(vectors[: min(num_words, 400)], dtype=np.float64)  # (n, d)
    if not len(words) or vectors.ndim != 2 or len(vectors) != len(words) or not np.isfinite(vectors).all():
        raise ValueError(f"a map of {len(words)} words needs as many finite vectors, not shape {vectors.shape}")
    vectors -= vectors.mean(axis=0)  # what all words share tells none apart
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # near in cosine
    places, clusters = _places_and_clusters(vectors)
    places = [90, 40] + (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-12) * [1420, 1060]

    figure = FigureCanvasAgg(Figure(figsize=(16, 12), dpi=100)).figure  # on these axes one unit is one pixel:
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1600), ylim=(0, 1200), frame_on=False, xticks=[], yticks=[])
    style = {"ha": "center", "va": "center", "parse_math": False}  # "$" is a word
    heading = axes.text(800, 1165, title, fontsize=22, **style)
    heading.set_fontsize(22 * min(1, 1540 / heading.get_window_extent().width))
    labels = [axes.text(0, 0, word, fontsize=np.clip(2600 / len(words), 10, 17), **style) for word in words]
    halves = np.array([label.get_window_extent().size for label in labels]) / 2 + [4, 1]  # half widths and heights
    centres = spread_labels(places, halves, low=[0, 0], high=[1600, 1130])
    for i, cluster in enumerate(clusters):
        if any((abs(centres[i] - centres[j]) < halves[i] + halves[j] - 3).all() for j in range(i)):
            labels[i].set_visible(False)
            centres[i], halves[i] = places[i], -1600  # a dot is in nobody's way
        labels[i].set(position=centres[i], color=COLOURS[cluster], bbox={"fc": "white", "lw": 0, "pad": 0})
        if (abs(centres[i] - places[i]) > 2 * halves[i]).any():
            line = np.transpose([places[i], centres[i]])
            axes.plot(*line, color=COLOURS[cluster], alpha=0.4, marker=".", markevery=[0])
    save_figure(figure, path, show)


def _places_and_clusters(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A place in the plane for each of n points, (n, 2), and the number of its cluster, (n,)."""
    from sklearn.cluster import KMeans  # here, not above: importing it takes longer than drawing bars
    from sklearn.manifold import TSNE

    different = len(np.unique(points, axis=0))
    clusters = KMeans(min(len(COLOURS), different), n_init=4, random_state=1).fit_predict(points)
    if different < 4:
        return np.repeat(clusters[:, None], 2, axis=1).astype(float), clusters
    tsne = TSNE(perplexity=min(12.0, (len(points) - 1) / 3), init="random", method="exact", random_state=1)
    return tsne.fit_transform(points).astype(float), clusters


def spread_labels(places: np.ndarray, halves: np.ndarray, low, high, steps: int = 500) -> np.ndarray:
    """Push boxes (centres and half sizes, each (n, 2)) apart until none overlap, as near their places as may be."""
    x = places.copy()
    for step in range(steps):
        i, j = np.nonzero(np.triu((abs(x[:, None] - x) < halves[:, None] + halves).all(axis=-1), 1))
        room = halves[i] + halves[j]
        overlap = room - abs(x[i] - x[j])
        way_out = overlap / np.sqrt(room)  # shorter in y, as words are wide, but a heap must spread in x as well
        push = 0.6 * overlap * np.where(x[i] < x[j], -1, 1) * (way_out == way_out.min(axis=1, keepdims=True))
        np.add.at(x, np.r_[i, j], np.r_[push, -push])
        x = np.clip(x + (0.02 if step < steps / 2 else 0) * (places - x), low + halves, high - halves)
    return x


def bars(path: Path, title: str, labels: Sequence[str], values: Sequence[float], unit: str, show=False) -> None:
    """Draw a bar a label, the first on top, its value at its end; on a logarithmic axis if they span over 30-fold."""
    values = np.array(values, dtype=np.float64)
    if not len(labels) or len(labels) != len(values) or not np.isfinite(values).all():
        raise ValueError(f"{len(labels)} labels need as many finite values, not {values.tolist()}")
    figure = FigureCanvasAgg(Figure(figsize=(16, 1.9 + 0.7 * len(values)), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    axes = figure.add_subplot()
    drawn = axes.barh(np.arange(len(values)), values, color=COLOURS[0], height=0.7)
    axes.bar_label(drawn, [cell_text(float(value)) for value in values], padding=8, fontsize=18)
    axes.margins(x=0.15)  # room for the numbers
    if logarithmic := values.min() > 0 and values.max() > 30 * values.min():
        axes.set(xscale="log", xlim=(values.min() / 2, values.max() * (values.max() / values.min()) ** 0.2))
    axes.set_yticks(np.arange(len(values)), labels, fontsize=18, parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=14)
    axes.set_xlabel(unit + (" (logarithmic)" if logarithmic else ""), fontsize=16, parse_math=False)
    axes.set_title(title, fontsize=22, parse_math=False, pad=14)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, show)


def lines(path: Path, title: str, panels: Sequence[Mapping], show=False) -> None:
    """Draw panels side by side, each a dictionary of

    series: name -> (x, y), or (x, y, style) with matplotlib's keywords, as {"linestyle": "--"}; one curve each.
    xlabel, ylabel: with units. title: above the panel, if there is one.
    log: "", "x", "y" or "xy", the logarithmic axes. marks: name -> x, a vertical line there with its name.

    Several panels with the same names, in the same order, and the same vertical axis share both: one legend, below.
    """
    figure = FigureCanvasAgg(Figure(figsize=(16, 9), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    figure.suptitle(title, fontsize=22, parse_math=False)
    kinds = [(list(panel["series"]), panel["ylabel"], panel.get("log")) for panel in panels]
    alike = len(panels) > 1 and all(kind == kinds[0] for kind in kinds)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=alike)[0], panels, strict=True):
        for i, (name, (x, y, *style)) in enumerate(panel["series"].items()):
            if len(x) != len(y) or not len(x) or not np.isfinite([x, y]).all():
                raise ValueError(f"{name}: {len(x)} and {len(y)} numbers; expected as many, one or more, all finite")
            look = {"color": COLOURS[i % len(COLOURS)], "linewidth": 2.5, "marker": "o" if len(x) < 30 else ""}
            axes.plot(x, y, label=name, **{**look, **(style[0] if style else {})})
        marks = panel.get("marks", {})
        for x in dict.fromkeys(marks.values()):
            name = "; ".join(name for name in marks if marks[name] == x)
            axes.axvline(x, color="gray", linestyle=":", linewidth=2)
            axes.text(
                x,
                0.02,
                f" {name}",
                rotation=90,
                fontsize=13,
                color="gray",
                transform=axes.get_xaxis_transform(),
                ha="right",
                va="bottom",
                parse_math=False,
            )
        axes.set(**{f"{axis}scale": "log" for axis in panel.get("log", "")})
        axes.set_xlabel(panel["xlabel"], fontsize=16, parse_math=False)
        axes.set_ylabel(panel["ylabel"], fontsize=16, parse_math=False)
        axes.tick_params(labelsize=14)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_title(panel.get("title", ""), fontsize=18, parse_math=False)
        if alike:
            axes.label_outer()
    if alike:
        handles, labels = axes.get_legend_handles_labels()
        columns = math.ceil(len(labels) / math.ceil(len(labels) / 4))  # four, but the rows equally long
        style = {"loc": "outside lower center", "ncols": columns, "handlelength": 4}
        legends = [figure.legend(handles, labels, **style)]
    else:
        legends = [axes.legend() for axes in figure.axes]
    for legend in legends:
        legend.set_frame_on(False)
        for label in legend.get_texts():
            label.set(fontsize=14, parse_math=False)
    save_figure(figure, path, show)


def bands(path: Path, title: str, rows: Sequence[Sequence[Mapping]], show=False) -> None:
    """Draw rows of panels that share their axes, x all of them and y those of a row; each panel a dictionary of

    series: name -> (x, y) or (x, y, style), as in `lines`; a legend below the picture says each name once.
    band: (x, low, high), a shaded area; its name is the key `band_name` of the very first panel.
    title: above a panel. ylabel, ylim: of a row, taken from its first panel. xlabel: of all, from the very first.
    log: "", "x", "y" or "xy", the logarithmic axes.
    """
    figure = FigureCanvasAgg(Figure(figsize=(16, 9), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.12)
    figure.suptitle(title, fontsize=22, parse_math=False)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharex=True, sharey="row")
    named = {}
    for axes_of_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_of_row, row, strict=True):
            x, low, high = panel["band"]
            if not len(x) or not np.isfinite([x, low, high]).all():
                raise ValueError(f"a band needs finite numbers, one or more; got {low} to {high}")
            shade = axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
            named.setdefault(rows[0][0]["band_name"], shade)
            for name, (x, y, *style) in panel["series"].items():
                if len(x) != len(y) or not np.isfinite([x, y]).all():
                    raise ValueError(f"{name}: {len(x)} and {len(y)} numbers; expected as many, all finite")
                look = {"color": COLOURS[0], "linewidth": 2.5, "marker": "o" if len(x) == 1 else ""} | (
                    style[0] if style else {}
                )
                named.setdefault(name, axes.plot(x, y, **look)[0])
            for axis in panel.get("log", ""):
                axes.set(**{f"{axis}scale": "log"})
                getattr(axes, f"{axis}axis").set_major_locator(LogLocator(numticks=99))  # no decade is left out
                getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())
            axes.set_title(panel.get("title", ""), fontsize=16, parse_math=False)
            axes.tick_params(labelsize=14)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
        axes_of_row[0].set_ylabel(row[0]["ylabel"], fontsize=16, parse_math=False)
        axes_of_row[0].set_ylim(row[0].get("ylim"))
    for axes in grid[-1]:
        axes.set_xlabel(rows[0][0]["xlabel"], fontsize=16, parse_math=False)
    columns = math.ceil(len(named) / math.ceil(len(named) / 5))
    legend = figure.legend(named.values(), named, loc="outside lower center", ncols=columns, handlelength=3)
    legend.set_frame_on(False)
    for label in legend.get_texts():
        label.set(fontsize=15, parse_math=False)
    save_figure(figure, path, show)


def blocks(path: Path, title: str, parts: Sequence[Mapping], foot: Sequence[str] = (), show=False) -> None:
    """Draw matrices and vectors side by side, an equation in colours, and lines of text below; each a dictionary of

    values: (rows, columns), blue where positive, red where negative, the darker the larger in its block.
    name: above it. sign: before it, as "+". numbers: whether they are written in the cells. below: lines under it.
    left, right: words beside its rows. Up to some 20 rows and columns can be read.
    """
    for part in parts:
        if np.ndim(part["values"]) != 2 or not np.size(part["values"]) or not np.isfinite(part["values"]).all():
            raise ValueError(f"{part['name']}: expected finite numbers in rows and columns, got {part['values']!r:.60}")
    width, height = 1600, 900
    wide = [2.4 if part.get("numbers") else 1 for part in parts]  # of a cell, in heights
    beside = [[12 * max(map(len, part.get(side, [""]))) for side in ("left", "right")] for part in parts]
    signs = [30 + max(13 * len(line) for line in part.get("sign", "").split("\n")) for part in parts]
    cells = sum(np.shape(part["values"])[1] * w for part, w in zip(parts, wide, strict=True))
    room, most = width - 40 - np.sum(beside) - sum(signs), max(len(part["values"]) for part in parts)
    top, bottom = 130, height - 70 - 28 * len(foot)
    cell = min(room / cells, (bottom - top) / most)
    left = 20 + (room - cells * cell) / 2

    figure = FigureCanvasAgg(Figure(figsize=(16, 9), dpi=100)).figure  # on these axes one unit is one pixel:
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), frame_on=False, xticks=[], yticks=[])
    style = {"va": "center", "ha": "center", "parse_math": False}  # "$" is a word
    axes.text(width / 2, 45, title, fontsize=26, **style)
    for line, text in enumerate(foot):
        axes.text(width / 2, height - 28 * (len(foot) - line), text, fontsize=17, **style)
    for part, sign, (of_left, of_right), w in zip(parts, signs, beside, wide, strict=True):
        values = np.asarray(part["values"], dtype=np.float64)
        rows, columns = values.shape
        middle, x_size, y_size = top + most * cell / 2, columns * cell * w, rows * cell
        axes.text(left + sign / 2, middle, part.get("sign", ""), fontsize=20, **style)
        left, up, down = left + sign + of_left, middle - y_size / 2, middle + y_size / 2
        scale = max(abs(values).max(), 1e-12)
        colours = {"cmap": "RdBu", "vmin": -1.2 * scale, "vmax": 1.2 * scale}  # the ends are nearly black
        image = axes.imshow(values, **colours, extent=(left, left + x_size, down, up), aspect="auto")
        axes.set(xlim=(0, width), ylim=(height, 0))  # which imshow has changed
        axes.vlines(np.linspace(left, left + x_size, columns + 1), up, down, color="white", linewidth=2)
        axes.hlines(np.linspace(up, down, rows + 1), left, left + x_size, color="white", linewidth=2)
        for (row, column), value in np.ndenumerate(values) if part.get("numbers") else ():
            light = image.cmap(image.norm(value))[:3] @ np.array([0.3, 0.6, 0.1]) > 0.6
            place = left + (column + 0.5) * cell * w, up + (row + 0.5) * cell
            axes.text(*place, short(value), fontsize=15, color="black" if light else "white", **style)
        for side, x in (("left", left - 8), ("right", left + x_size + 8)):
            for row, word in enumerate(part.get(side, [])):
                aligned = style | {"ha": "right" if side == "left" else "left"}
                axes.text(x, up + (row + 0.5) * cell, word, fontsize=17, **aligned)
        axes.text(left + x_size / 2, up - 26, part["name"], fontsize=22, **style)
        for line, text in enumerate(part.get("below", [])):
            axes.text(left + x_size / 2, down + 20 + 26 * line, text, fontsize=15, **style)
        left += x_size + of_right
    save_figure(figure, path, show)


def short(value: float) -> str:
    """A number that fits into a cell: 3 digits, and no exponent if there is a way."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:,.{min(digits, 4)}f}".replace("-", "−")


def save_figure(figure: Figure, path: Path, show: bool) -> None:
    """Writes a PNG, whole or not at all; show: opens it in a window, too."""
    with atomic_write(path, binary=True) as file:
        figure.canvas.print_png(file)
    if not show:
        return
    try:
        from matplotlib import pyplot

        window = pyplot.figure(figsize=0.75 * figure.get_size_inches())
        if pyplot.get_backend().lower() in NO_WINDOW:
            raise RuntimeError("this backend only writes files")
        window.add_axes((0, 0, 1, 1)).imshow(pyplot.imread(path))
        pyplot.show()
    except Exception:  # each window toolkit has an error of its own for "no display"
        print(f"--show: no window can be opened here; the picture is {path}")
