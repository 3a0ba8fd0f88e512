"""Two pictures: a map of words, and bars. Each is a PNG that can be read from the last row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _shared.report import atomic_write, cell_text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ["#1f5fa8", "#c0392b", "#1e8449", "#7d3c98", "#b9570a", "#00798c", "#8d5524", "#c2185b"]
NO_WINDOW = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}  # matplotlib's backends that only write files


def word_map(path: Path, words: Sequence[str], vectors: np.ndarray, title: str, show=False, num_words=150) -> None:
    """Draw the first `num_words` words (400 at most) so that similar vectors stand together; 1600 × 1200 pixels.

    The places are `tsne`'s: near means similar, far means little. The colours are `kmeans` of the vectors themselves.
    A word moved far aside to be readable has a line to its dot; one that finds no room is its dot alone.
    """
    words, vectors = words[: min(num_words, 400)], np.array(vectors[: min(num_words, 400)], dtype=np.float64)  # (n, d)
    if not len(words) or vectors.ndim != 2 or len(vectors) != len(words) or not np.isfinite(vectors).all():
        raise ValueError(f"a map of {len(words)} words needs as many finite vectors, not shape {vectors.shape}")
    vectors -= vectors.mean(axis=0)  # what all words share tells none apart
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # near in cosine
    u, s, _ = np.linalg.svd(vectors, full_matrices=False)
    points = (u * s)[:, :30]  # (n, ≤ 30): PCA
    places = tsne(points)  # (n, 2)
    places = [90, 40] + (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-12) * [1420, 1060]

    figure = FigureCanvasAgg(Figure(figsize=(16, 12), dpi=100)).figure  # on these axes one unit is one pixel:
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1600), ylim=(0, 1200), frame_on=False, xticks=[], yticks=[])
    style = {"ha": "center", "va": "center", "parse_math": False}  # "$" is a word
    heading = axes.text(800, 1165, title, fontsize=22, **style)
    heading.set_fontsize(22 * min(1, 1540 / heading.get_window_extent().width))
    labels = [axes.text(0, 0, word, fontsize=np.clip(2600 / len(words), 10, 17), **style) for word in words]
    halves = np.array([label.get_window_extent().size for label in labels]) / 2 + [4, 1]  # half widths and heights
    centres = spread_labels(places, halves, low=[0, 0], high=[1600, 1130])
    for i, cluster in enumerate(kmeans(points, min(len(COLOURS), len(words)))):
        if any((abs(centres[i] - centres[j]) < halves[i] + halves[j] - 3).all() for j in range(i)):
            labels[i].set_visible(False)
            centres[i], halves[i] = places[i], -1600  # a dot is in nobody's way
        labels[i].set(position=centres[i], color=COLOURS[cluster], bbox={"fc": "white", "lw": 0, "pad": 0})
        if (abs(centres[i] - places[i]) > 2 * halves[i]).any():
            line = np.transpose([places[i], centres[i]])
            axes.plot(*line, color=COLOURS[cluster], alpha=0.4, marker=".", markevery=[0])
    _save(figure, path, show)


def tsne(points: np.ndarray, perplexity: float = 12.0, steps: int = 600, seed: int = 1) -> np.ndarray:
    """Place n points in the plane, (n, 2), so that neighbours stay neighbours (van der Maaten & Hinton 2008, exact).

    (1) p_j|i ∝ exp(−βᵢ|xᵢ − xⱼ|²), βᵢ such that the entropy of p_·|i is log(perplexity);  pᵢⱼ = (p_j|i + p_i|j) / 2n
    (2) qᵢⱼ ∝ wᵢⱼ = 1 / (1 + |yᵢ − yⱼ|²)
    (3) ∂KL(p‖q)/∂yᵢ = 4 Σⱼ (pᵢⱼ − qᵢⱼ) wᵢⱼ (yᵢ − yⱼ)
    """
    n = len(points)
    others = 1.0 - np.eye(n)
    distances = _squared_distances(points, points)  # (n, n)
    distances -= np.min(distances + 1e9 * np.eye(n), axis=1, keepdims=True)  # p is the same, and exp never all 0
    log_beta, stride = np.zeros(n), 16.0
    for _ in range(40):  # (1) bisection on log βᵢ, for all i at once
        p = others * np.exp(-np.exp(log_beta)[:, None] * np.maximum(distances, 0))
        p /= np.maximum(p.sum(axis=1, keepdims=True), 1e-300)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        log_beta += stride * np.sign(entropy - np.log(min(perplexity, max(1, (n - 1) / 3))))
        stride /= 2
    p = (p + p.T) / (2 * n)
    y = 1e-5 * np.random.default_rng(seed).normal(size=(n, 2))  # equal points must part
    y[:, : points.shape[1]] += 1e-4 * points[:, :2]  # as PCA has them, but tiny
    velocity, gains = np.zeros((n, 2)), np.ones((n, 2))
    for step in range(steps):
        early = step < 200  # p counts 12-fold at first: groups form while there is room to pass
        w = others / (1 + _squared_distances(y, y))  # (2)
        force = ((12 if early else 1) * p - w / max(w.sum(), 1e-300)) * w
        gradient = 4 * (force.sum(axis=1, keepdims=True) * y - force @ y)  # (3)
        gains = np.maximum(np.where(gradient * velocity < 0, gains + 0.2, gains * 0.8), 0.01)
        velocity = (0.5 if early else 0.8) * velocity - max(n / 12, 50) * gains * gradient
        y += velocity
    return y


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0)  # (len(a), len(b))


def kmeans(points: np.ndarray, k: int, steps: int = 30) -> np.ndarray:
    """Return the cluster, 0 … k − 1, of each point. The centres start far apart, each far from those before."""
    centres = points[:1]
    while len(centres) < k:
        centres = np.vstack([centres, points[_squared_distances(points, centres).min(axis=1).argmax()]])
    for _ in range(steps):
        clusters = _squared_distances(points, centres).argmin(axis=1)
        for c in set(clusters):
            centres[c] = points[clusters == c].mean(axis=0)
    return clusters


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
    _save(figure, path, show)


def _save(figure: Figure, path: Path, show: bool) -> None:
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
