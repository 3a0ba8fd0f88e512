"""CPU or GPU, practically?  The slide "Practically", checked on this machine.

The slide's claims: "Use CPU for prototyping, … you can run many more experiments. For many applications, CPU is just as
fast or faster than GPU: NLP analysis tasks with small or complicated data/networks. You see big gains on GPU when you
have: very big networks (or softmaxes with no approximation); do mini-batching; optimise things properly."

    python demos/practically.py
    python demos/practically.py --device gpu

Measured is a step of training (loss, gradients, update) of a small language model: the vectors of two words, side by
side, through two layers of d numbers, to a softmax over V words. In all combinations of

    the device   CPU with one thread, CPU with all, and, whenever CuPy finds one, a GPU (--device gpu insists on it)
    B            examples in a batch: 1, 8, 64, 512. B = 1 is also what is left to a network that is complicated: one
                 that has another shape for each example cannot put them into one batch
    d            the size of the network: 32, 128, 512
    V            the vocabulary: 100, 10,000, 50,000

The table has the examples/s of each cell, names the fastest way in its row (several, where they are less than a tenth
apart), and marks from which batch on a way beats all before it. Two more measurements, with d = 128, B = 64 and the
largest V: the softmax beside negative sampling, which approximates it, all else being the same; and, as an example of
what is not optimised properly, that same step with the gradients of look-ups written out, V rows of nearly all zeros.

At the end comes the slide, sentence by sentence: whether it holds here, and the numbers. A network that gains nothing
from all threads needs but one, and leaves the others to more experiments. "As fast" is a tenth more or less, "big
gains" are twice as fast or more. Where there is no GPU nothing is said of one; what all threads gain over one in the
same cells, the nearest thing there is, is shown in its place.

What comes out, in out/practically/: speeds.png (examples/s against B, a panel for each V) and results.json. Takes
about a minute, --quick under ten seconds.

To predict before running; `predict` in results.json has the answers, for one thread and d = 128:
    1.  With V = 10,000, how many times as many examples are done in a second in batches of 64 instead of 1?
    2.  With B = 64 and the largest V, which part of a step is spent on the exact softmax?
"""

# %% What we need
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from _shared.flags import common_flags, output_folder, run_demo
from _shared.plots import COLOURS, lines
from _shared.progress import Progress
from _shared.report import environment, table, write_json
from _shared.ways import Way, crossover, in_time, in_turn, machine_in_words, ways_here

import losses
import minigrad as mg

BATCHES, WIDTHS, VOCABULARIES = (1, 8, 64, 512), (32, 128, 512), (100, 10_000, 50_000)
QUICK = (1, 64), (32, 128), (100, 10_000)
D, B = 128, 64  # of the two more measurements
CONTEXT, ROTATE = 2, 8  # words that are looked at; batches of each kind, lest the same rows lie in the cache
MARGIN = 1.1  # less than a tenth is no victory
BIG = 2.0  # times as fast is "big gains"


# %% The model: two words, two layers, one word
class LanguageModel(mg.nn.Module):
    def __init__(self, vocab_size: int, dim: int, key: mg.Key, layer: type = losses.FullSoftmax, **options):
        self.embedding = mg.nn.Embedding(vocab_size, dim, key=key.fold(0))
        self.hidden = [mg.nn.Linear(n, dim, key=key.fold(1, n)) for n in (CONTEXT * dim, dim)]
        self.layer = layer(vocab_size, dim, key=key.fold(2), **options)
        self.optimiser = mg.optim.SGD([*self.parameters(), *self.layer.parameters()], lr=0.01)

    def step(self, words, targets, written_out: bool = False, **options) -> None:
        """words (B, CONTEXT), targets (B,). written_out: whether gradients of look-ups become arrays of V rows."""
        h = mg.reshape(self.embedding(words), (len(words), -1))  # (B, CONTEXT · d)
        for linear in self.hidden:
            h = mg.tanh(linear(h))  # (B, d)
        self.layer.loss(h, targets, **options).backward()
        for p in self.optimiser.params if written_out else ():
            p.grad = p.grad.dense() if isinstance(p.grad, mg.Rows) else p.grad
        self.optimiser.step()
        self.optimiser.zero_grad()


def batches(model: LanguageModel, batch: int, key: mg.Key, **options) -> Callable[[], None]:
    """A step on the next of some batches of words, drawn by Zipf's law; they, and noise, lie on the device already."""
    shape = (ROTATE, batch, CONTEXT + 1)
    vocab_size = model.layer.vocab_size
    words = losses.samplers.Unigram(losses.samplers.zipf(vocab_size), power=1.0).sample(key.fold(batch), shape)
    noise = [{}] * ROTATE
    if isinstance(model.layer, losses.NegativeSampling):
        noise = [{"noise": some} for some in model.layer.draw(key.fold(batch, 1), batch, ROTATE)]
    turn = itertools.cycle(range(ROTATE))

    def step() -> None:
        i = next(turn)
        model.step(words[i, :, :CONTEXT], words[i, :, CONTEXT], **noise[i], **options)

    return step


# %% Every cell
def on_each(ways: Sequence[Way], make: Callable[[Way], object]) -> dict[Way, object]:
    """What `make` makes for each way, there; the ways of one device share it."""
    made = {}
    for way in ways:
        if way.device not in made:
            with way.chosen():
                made[way.device] = make(way)
    return {way: made[way.device] for way in ways}


def measure(ways: Sequence[Way], models: Mapping[Way, LanguageModel], batch: int, key, seconds, **options) -> dict:
    """Seconds of a step each way, by its key."""
    times = in_turn(on_each(ways, lambda way: batches(models[way], batch, key, **options)), seconds)
    return {way.key: t for way, t in times.items()}


def measure_cells(ways, sizes: tuple, key: mg.Key, seconds: float, advance: Callable[[], object]) -> list[dict]:
    """For each V, d and B the examples/s of each way."""
    cells = []
    for vocab_size, dim in itertools.product(sizes[2], sizes[1]):
        models = on_each(ways, lambda way, size=(vocab_size, dim): LanguageModel(*size, key))
        for batch in sizes[0]:
            times = measure(ways, models, batch, key, seconds)
            speeds = {name: batch / t for name, t in times.items()}
            cells.append({"V": vocab_size, "d": dim, "B": batch, "examples_per_second": speeds})
            advance()
    return cells


def measure_tricks(
    ways, vocab_size: int, key: mg.Key, seconds: float, advance: Callable[[], object]
) -> dict[str, dict]:
    """Seconds of a step each way: with the exact softmax, with negative sampling, and that with gradients of V rows."""
    exact = on_each(ways, lambda way: LanguageModel(vocab_size, D, key))
    sampled = on_each(ways, lambda way: LanguageModel(vocab_size, D, key, losses.NegativeSampling))
    tricks = {}
    for what, models in {"exact": exact, "sampled": sampled, "written out": sampled}.items():
        tricks[what] = measure(ways, models, B, key, seconds, written_out=what == "written out")
        advance()
    return tricks


def first_steps(ways: Sequence[Way], vocab_size: int, dim: int, key: mg.Key) -> dict[str, float]:
    """device -> seconds to make a model and to take its first step, in which the device loads what it needs.

    That a GPU's driver has begun to work, when it was asked whether there is one, is not in them.
    """
    seconds = {}
    for way in ways:
        if way.device not in seconds:
            with way.chosen():
                begin = time.perf_counter()
                batches(LanguageModel(vocab_size, dim, key), 1, key)()
                mg.backend.synchronize()
                seconds[way.device] = time.perf_counter() - begin
    return seconds


# %% What the numbers say
def fastest(speeds: Mapping[str, float]) -> list[str]:
    """The ways that are the fastest, or less than a tenth slower; the fastest first."""
    best = max(speeds.values())
    return sorted((key for key in speeds if speeds[key] * MARGIN > best), key=speeds.get, reverse=True)


def crossings(cells: Sequence[Mapping]) -> list[dict]:
    """For each V, d and way but the first: from which B on it beats the best of the ways before it; None: never."""
    found = []
    for (vocab_size, dim), group in itertools.groupby(cells, lambda cell: (cell["V"], cell["d"])):
        sizes, speeds = zip(*((cell["B"], cell["examples_per_second"]) for cell in group), strict=True)
        ways = list(speeds[0])
        for i, way in enumerate(ways[1:], start=1):
            before = [1 / max(s[other] for other in ways[:i]) for s in speeds]  # seconds an example
            batch = crossover(sizes, before, [1 / s[way] for s in speeds], MARGIN)
            found.append({"V": vocab_size, "d": dim, "way": way, "from_B": batch})
    return found


def gains(cells: Sequence[Mapping], way: str, **wanted: int) -> list[float]:
    """How many times as fast a way is as the best of those before it, in the cells with these V, d, B."""
    found = []
    for cell in cells:
        speeds = cell["examples_per_second"]
        if way in speeds and all(cell[name] == value for name, value in wanted.items()):
            before = list(speeds)[: list(speeds).index(way)]
            found.append(speeds[way] / max(speeds[other] for other in before))
    return found


def gains_of_batches(cells: Sequence[Mapping], batch: int = B) -> list[float]:
    """How many times the examples/s that B = 1 has, for each V, d and way."""
    speeds = {(cell["V"], cell["d"], cell["B"]): cell["examples_per_second"] for cell in cells}
    return [
        many[way] / speeds[vocab_size, dim, 1][way]
        for (vocab_size, dim, size), many in speeds.items()
        if size == batch
        for way in many
    ]


def verdict(hits: Sequence[bool], wanting: str = "no CUDA device", on: str = "") -> str:
    """Of a sentence that is true or not in each of some cells; of no cells, for want of something."""
    if not hits:
        return f"not shown here: {wanting}"
    said = "holds" if all(hits) else f"holds in {sum(hits)} of {len(hits)}" if any(hits) else "does not hold"
    return said + on


def advice(cells: Sequence[Mapping], tricks: Mapping[str, Mapping], first: Mapping[str, float]) -> list[dict]:
    """The slide, sentence by sentence: whether it holds here, what was measured, and the numbers.

    Where there is no GPU, what all threads gain over one in the same cells stands in its place, and is not judged.
    """
    small = {"d": min(cell["d"] for cell in cells), "V": min(cell["V"] for cell in cells)}
    big = {"d": max(cell["d"] for cell in cells), "B": max(cell["B"] for cell in cells)}
    of_threads = gains(cells, "cpu_all_threads", **small)

    def of_gpu(judge: Callable[[float], bool], wanted: Mapping[str, int]) -> tuple[str, str, list[float]]:
        if found := gains(cells, "gpu", **wanted):
            return verdict([judge(gain) for gain in found]), "GPU over CPU", found
        return verdict([]), "all threads over one", gains(cells, "cpu_all_threads", **wanted)

    def as_fast(gain: float) -> bool:
        return gain <= MARGIN

    exact, sampled, written_out = (tricks[what] for what in ("exact", "sampled", "written out"))
    softmax = verdict([]), "% of a step, the exact softmax", [100 * (1 - sampled[way] / exact[way]) for way in exact]
    start = verdict([]), "seconds until the first step is done", [first["cpu"]]
    if "gpu" in first:
        gain, gain_sampled = (min(t[way] for way in t if way != "gpu") / t["gpu"] for t in (exact, sampled))
        softmax = verdict([gain >= BIG and gain > gain_sampled]), "GPU over CPU, exact, sampled", [gain, gain_sampled]
        start = (
            verdict([first["cpu"] < first["gpu"]]),
            "until the first step is done, GPU over CPU",
            [first["gpu"] / first["cpu"]],
        )
    on = "" if "gpu" in first else " on the CPU"  # where these three were seen
    batched, slower = gains_of_batches(cells), [written_out[way] / sampled[way] for way in sampled]
    rows = [
        ("use CPU for prototyping", *start),
        (
            "you can run many more experiments",
            verdict([as_fast(gain) for gain in of_threads], "the CPU has one thread", on),
            f"all threads over one, {cells_in_words(small)}",
            of_threads,
        ),
        (f"CPU as fast or faster: small networks, {cells_in_words(small)}", *of_gpu(as_fast, small)),
        ("CPU as fast or faster: complicated networks, B = 1", *of_gpu(as_fast, {"B": 1})),
        (f"big gains on GPU: very big networks, {cells_in_words(big)}", *of_gpu(lambda gain: gain >= BIG, big)),
        ("big gains on GPU: softmaxes with no approximation", *softmax),
        ("do mini-batching", verdict([g >= BIG for g in batched], on=on), f"examples/s, B = {B} over B = 1", batched),
        (
            "optimise things properly",
            verdict([not as_fast(t) for t in slower], on=on),
            "seconds, gradients of V rows over the looked up",
            slower,
        ),
    ]
    return [dict(zip(("sentence", "verdict", "measured", "numbers"), row, strict=True)) for row in rows]


def cells_in_words(wanted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value:,}" for name, value in wanted.items())


def span(values: Sequence[float]) -> str:
    """Some numbers in words: their median, the least and the greatest."""
    if not values:
        return "–"
    low, middle, high = (f"{f(values):.3g}" for f in (min, statistics.median, max))
    return low if low == high else f"{middle} ({low} to {high})"


# %% Table and picture
def print_cells(cells: Sequence[Mapping], names: Mapping[str, str], crossed: Sequence[Mapping]) -> None:
    marks = {}
    for c in crossed:
        marks.setdefault((c["V"], c["d"], c["from_B"]), []).append(names[c["way"]])
    rows = [
        [
            *(cell[name] for name in "VdB"),
            *(cell["examples_per_second"][key] for key in names),
            " ≈ ".join(names[key] for key in fastest(cell["examples_per_second"])),
            ", ".join(marks.get((cell["V"], cell["d"], cell["B"]), [])),
        ]
        for cell in cells
    ]
    table("Examples/s of a training step", ["V", "d", "B", *names.values(), "fastest", "faster from here on"], rows)


def picture(path, cells: Sequence[Mapping], names: Mapping[str, str], crossed: Sequence[Mapping], show: bool) -> None:
    panels = []
    for vocab_size in dict.fromkeys(cell["V"] for cell in cells):
        series = {}
        for i, dim in enumerate(dict.fromkeys(cell["d"] for cell in cells)):
            here = [cell for cell in cells if (cell["V"], cell["d"]) == (vocab_size, dim)]
            sizes = [cell["B"] for cell in here]
            for (key, name), dashes in zip(names.items(), ("-", "--", ":"), strict=False):
                begin = [c["from_B"] for c in crossed if (c["V"], c["d"], c["way"]) == (vocab_size, dim, key)]
                dots = [j for j, size in enumerate(sizes) if begin and begin[0] and size >= begin[0]]
                style = {"color": COLOURS[i], "linestyle": dashes, "markevery": dots, "markersize": 9}
                style |= {} if begin else {"marker": ""}
                speeds = [cell["examples_per_second"][key] for cell in here]
                series[f"d = {dim}, {name}"] = (sizes, speeds, style)
        panels.append({"series": series, "title": f"V = {vocab_size:,}", "xlabel": "examples in a batch"})
        panels[-1] |= {"ylabel": "examples/s", "log": "xy"}
    lines(path, "Training: a dot where a way beats those before it, here and in all larger batches", panels, show)


def parser():
    return common_flags(__doc__, name="practically", corpus=False)


# %% All of it
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    ways, no_gpu = ways_here(args.device)
    out, key, names = output_folder(args.out), mg.Key(args.seed), {way.key: way.name for way in ways}
    sizes, seconds = (QUICK, 0.04) if args.quick else ((BATCHES, WIDTHS, VOCABULARIES), 0.2)
    said = machine_in_words()
    print("\n".join(said if not no_gpu else [*said, f"no CUDA device: the GPU is not measured ({no_gpu})"]))

    first = first_steps(ways, min(sizes[2]), min(sizes[1]), key)
    with Progress("training", len(sizes[0]) * len(sizes[1]) * len(sizes[2]) + 3, "cells") as bar:
        cells = measure_cells(ways, sizes, key, seconds, bar.advance)
        tricks = measure_tricks(ways, max(sizes[2]), key, seconds, bar.advance)
    crossed, advised = crossings(cells), advice(cells, tricks, first)

    print_cells(cells, names, crossed)
    what = {"exact": "exact softmax", "sampled": "negative sampling", "written out": "the same, gradients written out"}
    table(
        f"A step with V = {max(sizes[2]):,}, d = {D}, B = {B}",
        ["", *names.values()],
        [[what[trick], *(in_time(times[key]) for key in names)] for trick, times in tricks.items()],
    )
    table(
        "The slide, on this machine",
        ["it says", "verdict", "measured", "median (least to greatest)"],
        [[row["sentence"], row["verdict"], row["measured"], span(row["numbers"])] for row in advised],
    )
    picture(out / "speeds.png", cells, names, crossed, args.show)
    one = ways[0].key
    speeds = {cell["B"]: cell["examples_per_second"][one] for cell in cells if (cell["V"], cell["d"]) == (10_000, D)}
    write_json(
        out / "results.json",
        {
            "environment": environment() | {"machine": said, "no_gpu": no_gpu},
            "arguments": vars(args),
            "cells": [cell | {"fastest": fastest(cell["examples_per_second"])} for cell in cells],
            "crossovers": crossed,
            "seconds_of_a_step": tricks,
            "seconds_until_the_first_step_is_done": first,
            "advice": advised,
            "predict": {
                "times_the_examples_per_second_in_batches_of_64": speeds[B] / speeds[1],
                "part_of_a_step_spent_on_the_exact_softmax": 1 - tricks["sampled"][one] / tricks["exact"][one],
            },
        },
    )
    print(f"in {out}: speeds.png, results.json")


if __name__ == "__main__":
    run_demo(main)
