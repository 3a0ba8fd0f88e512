"""A training step of each sampled loss beside PyTorch's, for V = 1,000 to 1,000,000. Each in its own process.

    python demos/versus/sampled_softmax.py
    python demos/versus/sampled_softmax.py --optimiser Adagrad --optimiser SGD

A step is forward, backward and the update, for 128 hidden vectors of 128 numbers and 64 noise words that the batch
shares (in-batch: the other targets), in float32. It looks at 192 rows of W, whatever V is, and so it should cost the
same. Beside this project's layers, with the same optimiser (Adagrad, SGD, and the lazy Adam, torch's SparseAdam):

    idiomatic    out = nn.Embedding(V, d, sparse=True), another one of a column for the bias, a look-up for each use
    tuned        the bias is one more column of one table, and one F.embedding looks up targets and noise together
    unique ids   the same, but each different row is looked up once; up to V = 100,000
    dense        sparse=False, which is the default: a gradient of V rows, and all are updated; up to V = 100,000

First all must find the same loss and gradients. The noise is drawn before the clock runs; what a draw costs has a
table of its own. Targets come in two ways: as in text, by Zipf's law, so that most of their rows were used a moment
ago, which is what a language model has; and uniformly, so that at V = 1,000,000 nearly all lie in no cache, which is
the worst there is. Takes some three minutes and 5 GB (--quick: V up to 10,000); needs `pip install 'minigrad[versus]'`.
"""

# %% What we need
import gc
import statistics
import sys
import time
import warnings
from math import log
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.plots import lines
from _shared.progress import Progress
from _shared.race import Race, Times
from _shared.report import environment, table, write_json

DIM, BATCH, NOISE = 128, 128, 64
LAYERS = ("sampled softmax", "importance sampling", "NCE", "negative sampling", "in-batch softmax")
RATES = {"Adagrad": 0.1, "SGD": 0.1, "Adam": 0.001}
TARGETS = ("as in text", "uniform")
BATCHES = 1000  # different ones: at V = 1,000,000 the rows of uniform targets are 65 MB, more than most caches hold


# %% What all begin with
class Contestant:
    """learn(vocab, layer, targets, noise) is a step up to the gradients; what the optimiser does is `self.update`."""

    def __init__(self, sizes, seed: int):
        self.sizes, self.at, self.models, self.batches = sizes, dict.fromkeys(sizes, 0), {}, {}
        self.begin(np.random.default_rng(seed).standard_normal((BATCH, DIM), np.float32))
        for vocab in sizes:
            rng, counts = np.random.default_rng(seed), 1 / np.arange(1, vocab + 1)  # Zipf's law
            cdf = np.cumsum(counts / counts.sum())

            def zipf(n, rng=rng, cdf=cdf):
                return np.searchsorted(cdf, cdf[-1] * rng.random((BATCHES, n)), "right")

            noise, of_text = zipf(NOISE), zipf(BATCH)
            targets = dict(zip(TARGETS, (of_text, rng.integers(vocab, size=of_text.shape)), strict=True))
            self.batches[vocab] = {
                how: [self.ids(*pair) for pair in zip(targets[how], noise, strict=True)] for how in TARGETS
            }
            weight = (rng.random((vocab, DIM), np.float32) - np.float32(0.5)) / np.float32(DIM)
            self.models[vocab] = self.model(counts, weight, np.full(vocab, -log(vocab), np.float32))

    def ids(self, targets, noise):
        return targets, noise

    def found(self, vocab: int, layer: str) -> list:
        """Of one batch: the loss, and the gradients of hidden, of the rows looked at, and of their biases."""
        targets, noise = self.batches[vocab]["as in text"][0]
        looked_at = np.unique(np.concatenate([targets, targets if layer == "in-batch softmax" else noise]))
        return [[self.learn(vocab, layer, targets, noise)], *self.gradients(vocab, looked_at)]

    def rows(self, layer: str) -> dict[int, int]:
        """How many rows the gradient of W has, an id that occurs twice counted twice, for each V."""
        found = {}
        for vocab in self.sizes:
            self.learn(vocab, layer, *self.batches[vocab]["uniform"][0])
            found[vocab] = self.rows_of_gradient(vocab)
        return found

    def take(self, optimiser: str) -> None:
        """Another optimiser, which begins anew, its averages in memory: what nobody has written into is not."""
        self.update = None
        self.update = {vocab: self.optimiser(optimiser, self.models[vocab]) for vocab in self.sizes}
        gc.collect()
        gc.freeze()  # what lives now is not looked through again

    def seconds(self, layer: str, targets: str, steps: int) -> dict[int, float]:
        """What a step takes, for each V: the median of `steps`, each with a batch of its own."""
        found = {}
        for vocab in self.sizes:
            batches, update, times = self.batches[vocab][targets], self.update[vocab], []
            for _ in range(steps):
                begin = time.perf_counter()
                self.learn(vocab, layer, *batches[self.at[vocab]])
                update()
                times.append(time.perf_counter() - begin)
                self.at[vocab] = (self.at[vocab] + 1) % BATCHES
            found[vocab] = statistics.median(times)
        return found

    def draws(self, times: int) -> dict[int, float]:
        """What it takes to draw the noise of one step, for each V."""
        found = {}
        for vocab in self.sizes:
            seconds = []
            for i in range(times):
                begin = time.perf_counter()
                self.draw(vocab, i)
                seconds.append(time.perf_counter() - begin)
            found[vocab] = statistics.median(seconds)
        return found


# %% This project
class Minigrad(Contestant):
    name, package = "minigrad", None

    def begin(self, hidden):
        import minigrad as mg

        self.mg, self.hidden = mg, mg.param(hidden)

    def model(self, counts, weight, bias):
        import losses

        key, W, b = self.mg.Key(0), self.mg.param(weight), self.mg.param(bias)
        sampled = losses.SampledSoftmax, losses.ImportanceSampling, losses.NCE, losses.NegativeSampling
        layers = [one(len(counts), DIM, counts=counts, key=key, k=NOISE, shared=True, power=1.0) for one in sampled]
        layers.append(losses.InBatchSoftmax(len(counts), DIM, counts=counts, key=key))
        for layer in layers:
            layer.weight, layer.bias = W, b
        return dict(zip(LAYERS, layers, strict=True))

    def optimiser(self, name, layers):
        optimiser = getattr(self.mg.optim, name)(layers[LAYERS[0]].parameters(), lr=RATES[name])
        for average in optimiser.averages:
            for array in getattr(optimiser, average):
                array[...] = 0
        return optimiser.step

    def learn(self, vocab, layer, targets, noise) -> float:
        noise = {} if layer == "in-batch softmax" else {"noise": noise}
        layer = self.models[vocab][layer]
        self.hidden.grad = layer.weight.grad = layer.bias.grad = None
        loss = layer.loss(self.hidden, targets, **noise)
        loss.backward()
        return loss.item()

    def gradients(self, vocab, looked_at):
        layer = self.models[vocab][LAYERS[0]]
        rows = [grad.coalesce() for grad in (layer.weight.grad, layer.bias.grad)]
        assert all((some.ids == looked_at).all() for some in rows)
        return [self.hidden.grad, *(some.values for some in rows)]

    def rows_of_gradient(self, vocab):
        return len(self.models[vocab][LAYERS[0]].weight.grad.ids)

    def draw(self, vocab, step):
        return self.models[vocab][LAYERS[0]].draw(self.mg.Key(step), BATCH)


# %% PyTorch, in four ways
class Idiomatic(Contestant):
    name, package, sparse = "torch, idiomatic", "torch", True

    def begin(self, hidden):
        import torch

        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        self.torch, self.F = torch, torch.nn.functional
        self.hidden = torch.from_numpy(hidden).requires_grad_()
        self.zeros, self.diagonal = torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH)

    def ids(self, targets, noise):
        return self.torch.from_numpy(targets), self.torch.from_numpy(noise)

    def model(self, counts, weight, bias):
        q = self.torch.from_numpy(counts / counts.sum())
        return {"q": q, "log kq": (q.log() + log(NOISE)).float(), "tables": self.tables(weight, bias)}

    def tables(self, *arrays):
        tables = [self.torch.from_numpy(array.reshape(len(array), -1)) for array in arrays]
        return [self.torch.nn.Embedding.from_pretrained(t, freeze=False, sparse=self.sparse) for t in tables]

    def leaves(self, model):
        return [embedding.weight for embedding in model["tables"]]

    def optimiser(self, name, model):
        kind = "SparseAdam" if name == "Adam" and self.sparse else name
        optimiser = getattr(self.torch.optim, kind)(self.leaves(model), lr=RATES[name])
        return optimiser.step

    def shared_scores(self, tables, ids):
        W, b = tables
        return self.hidden @ W(ids).T + b(ids)[:, 0]

    def scores(self, tables, targets, noise):
        W, b = tables
        return (self.hidden * W(targets)).sum(dim=1) + b(targets)[:, 0], self.shared_scores(tables, noise)

    def learn(self, vocab, layer, targets, noise) -> float:
        F, model = self.F, self.models[vocab]
        log_kq, tables = model["log kq"], model["tables"]
        for leaf in [self.hidden, *self.leaves(model)]:
            leaf.grad = None
        if layer == "in-batch softmax":
            loss = F.cross_entropy(self.shared_scores(tables, targets) - log_kq[targets], self.diagonal)
        else:
            s_target, s_noise = self.scores(tables, targets, noise)
            if layer in ("sampled softmax", "NCE"):
                s_target = s_target - log_kq[targets]
            if layer != "negative sampling":
                s_noise = s_noise - log_kq[noise]
            if layer == "sampled softmax":
                loss = F.cross_entropy(self.torch.cat([s_target[:, None], s_noise], dim=1), self.zeros)
            elif layer == "importance sampling":
                loss = (s_noise.logsumexp(dim=1) - s_target).mean()
            else:
                loss = (F.softplus(-s_target) + F.softplus(s_noise).sum(dim=1)).mean()
        loss.backward()
        return loss.item()

    def gradients(self, vocab, looked_at):
        grads = [leaf.grad for leaf in self.leaves(self.models[vocab])]
        rows = [g.coalesce().values() if g.is_sparse else g[self.torch.from_numpy(looked_at)] for g in grads]
        rows = self.torch.cat(rows, dim=1).numpy()  # (n, d + 1)
        return [self.hidden.grad.numpy(), rows[:, :DIM], rows[:, DIM]]

    def rows_of_gradient(self, vocab):
        grad = self.leaves(self.models[vocab])[0].grad
        return grad._nnz() if grad.is_sparse else len(grad)

    def draw(self, vocab, step):
        return self.torch.multinomial(self.models[vocab]["q"], NOISE, replacement=True)


class Tuned(Idiomatic):
    name = "torch, tuned"

    def tables(self, weight, bias):
        return [self.torch.from_numpy(np.concatenate([weight, bias[:, None]], axis=1)).requires_grad_()]

    def leaves(self, model):
        return model["tables"]

    def look_up(self, table, ids):
        return self.F.embedding(ids, table, sparse=True)

    def shared_scores(self, tables, ids):
        return self.F.pad(self.hidden, (0, 1), value=1.0) @ self.look_up(tables[0], ids).T

    def scores(self, tables, targets, noise):
        rows = self.look_up(tables[0], self.torch.cat([targets, noise]))
        hidden = self.F.pad(self.hidden, (0, 1), value=1.0)
        return self.torch.linalg.vecdot(hidden, rows[:BATCH]), hidden @ rows[BATCH:].T


class UniqueIds(Tuned):
    name = "torch, unique ids"

    def look_up(self, table, ids):
        unique, place = self.torch.unique(ids, return_inverse=True)
        return super().look_up(table, unique)[place]


class Dense(Idiomatic):
    name, sparse = "torch, dense", False


# %% All of it
def parser():
    p = common_flags(__doc__, name="sampled_softmax", corpus=False)
    p.set_defaults(out=Path("out") / "versus-sampled-softmax")
    p.add_argument("--optimiser", choices=RATES, action="append", help="may be given several times (default: all)")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    p.add_argument("--steps", type=int, default=10, help="steps in a turn, for each V (default 10)")
    p.add_argument("--threads", type=int, choices=[1, 2], default=1, help="cores, and threads of each (default 1)")
    return p


def race(contestants, sizes, layers, optimisers, steps, rounds, args, advance):
    """What was measured: {"times": {(optimiser, layer, targets, V): Times}, "rows": …, "draws": …}, and the race."""
    times = {}
    with Race(contestants, {"sizes": sizes, "seed": args.seed}, threads=args.threads) as runners:
        for vocab in sizes:
            for layer in layers:
                runners.agree("found", tolerance=1e-5, vocab=vocab, layer=layer)
        rows = {layer: runners.ask("rows", layer=layer) for layer in layers}
        draws = runners.ask("draws", times=steps)
        for optimiser in optimisers:
            runners.ask("take", optimiser=optimiser)
            for layer in layers:
                for targets in TARGETS:
                    turns = []
                    for _ in range(rounds + 1):  # the first is to warm up
                        turns.append(runners.ask("seconds", layer=layer, targets=targets, steps=steps))
                        advance()
                    for vocab in sizes:
                        of = {name: [turn[name][vocab] for turn in turns[1:]] for name in runners.names}
                        times[optimiser, layer, targets, vocab] = Times(of)
        return {"times": times, "rows": rows, "draws": draws}, runners


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    for flag in ("rounds", "steps"):
        if getattr(args, flag) < 1:
            raise DemoError(f"--{flag} must be positive, got {getattr(args, flag)}")
    out, quick = output_folder(args.out), args.quick
    sizes = [1000, 10_000] if quick else [1000, 10_000, 100_000, 1_000_000]
    optimisers = list(dict.fromkeys(args.optimiser or (["Adagrad"] if quick else RATES)))
    layers, rounds, steps = LAYERS[: 1 if quick else None], 3 if quick else args.rounds, 3 if quick else args.steps
    turns = len(optimisers) * len(TARGETS) * (rounds + 1)
    with Progress("racing", turns * (len(layers) + (not quick)), unit="rounds") as bar:
        common = optimisers, steps, rounds, args, bar.advance
        all_sizes, runners = race((Minigrad, Idiomatic, Tuned), sizes, layers, *common)
        absent, versions = dict(runners.absent), dict(runners.versions)
        ruined = None
        if not quick:
            ruined, runners = race((Minigrad, UniqueIds, Dense), sizes[:-1], LAYERS[:1], *common)
            absent, versions = absent | runners.absent, versions | runners.versions
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    print("".join(f"{name}: {reason}\n" for name, reason in absent.items()), end="")

    results = []
    for (optimiser, layer, targets, vocab), times in all_sizes["times"].items():
        best = min((name for name in times.seconds if name != Minigrad.name), key=times.median)
        first = all_sizes["times"][optimiser, layer, targets, sizes[0]]
        pairs = zip(times.seconds[Minigrad.name], first.seconds[Minigrad.name], strict=True)
        found = {"optimiser": optimiser, "layer": layer, "targets": targets, "vocab": vocab}
        found |= {"rows": all_sizes["rows"][layer][Minigrad.name][vocab]}
        found |= {"seconds": {name: list(values) for name, values in times.seconds.items()}}
        found |= {"median": {name: times.median(name) for name in times.seconds}, "best_of_torch": best}
        found |= {"of_torchs": {name: times.ratio(Minigrad.name, name).median for name in times.seconds}}
        results.append(found | {"of_the_least_vocab": float(np.median([a / b for a, b in pairs]))})
    for optimiser in optimisers:
        show(optimiser, [found for found in results if found["optimiser"] == optimiser], sizes, args.threads, rounds)
    draws = all_sizes["draws"]
    rows = [[name, *(f"{1e6 * draws[name][vocab]:.3g} µs" for vocab in sizes)] for name in (Minigrad.name, Tuned.name)]
    table("Not in these times: to draw 64 noise words (torch.multinomial)", ["", *map("V = {:,}".format, sizes)], rows)
    if ruined:
        show_ruined(out, optimisers, ruined["times"], all_sizes["times"], sizes, args.show)
    report = {"environment": environment(), "threads": args.threads, "versions": versions, "absent": absent}
    report |= {"batch": BATCH, "dim": DIM, "noise": NOISE, "draws": draws, "results": results}
    others = (
        []
        if not ruined
        else [
            {"optimiser": key[0], "targets": key[2], "vocab": key[3], "seconds": {**times.seconds}}
            for key, times in ruined["times"].items()
        ]
    )
    write_json(out / "results.json", report | {"unique_ids_and_dense": others})
    print(f"in {out}: results.json" + (", steps.png" if ruined else ""))


def show(optimiser, results, sizes, threads, rounds) -> None:
    rows = []
    for found in results:
        median = found["median"]
        cells = [f"{1e6 * median[name]:.0f} µs" if name in median else None for name in (Minigrad.name, *TORCHS)]
        ratios = [f"{found['of_torchs'][name]:.2f}" if name in median else None for name in TORCHS]
        growth = f"{found['of_the_least_vocab']:.2f}"
        rows.append([found["layer"], found["targets"], f"{found['vocab']:,}", found["rows"], *cells, *ratios, growth])
    headers = ["", "targets", "V", "rows", Minigrad.name, *TORCHS, "× idiomatic", "× tuned", f"× V = {sizes[0]:,}"]
    table(f"A step with {optimiser}, {threads} core(s), medians of {rounds} rounds", headers, rows)


def show_ruined(out, optimisers, ruined, times, sizes, picture) -> None:
    layer, targets, rows, panels = LAYERS[0], TARGETS[0], [], []
    names = {Minigrad.name: times, Idiomatic.name: times, Tuned.name: times, UniqueIds.name: ruined, Dense.name: ruined}
    for optimiser in optimisers:
        series = {}
        for name, of in names.items():
            there = [(v, of.get((optimiser, layer, targets, v))) for v in sizes]
            there = [(v, 1e3 * some.median(name)) for v, some in there if some and name in some.seconds]
            if there:
                series[name] = tuple(zip(*there, strict=True))
                cells = [f"{value:.3g} ms" for _, value in there]
                rows.append([optimiser, name, *cells, *[None] * (len(sizes) - len(cells))])
        panels.append({"series": series, "title": optimiser, "xlabel": "V, words", "ylabel": "ms a step", "log": "xy"})
    headers = ["", "", *map("V = {:,}".format, sizes)]
    table(f"What ruins it: a dense gradient ({layer}, targets {targets})", headers, rows)
    lines(out / "steps.png", f"A training step, {layer}: 192 rows of V, if the gradient is sparse", panels, picture)


TORCHS = (Idiomatic.name, Tuned.name)

if __name__ == "__main__":
    run_demo(main)
