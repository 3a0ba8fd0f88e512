"""What structure saves: a training step of each structured layer for V = 10,000 to 1,000,000, and the best of 65,536.

    python demos/versus/structured.py

A step is forward, backward and SGD, for 128 hidden vectors of 128 numbers, in float32; targets occur by Zipf's law. A
layer touches so many rows of W a word, exactly (`score_cost`), and that is what its step should cost. How it grows is
the slope of a line through log ms over log V: one for a full softmax, which is a table of V rows, a half for
class-based, nearly nothing for trees and codes. The full softmax is there up to V = 100,000, and beside it PyTorch's,
nn.Linear, F.cross_entropy and SGD; both must find the same loss and gradients before a clock is read.

Then prediction: the likeliest of 65,536 words for 128 hidden vectors, `topk(h, 1)`, beside the full softmax's and
torch's `(h @ W.T).argmax(dim=1)`; with the bytes of what is kept for it. Here all W are drawn from N(0, 1.5² / d), as
in sampled-softmax.py, so that probabilities are neither flat nor certain: a search through a tree or through classes is
done the sooner the less they are flat. (Of models that have learned, predictors.py tells.) And what the
error-correcting code does beside the product with W: words/s of the Viterbi decoder, memory 6.

Hybrids have N = 512 frequent words, embedding prediction vectors of m = 64 numbers; classes and clusters are as they
cost least. Each library is in its own process, on one core. Takes some three minutes and 5 GB (--quick: V up to 10,000,
under ten seconds, and nothing said of what is hoped for with 65,536); needs `pip install 'minigrad[versus]'`.
"""

# %% What we need
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.curves import named_at_the_end
from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race, Times
from _shared.report import environment, table, write_json
from _shared.ways import in_time

DIM, BATCH = 128, 128
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (2_000, 10_000)
LARGEST_FULL = 100_000
BEST_OF, QUICK_BEST_OF = 65_536, 4_096
FREQUENT, MEMORY, NUMBERS = 512, 6, 64  # N of the hybrids, r of the codes, m of embedding prediction
BATCHES = 100  # of targets, different ones
SHARPNESS = 1.5
LR = 0.1
FULL = "full softmax"
COLOURS = {FULL: "#000000", "class-based": "#0072B2", "hierarchical, Huffman": "#009E73", "adaptive": "#A4468A"}
COLOURS |= {"binary code": "#D55E00", "error-correcting code": "#D55E00"} | {"embedding (vMF)": "#555555"}
COLOURS |= dict.fromkeys(("hybrid", "hybrid, error-correcting"), "#B07800")


def median_seconds(call: Callable[[int], object], times: int, enough: float = 0.5) -> float:
    """Of call(0), call(1), …; no more after so many seconds of them. The first ones find their rows in no cache."""
    seconds = []
    for i in range(times):
        if i >= 2 and sum(seconds) > enough:
            break
        begin = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


# %% What both begin with
class Contestant:
    """begin(vocab) makes all layers anew; then each method says what each of them does, by its name."""

    def __init__(self, seed: int):
        self.seed = seed
        self.load()

    def begin(self, vocab: int, sharpness: float | None = None) -> None:
        """sharpness: the standard deviation of scores; None: the weights with which layers begin."""
        self.layers, self.vocab, self.at = {}, vocab, 0
        gc.collect()
        rng = np.random.default_rng(self.seed)
        counts = 1 / np.arange(1, vocab + 1)  # Zipf's law
        cdf = np.cumsum(counts)
        self.targets = [np.searchsorted(cdf, cdf[-1] * rng.random(BATCH), "right") for _ in range(BATCHES)]
        hidden = rng.standard_normal((BATCH, DIM), np.float32)
        full = (
            (rng.standard_normal((vocab, DIM), np.float32) * np.float32((sharpness or 0.1) / DIM**0.5))
            if (vocab <= LARGEST_FULL)
            else None
        )
        self.make(counts, hidden, full, sharpness)
        gc.collect()
        gc.freeze()  # what lives now is not looked through again

    def steps(self, times: int) -> dict[str, float]:
        """Seconds of a training step of each layer, the median of so many, each with targets of its own."""
        found = {name: median_seconds(lambda i: self.step(name, self.at + i), times) for name in self.layers}  # noqa: B023
        self.at += times
        return found

    def bests(self, times: int) -> dict[str, float]:
        """Seconds to find the likeliest word for each hidden vector."""
        return {name: median_seconds(lambda i: self.best(name), times) for name in self.layers}  # noqa: B023


# %% This project
class Minigrad(Contestant):
    name, package = "minigrad", None

    def load(self):
        import losses
        import minigrad as mg
        from losses.structured.error_correcting import ConvolutionalCode

        self.mg, code = mg, partial(ConvolutionalCode, memory=MEMORY)
        self.kinds = {
            FULL: losses.FullSoftmax,
            "class-based": losses.ClassSoftmax,
            "hierarchical, Huffman": losses.HierarchicalSoftmax,
            "adaptive": losses.AdaptiveSoftmax,
            "binary code": losses.BinaryCode,
            "error-correcting code": partial(losses.ErrorCorrectingCode, memory=MEMORY),
            "hybrid": partial(losses.HybridCode, num_frequent=FREQUENT),
            "hybrid, error-correcting": partial(losses.HybridCode, num_frequent=FREQUENT, codebook=code),
            "embedding (vMF)": losses.VonMisesFisher,
        }

    def make(self, counts, hidden, full, sharpness):
        mg, key = self.mg, self.mg.Key(self.seed)
        self.hidden, self.optimisers = mg.param(hidden), {}
        for number, (name, kind) in enumerate(self.kinds.items()):
            if name == FULL and full is None:
                continue
            options = {"counts": counts, "key": key.fold(number)}
            if kind is self.kinds["embedding (vMF)"]:
                vectors = key.fold(number, 1).normal((self.vocab, NUMBERS))
                options["embeddings"] = vectors / (vectors**2).sum(axis=1, keepdims=True) ** 0.5
            layer = self.layers[name] = kind(self.vocab, DIM, **options)
            if name == FULL:
                layer.weight = mg.param(full)
            elif sharpness:
                for i, table_name in enumerate(layer.tables):
                    weight = getattr(layer, table_name)
                    if weight.ndim == 2:
                        drawn = key.fold(number, 2, i).normal(weight.shape) * (sharpness / weight.shape[1] ** 0.5)
                        setattr(layer, table_name, mg.param(drawn))
            self.optimisers[name] = mg.optim.SGD(layer.parameters(), lr=LR)

    def learn(self, name, targets) -> float:
        self.hidden.grad = None
        self.optimisers[name].zero_grad()
        loss = self.layers[name].loss(self.hidden, targets)
        loss.backward()
        return loss.item()

    def step(self, name, i) -> None:
        self.learn(name, self.targets[i % BATCHES])
        self.optimisers[name].step()

    def best(self, name):
        return self.layers[name].topk(self.hidden, 1)

    def full_softmax(self) -> list:
        """Loss and gradients, and the best words."""
        loss, weight = self.learn(FULL, self.targets[0]), self.layers[FULL].weight
        return [[loss], self.hidden.grad, weight.grad, self.best(FULL)[0][:, 0]]

    def rows(self) -> dict[str, tuple[float, float]]:
        """A word, in training and at test."""
        return {name: tuple(map(float, layer.score_cost(BATCH))) for name, layer in self.layers.items()}

    def bytes(self) -> dict[str, int]:
        """Of parameters, and of the vectors that embedding prediction is given."""
        of = {name: sum(p.data.nbytes for p in layer.parameters()) for name, layer in self.layers.items()}
        of["embedding (vMF)"] += self.layers["embedding (vMF)"].embeddings.nbytes
        return of

    def decoded(self, times: int, words: int = 4096) -> float:
        """Words/s of the decoder alone, from the scores of the bits."""
        book = self.layers["error-correcting code"].codebook
        scores = self.mg.Key(self.seed).normal((words, book.num_bits))
        return words / median_seconds(lambda i: book.best(scores, 1), times)


# %% PyTorch
class Torch(Contestant):
    name, package = "torch", "torch"

    def load(self):
        import torch

        self.torch = torch

    def make(self, counts, hidden, full, sharpness):
        torch = self.torch
        self.hidden = torch.from_numpy(hidden).requires_grad_()
        if full is not None:
            layer = self.layers[FULL] = torch.nn.Linear(DIM, self.vocab)
            layer.weight, layer.bias = map(torch.nn.Parameter, (torch.from_numpy(full), torch.zeros(self.vocab)))
            self.optimiser = torch.optim.SGD(layer.parameters(), lr=LR)
        self.targets = list(map(torch.from_numpy, self.targets))

    def learn(self, targets) -> float:
        self.hidden.grad = None
        self.optimiser.zero_grad()
        loss = self.torch.nn.functional.cross_entropy(self.layers[FULL](self.hidden), targets)
        loss.backward()
        return loss.item()

    def step(self, name, i) -> None:
        self.learn(self.targets[i % BATCHES])
        self.optimiser.step()

    def best(self, name):
        with self.torch.no_grad():
            return (self.hidden @ self.layers[FULL].weight.T).argmax(dim=1)

    def full_softmax(self) -> list:
        return [[self.learn(self.targets[0])], self.hidden.grad, self.layers[FULL].weight.grad, self.best(FULL)]

    def rows(self):
        return {}

    bytes = rows

    def decoded(self, times):
        return None


# %% What comes out
def slope(sizes, values) -> float | None:
    """Of the line through log value over log size, by least squares; None if there is one size only."""
    if len(sizes) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def in_rounds(race: Race, method: str, rounds: int, times: int, advance: Callable[[], object]) -> dict[str, Times]:
    """{layer: Times of those who have it}, after a round to warm up."""
    turns = []
    for _ in range(rounds + 1):
        turns.append(race.ask(method, times=times))
        advance()
    layers = dict.fromkeys(layer for found in turns[0].values() for layer in found)
    return {
        layer: Times({who: [turn[who][layer] for turn in turns[1:]] for who in race.names if layer in turns[0][who]})
        for layer in layers
    }


def wanted(training: Mapping, best: Mapping, bytes_of: Mapping, words: float) -> list[dict]:
    """What was hoped for, and whether it is so here."""
    told = []

    def say(sentence, numbers, holds):
        told.append({"sentence": sentence, "numbers": numbers, "holds": holds})

    slopes = {name: found["slope"] for name, found in training.items()}
    if all(slopes[name] is not None for name in ("class-based", "hierarchical, Huffman", "binary code")):
        of_classes = [slopes["class-based"], training["class-based"]["last_slope"]]
        say("class-based: ms grow as V^0.4 to V^0.6 (all, last two)", of_classes, 0.4 <= of_classes[0] <= 0.6)
        both = [slopes[name] for name in ("hierarchical, Huffman", "binary code")]
        say("hierarchical, binary: as V^0.2 at most", both, max(both) <= 0.2)
    times = {name: best[FULL]["median"] / found["median"] for name, found in best.items()}
    say(
        "error-correcting: 20 × the full softmax",
        [times["error-correcting code"]],
        times["error-correcting code"] >= 20,
    )
    say("binary: 100 × the full softmax", [times["binary code"]], times["binary code"] >= 100)
    codes = ("binary code", "error-correcting code", "hybrid", "hybrid, error-correcting")
    parts = [bytes_of[name] / bytes_of[FULL] for name in codes]
    say("codes: a tenth of its bytes at most", parts, max(parts) <= 0.1)
    say("Viterbi: 150,000 words/s", [words], words >= 150_000)
    return told


# %% All of it
def parser():
    p = common_flags(__doc__, name="structured", corpus=False)
    p.set_defaults(out=Path("out") / "versus-structured")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    p.add_argument("--steps", type=int, default=20, help="steps in a turn, for each layer, at most (default 20)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    for flag in ("rounds", "steps"):
        if getattr(args, flag) < 1:
            raise DemoError(f"--{flag} must be positive, got {getattr(args, flag)}")
    out, quick = output_folder(args.out), args.quick
    sizes, best_of = (QUICK_SIZES, QUICK_BEST_OF) if quick else (SIZES, BEST_OF)
    rounds, steps = (3, 2) if quick else (args.rounds, args.steps)
    times, rows = {}, {}
    with (
        Race((Minigrad, Torch), {"seed": args.seed}, threads=1) as race,
        Progress("racing", (len(sizes) + 1) * (rounds + 1), unit="rounds") as bar,
    ):
        for vocab in sizes:
            race.ask("begin", vocab=vocab)
            if vocab <= LARGEST_FULL:
                race.agree("full_softmax", tolerance=1e-4)
            rows[vocab] = race.ask("rows")[Minigrad.name]
            times[vocab] = in_rounds(race, "steps", rounds, steps, bar.advance)
        race.ask("begin", vocab=best_of, sharpness=SHARPNESS)
        race.agree("full_softmax", tolerance=1e-4)
        best = in_rounds(race, "bests", rounds, steps, bar.advance)
        bytes_of, words = race.ask("bytes")[Minigrad.name], race.ask("decoded", times=2 * rounds)[Minigrad.name]
        versions, absent = dict(race.versions), dict(race.absent)
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    print("".join(f"{name}: {reason}\n" for name, reason in absent.items()), end="")

    training = show_training(out, sizes, times, rows, rounds, args.show)
    found = show_best(best_of, best, bytes_of, rounds)
    print(f"Viterbi, memory {MEMORY}, {best_of:,} words: {words:,.0f} words/s beside the product with W")
    said = [] if quick else wanted(training, found, bytes_of, words)  # it is hoped for with many words
    if said:
        cells = [
            [row["sentence"], row["holds"], ", ".join(f"{x:.3g}" if x < 1e4 else f"{x:,.0f}" for x in row["numbers"])]
            for row in said
        ]
        table("Hoped for", ["", "holds", "here"], cells)
    report = {"environment": environment(), "versions": versions, "absent": absent, "batch": BATCH, "dim": DIM}
    report |= {"training": training, "best_of": best_of, "best": found, "viterbi_words_per_second": words}
    write_json(out / "results.json", report | {"rounds": rounds, "hoped_for": said})
    print(f"in {out}: results.json, steps.png")


def show_training(out, sizes, times, rows, rounds, picture) -> dict:
    """Table and picture; {layer: what was found}."""
    training, cells, series = {}, [], {}
    entries = [(layer, who) for layer in times[sizes[0]] for who in times[sizes[0]][layer].seconds]
    for layer, who in entries:
        there = [v for v in sizes if layer in times[v] and who in times[v][layer].seconds]
        ms = [1e3 * times[v][layer].median(who) for v in there]
        name = layer if who == Minigrad.name else f"{layer}, {who}"
        training[name] = {
            "vocab_sizes": there,
            "rows": [rows[v][layer][0] for v in there],
            "ms": ms,
            "seconds": {str(v): list(times[v][layer].seconds[who]) for v in there},
            "slope": slope(there, ms),
            "last_slope": slope(there[-2:], ms[-2:]),
            "rows_slope": slope(there, [rows[v][layer][0] for v in there]),
        }
        missing = [None] * (len(sizes) - len(there))
        touched = [f"{each:,.0f}" if each >= 100 else f"{each:.3g}" for each in training[name]["rows"]]
        grows = None if training[name]["slope"] is None else f"V^{training[name]['slope']:.2f}"
        of_rows = training[name]["rows_slope"]
        more = None if of_rows is None else f"V^{of_rows:.2f}"
        cells.append([name, *touched, *missing, more, *(f"{each:.3g} ms" for each in ms), *missing, grows])
        dashed = who != Minigrad.name or "error-correcting" in layer
        series[name] = (there, ms, {"color": COLOURS[layer], "linestyle": "--" if dashed else "-"})
    headers = ["", *(f"rows, V = {v:,}" for v in sizes), "grow as"]
    headers += [*(f"a step, V = {v:,}" for v in sizes), "grows as"]
    table(f"A training step of {BATCH} words, d = {DIM}, one core, medians of {rounds} rounds", headers, cells)
    panel = {"series": series, "xlabel": "V, words", "ylabel": "ms", "title": f"a step of {BATCH} words, d = {DIM}"}
    named_at_the_end(out / "steps.png", "What a training step takes, one core", [panel], picture)
    return training


def show_best(vocab, best, bytes_of, rounds) -> dict:
    found, cells = {}, []
    full = best[FULL].seconds[Minigrad.name]
    for layer, of in best.items():
        for who in of.seconds:
            name = layer if who == Minigrad.name else f"{who}: (h @ W.T).argmax(dim=1)"
            ratio = Times({"full": full, name: of.seconds[who]}).ratio("full", name)
            size = bytes_of[layer]
            found[name] = {
                "median": of.median(who),
                "times_full": vars(ratio),
                "bytes": size,
                "seconds": [*of.seconds[who]],
            }
            times = None if name == FULL else f"{ratio.median:.3g} × ({ratio.low:.3g} to {ratio.high:.3g})"
            less = bytes_of[FULL] / size
            speed = f"{BATCH / of.median(who):,.0f}"
            cells.append(
                [
                    name,
                    in_time(of.median(who)),
                    speed,
                    times,
                    size,
                    "1/" + (f"{less:,.0f}" if less >= 100 else f"{less:.3g}") if less > 1.01 else f"{1 / less:.3g}",
                ]
            )
    headers = ["", f"{BATCH} words", "words/s", "as fast as full", "bytes", "of full's"]
    table(f"The likeliest of {vocab:,} words, d = {DIM}, one core, medians of {rounds} rounds", headers, cells)
    return found


if __name__ == "__main__":
    run_demo(main)
