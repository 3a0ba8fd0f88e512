"""One training step of the adaptive softmax beside PyTorch's AdaptiveLogSoftmaxWithLoss. Each in its own process.

    python demos/versus/adaptive.py
    python demos/versus/adaptive.py --batch 128 --batch 256

A step is forward, backward and the update by plain SGD, for 128 hidden vectors of 128 and of 512 numbers, whose targets
follow Zipf's law, in float32, without a bias, over V = 100,000 and 1,000,000 words. Both have the same weights and the
same cut-offs, in three ways:

    given        2,000 and 10,000; of a million words 2,000, 20,000 and 200,000
    computed     where a step costs least by the default cost model (`losses/structured/cutoffs.py`)
    measured     the same by a cost model whose constants are measured here, before the race

and for V = 100,000, d = 128, beside them, both libraries' full softmax: no cut-offs. First both must find the same loss
and gradients, in float64. The last column says how the cut-offs compare: this project's step with those given over its
step with these; they are timed one after the other, so on a busy machine it says little. (Of a million words and d =
128 those given make a cluster of 2 numbers, which is quick to compute and learns little; the others stop at 8.) Takes
some two minutes and 4 GB; needs `pip install 'minigrad[versus]'`. (--quick, a few seconds: 10,000 words, nothing
measured, and so few rounds that the ranges say nothing.)
"""

# %% What we need
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race
from _shared.report import environment, table, write_json

GIVEN = {10_000: [500, 2000], 100_000: [2000, 10_000], 1_000_000: [2000, 20_000, 200_000]}
BATCHES, RATE = 100, 0.1  # different batches; the learning rate


# %% What all begin with
class Contestant:
    """prepare(...) makes a model; learn(targets) is a step up to the gradients, and update() what SGD does then."""

    def __init__(self, seed: int):
        self.seed = seed

    def prepare(self, vocab: int, dim: int, batch: int, cutoffs: list[int], dtype: str = "float32") -> None:
        rng, self.at, self.batch = np.random.default_rng(self.seed), 0, batch
        counts = 1 / np.arange(1, vocab + 1)  # Zipf's law
        cdf = np.cumsum(counts / counts.sum())
        targets = np.searchsorted(cdf, cdf[-1] * rng.random((BATCHES, batch)), "right")
        self.targets = [self.ids(some) for some in targets]

        def matrix(rows: int, columns: int):
            return (rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)).astype(dtype)

        ends, hidden = [*cutoffs, vocab], rng.standard_normal((batch, dim), np.float32).astype(dtype)
        tables = [matrix(ends[0] + len(cutoffs), dim)]
        for i, (a, b) in enumerate(pairwise(ends)):
            width = max(1, dim // 4 ** (i + 1))
            tables += [matrix(width, dim), matrix(b - a, width)]
        self.model(hidden, tables, counts, cutoffs)

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.learn(self.targets[self.at])
            self.update()
            self.at = (self.at + 1) % BATCHES

    def found(self) -> list:
        """Of one batch: the loss, and of each gradient of the batch's sum some rows, and the sum of all."""
        loss, gradients = self.learn(self.targets[0]), self.gradients()
        of_sum = [np.zeros((1, 1)) if g is None else self.batch * np.asarray(g, np.float64) for g in gradients]
        return [[loss], *(g[:100] for g in of_sum), *(g.sum(axis=0) for g in of_sum)]

    def constants(self, dim: int, batch: int) -> list[float] | None:
        return None


# %% This project
class Minigrad(Contestant):
    name, package = "minigrad", None

    def ids(self, targets):
        return targets

    def model(self, hidden, tables, counts, cutoffs) -> None:
        import losses
        import minigrad as mg

        self.hidden, size = mg.param(hidden), (len(counts), hidden.shape[1])
        options = {"counts": counts, "key": mg.Key(0), "bias": False}
        self.layer = losses.AdaptiveSoftmax(*size, cutoffs=cutoffs, **options)
        names = [name for name in self.layer.tables if getattr(self.layer, name) is not None]
        for name, weights in zip(names, tables, strict=True):
            setattr(self.layer, name, mg.param(weights))
        self.leaves = [self.hidden, *self.layer.parameters()]
        self.update = mg.optim.SGD(self.layer.parameters(), lr=RATE).step

    def learn(self, targets) -> float:
        for leaf in self.leaves:
            leaf.grad = None
        loss = self.layer.loss(self.hidden, targets)
        loss.backward()
        return loss.item()

    def gradients(self) -> list:
        return [leaf.grad for leaf in self.leaves]

    def constants(self, dim: int, batch: int) -> list[float] | None:
        from losses.structured.cutoffs import measure_cost

        return list(measure_cost(dim, batch))


# %% PyTorch
class Torch(Contestant):
    name, package = "torch", "torch"

    def ids(self, targets):
        import torch

        return torch.from_numpy(targets)

    def model(self, hidden, tables, counts, cutoffs) -> None:
        import torch

        self.torch, self.hidden = torch, torch.from_numpy(hidden).requires_grad_()
        if cutoffs:
            self.out = torch.nn.AdaptiveLogSoftmaxWithLoss(hidden.shape[1], len(counts), cutoffs)
        else:
            self.out = torch.nn.Linear(hidden.shape[1], len(counts), bias=False)
        for parameter, weights in zip(self.out.parameters(), tables, strict=True):
            parameter.data = torch.from_numpy(weights)
        self.adaptive, self.leaves = bool(cutoffs), [self.hidden, *self.out.parameters()]
        self.update = torch.optim.SGD(self.out.parameters(), lr=RATE).step

    def learn(self, targets) -> float:
        for leaf in self.leaves:
            leaf.grad = None
        if self.adaptive:
            loss = self.out(self.hidden, targets).loss
        else:
            loss = self.torch.nn.functional.cross_entropy(self.out(self.hidden), targets)
        loss.backward()
        return loss.item()

    def gradients(self) -> list:
        return [None if leaf.grad is None else leaf.grad.numpy() for leaf in self.leaves]


# %% All of it
def parser():
    p = common_flags(__doc__, name="adaptive", corpus=False)
    p.set_defaults(out=Path("out") / "versus-adaptive")
    p.add_argument("--batch", type=int, action="append", metavar="N", help="may be given several times (default 128)")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    p.add_argument("--steps", type=int, default=2, help="steps in a turn (default 2)")
    p.add_argument("--threads", type=int, choices=[1, 2], default=1, help="cores, and threads of each (default 1)")
    return p


def ways(vocab: int, dim: int, batch: int, constants: list[float] | None) -> dict[str, list[int]]:
    """The cut-offs of each way."""
    from losses.structured.cutoffs import Cost, best_cutoffs

    counts = 1 / np.arange(1, vocab + 1)
    found = {"given": GIVEN[vocab], "computed": best_cutoffs(counts, dim, batch_size=batch)}
    if constants:
        found["measured"] = best_cutoffs(counts, dim, batch_size=batch, cost=Cost(*constants))
    if (vocab, dim) == (100_000, 128):
        found["the full softmax"] = []
    return found


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    batches = list(dict.fromkeys(args.batch or [32 if args.quick else 128]))
    for flag, number in [("rounds", args.rounds), ("steps", args.steps), *(("batch", batch) for batch in batches)]:
        if number < 1:
            raise DemoError(f"--{flag} must be positive, got {number}")
    out, rounds, steps = output_folder(args.out), 3 if args.quick else args.rounds, args.steps
    vocabs, dims = ([10_000], [64]) if args.quick else ([100_000, 1_000_000], [128, 512])
    rows, results, constants = [], [], {}
    with (
        Race((Minigrad, Torch), {"seed": args.seed}, threads=args.threads) as race,
        Progress("racing", len(vocabs) * len(dims) * len(batches), unit="settings") as bar,
    ):
        for vocab, dim, batch in [(v, d, b) for v in vocabs for d in dims for b in batches]:
            if not args.quick and (dim, batch) not in constants:
                constants[dim, batch] = race.ask("constants", dim=dim, batch=batch)[Minigrad.name]
            for way, cutoffs in ways(vocab, dim, batch, constants.get((dim, batch))).items():
                setting = {"vocab": vocab, "dim": dim, "batch": batch, "cutoffs": cutoffs}
                race.ask("prepare", **setting, dtype="float64")
                race.agree("found", tolerance=1e-8)
                race.ask("prepare", **setting)
                times = race.run("work", rounds=rounds, steps=steps)
                ms = {name: 1e3 * times.median(name) / steps for name in times.seconds}
                given = results[-1]["of"] if way != "given" else ms[Minigrad.name]
                ratio = times.ratio(Minigrad.name, Torch.name)
                found = setting | {"way": way, "ms": ms}
                results.append(found | {"of_torchs": vars(ratio), "of": given, "seconds": dict(times.seconds)})
                cells = [f"{vocab:,}", dim, batch, way, ", ".join(map("{:,}".format, cutoffs)) or None]
                cells += [f"{ms[name]:.3g} ms" for name in (Minigrad.name, Torch.name)]
                rows.append([*cells, str(ratio), f"{given / ms[Minigrad.name]:.2f}"])
            bar.advance()
        versions, absent = dict(race.versions), dict(race.absent)
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    headers = ["V", "d", "B", "cut-offs", "", Minigrad.name, Torch.name, "× torch's", "given / these"]
    table(f"The adaptive softmax, a step with SGD, {args.threads} core(s), medians of {rounds} rounds", headers, rows)
    report = {"environment": environment(), "threads": args.threads, "versions": versions, "absent": absent}
    measured = [{"dim": d, "batch": b, "constants": found} for (d, b), found in constants.items()]
    write_json(out / "results.json", report | {"costs": measured, "results": results})
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
