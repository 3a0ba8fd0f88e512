"""The class's slow-impl.py beside PyTorch eager: the same source, bad and good. One core, each in its own process.

    python demos/versus/slow_impl.py

L = Σ (W x) · y over ten x and ten y, W (100, 100), forward and back to W: with the values copied in inside the loop;
the hundred products W x one by one (naive); each W x once, outside the inner loop (hoisted); and all at once, as
Yᵀ W X. Both run the functions below to the letter, each with its own tensors. First both must find the same loss and
the same gradient. Takes twenty seconds; needs `pip install 'minigrad[versus]'`.

Predict before running: for which of the four is the difference between the two libraries largest? What is it then that
is being measured?
"""

# %% What we need
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race
from _shared.report import environment, table, write_json

N, SIZE = 10, 100


# %% The four versions. `tensor` is the library's, xs and ys are lists of its tensors, X and Y its tensors
def copied(tensor, W, xs, ys):
    total = 0.0
    for x in xs:
        for y in ys:
            total = total + (W @ tensor(x)) @ tensor(y)
    return total


def naive(W, xs, ys):
    total = 0.0
    for x in xs:
        for y in ys:
            total = total + (W @ x) @ y
    return total


def hoisted(W, xs, ys):
    total = 0.0
    for x in xs:
        Wx = W @ x
        for y in ys:
            total = total + Wx @ y
    return total


def matmul(W, X, Y):
    return (Y.T @ (W @ X)).sum()


VERSIONS = {"copied": 20, "naive": 20, "hoisted": 40, "matmul": 500}  # name -> iterations in a turn


# %% Who races
class Contestant:
    """iterate(version, number) -> [loss, gradient] of the last of so many iterations."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        W = rng.uniform(-0.1, 0.1, (SIZE, SIZE)).astype(np.float32)
        xs, ys = rng.random((N, SIZE), np.float32), rng.random((N, SIZE), np.float32)
        self.W, tensor = self.prepare(W)
        lists = [tensor(x) for x in xs], [tensor(y) for y in ys]
        self.versions = {
            "copied": lambda W: copied(tensor, W, xs, ys),
            "naive": lambda W: naive(W, *lists),
            "hoisted": lambda W: hoisted(W, *lists),
        }
        X, Y = (tensor(np.ascontiguousarray(vectors.T)) for vectors in (xs, ys))  # (100, 10)
        self.versions["matmul"] = lambda W: matmul(W, X, Y)

    def iterate(self, version: str, number: int = 1) -> list:
        W, loss_of = self.W, self.versions[version]
        for _ in range(number):
            W.grad = None
            loss = loss_of(W)
            loss.backward()
            value = loss.item()
        return [[value], np.asarray(W.grad)]


class Minigrad(Contestant):
    name, package = "minigrad", None

    def prepare(self, W):
        import minigrad as mg

        return mg.param(W), mg.tensor


class Torch(Contestant):
    name, package = "torch", "torch"

    def prepare(self, W):
        import torch

        return torch.tensor(W, requires_grad=True), torch.tensor


CONTESTANTS = (Minigrad, Torch)


# %% All of it
def parser():
    p = common_flags(__doc__, name="slow_impl", corpus=False)
    p.set_defaults(out=Path("out") / "versus-slow-impl")
    p.add_argument("--rounds", type=int, default=11, help="rounds, each contestant once in each (default 11)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    if args.rounds < 1:
        raise DemoError(f"--rounds must be positive, got {args.rounds}")
    out, rounds = output_folder(args.out), 3 if args.quick else args.rounds
    numbers = {version: number * (1 if args.quick else 5) for version, number in VERSIONS.items()}

    with Race(CONTESTANTS, {"seed": args.seed}) as race:
        for version in VERSIONS:
            race.agree("iterate", tolerance=2e-3, version=version)
        with Progress("racing", len(VERSIONS) * (rounds + 1) * len(race.names), unit="turns") as bar:
            results = {
                version: race.run("iterate", rounds=rounds, advance=bar.advance, version=version, number=number)
                for version, number in numbers.items()
            }
        versions = race.versions

    rows, summary = [], {}
    for version, outcome in results.items():
        rates = {name: numbers[version] / outcome.median(name) for name in versions}
        ratio = outcome.ratio("torch", "minigrad")
        rows.append([version, *rates.values(), str(ratio)])
        summary[version] = {"iterations_per_second": rates, "of_torchs": vars(ratio)}
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    headers = ["", *(f"{name}, iterations/s" for name in versions), "minigrad's of torch's"]
    table(f"Forward and back, one core, median of {rounds} rounds", headers, rows)
    confidence = ratio.confidence
    print(f"the ratio: within a round, its median ({confidence:.0%} interval of the median)")
    report = {"environment": environment(), "versions": versions, "results": summary}
    write_json(out / "results.json", {**report, "seconds": {v: dict(o.seconds) for v, o in results.items()}})
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
