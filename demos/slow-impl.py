"""slow-impl.py: the class's example, slow in all three ways, and mended trick by trick.

The slides' claims: "Don't Repeat Operations", "Reduce # of Operations", "Reduce CPU-GPU Data Movement". The example: a
matrix W (100, 100), ten vectors x, ten vectors y, and a loss of all hundred pairs, with its gradient for W:

    L = Σ_i Σ_j (W x_i) · y_j.                                                                              (1)

    python demos/slow-impl.py
    python demos/slow-impl.py --vectors 30 --size 300
    python demos/slow-impl.py --device gpu

An iteration is (1) forward and its gradient back. Four programs do it, each printed beside the one before:

    bad        as it comes to mind: each value is copied in where it is needed, W x is computed for every pair
    trick 1    W x_i does not depend on j: once for each i, not for each pair
    trick 2    the x_i are the columns of X, the y_j those of Y: W x_i for all i is W X, and all pairs are Yᵀ (W X)
    trick 3    X and Y are copied in once, before the first iteration. They are also stacked once, where trick 2 stacks
               in each: that is what a CPU gains by it, which copies nothing

All find the same loss and the same gradient, which is checked. The table has the iterations/s (measured in turn, so
that a machine that is busy is so for all); how many operations an iteration does, there and back, counted on the tape;
the copies and bytes that it moves to a GPU, or would, by the ledger; and which tricks the advisor (minigrad/advisor.py)
still asks for. At the end it reads the bad program aloud. In out/slow-impl/: speeds.png and results.json. Takes ten
seconds, --quick under ten.

Before you run it: trick 1 does a tenth of the products with W. Does that make an iteration ten times as fast? And which
trick saves most on your CPU, whose "copies" are none?
"""

# %% What we need
import inspect
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.plots import bars
from _shared.report import environment, table, write_json
from threadpoolctl import threadpool_limits

import minigrad as mg
from minigrad.ledger import hearing, in_bytes
from minigrad.tape import watching

TURNS = 10


# %% Bad: for each x, for each y, all of it
def bad(W, xs, ys):
    total = 0.0
    for x in xs:
        for y in ys:
            x_in, y_in = mg.tensor(x), mg.tensor(y)
            total = total + (W @ x_in) @ y_in
    return total


# %% Trick 1, don't repeat operations: W x does not depend on y
def trick_1(W, xs, ys):
    total = 0.0
    for x in xs:
        Wx = W @ mg.tensor(x)
        for y in ys:
            total = total + Wx @ mg.tensor(y)
    return total


# %% Trick 2, reduce the number of operations: the vectors become the columns of a matrix
def trick_2(W, xs, ys):
    X = mg.stack([mg.tensor(x) for x in xs], axis=1)  # (d, n)
    Y = mg.stack([mg.tensor(y) for y in ys], axis=1)  # (d, n)
    return (Y.T @ (W @ X)).sum()


# %% Trick 3, reduce data movement: X and Y were copied in before, once
def trick_3(W, X, Y):
    return (Y.T @ (W @ X)).sum()


TITLES = {
    bad: "Bad",
    trick_1: "Speed Trick 1, Don't Repeat Operations",
    trick_2: "Speed Trick 2, Reduce # of Operations",
    trick_3: "Speed Trick 3, Reduce CPU-GPU Data Movement",
}


def programs(W: mg.Tensor, xs: np.ndarray, ys: np.ndarray) -> dict[Callable, Callable]:
    """version -> an iteration of it, which returns the loss; xs and ys (n, d)."""
    X, Y = (mg.tensor(np.ascontiguousarray(vectors.T)) for vectors in (xs, ys))  # trick 3: as early as possible
    data = {version: (X, Y) if version is trick_3 else (list(xs), list(ys)) for version in TITLES}

    def iteration(version: Callable) -> Callable[[], mg.Tensor]:
        def iterate():
            W.grad = None
            loss = version(W, *data[version])
            loss.backward()
            return loss

        return iterate

    return {version: iteration(version) for version in TITLES}


# %% What an iteration does, counted
class Counts:
    """Operations there and back, as the tape and the walk tell them; copies, and their bytes, as the ledger does."""

    def __init__(self):
        self.operations = self.copies = self.bytes = 0

    def __call__(self, op, args, y, node):
        self.operations += 1

    def gradients(self, node, gradients):
        self.operations += 1

    def copied(self, kind: str, nbytes: int, device: str):
        if kind in ("in", "out"):
            self.copies, self.bytes = self.copies + 1, self.bytes + nbytes


def counted(iterate: Callable) -> Counts:
    counts = Counts()
    with watching(counts), hearing(counts.copied):
        iterate()
    return counts


def advised(iterate: Callable):
    with mg.advisor() as advice:
        iterate()
    return advice


# %% The clock
def measured(iterations: dict[Callable, Callable], seconds: float) -> dict[Callable, list[float]]:
    """Iterations/s of each version in each of its turns."""
    rates = {version: [] for version in iterations}
    for iterate in iterations.values():
        iterate()  # kernels are compiled now, or read from disk
    for _ in range(TURNS):
        for version, iterate in iterations.items():
            done, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < seconds / TURNS:
                iterate()
                done += 1
                mg.backend.synchronize()
            rates[version].append(done / (time.perf_counter() - begin))
    return rates


# %% All of it
def parser():
    p = common_flags(__doc__, name="slow-impl", corpus=False)
    p.add_argument("--vectors", type=int, default=10, metavar="n", help="how many x, and how many y (default 10)")
    p.add_argument("--size", type=int, default=100, metavar="d", help="numbers in each (default 100)")
    p.add_argument("--seconds", type=float, default=2.0, help="how long each is measured (default 2)")
    return p


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    for name in ("vectors", "size", "seconds"):
        if not 0 < getattr(args, name) <= 100_000:
            raise DemoError(f"--{name} must be above 0 and at most 100,000, got {getattr(args, name)}")
    choose_device(args.device)
    out, seconds = output_folder(args.out), min(args.seconds, 0.2) if args.quick else args.seconds

    rng = np.random.default_rng(args.seed)
    W = mg.param(rng.uniform(-0.1, 0.1, (args.size, args.size)).astype(np.float32))
    iterations = programs(W, *rng.random((2, args.vectors, args.size), dtype=np.float32))
    found = {version: (iterate().item(), mg.to_cpu(W.grad)) for version, iterate in iterations.items()}
    for version, (loss, gradient) in found.items():
        if not np.allclose(loss, found[bad][0], rtol=1e-3) or not np.allclose(gradient, found[bad][1], rtol=1e-3):
            raise AssertionError(f"{version.__name__} finds another loss or gradient than bad")

    rates = measured(iterations, seconds)
    rows, results, before, printed = [], [], None, {}
    for version, iterate in iterations.items():
        counts, advice = counted(iterate), advised(iterate)
        asked = sorted({finding.trick for finding in advice.findings})
        told = {"name": version.__name__, "iterations_per_second": median(rates[version]), **vars(counts)}
        for name, other in {"times_the_last": before, "times_bad": bad}.items():
            ratios = [a / b for a, b in zip(rates[version], rates[other], strict=True)] if other else []
            told[name] = median(ratios) if ratios else None
        results.append({**told, "the_advisor_asks_for": asked, "findings": [vars(f) for f in advice.findings]})
        head = f"{version.__name__}: {told['iterations_per_second']:,.0f} iterations/s, {counts.copies} copies"
        last, printed = list(printed.items())[-1:], {head: inspect.getsource(version).rstrip()}
        printed = dict(last) | printed
        table(TITLES[version], list(printed), [list(printed.values())])
        moved = f"{counts.copies} copies, {in_bytes(counts.bytes)}"
        numbers = [told[name] for name in ("iterations_per_second", "times_the_last", "times_bad", "operations")]
        rows.append([version.__name__, *numbers, moved, ", ".join(map(str, asked)) or "nothing"])
        before = version

    headers = ["", "iterations/s", "times the last", "times bad", "operations", "moved", "the advisor asks for tricks"]
    table(f"An iteration: {args.vectors} x, {args.vectors} y, W ({args.size}, {args.size})", headers, rows)
    here = "moved to the GPU and back" if args.device == "gpu" else "what would move to a GPU; on the CPU nothing does"
    print(f"the same loss and gradient: all. operations: there and back, with those of one number. moved: {here}\n")
    print(f"The advisor reads the bad program:\n{advised(iterations[bad])}")

    labels = [title.removeprefix("Speed ") for title in TITLES.values()]
    speeds = [told["iterations_per_second"] for told in results]
    bars(out / "speeds.png", "slow-impl.py, trick by trick", labels, speeds, "iterations/s", args.show)
    write_json(out / "results.json", {"environment": environment(), "arguments": vars(args), "versions": results})
    print(f"\nin {out}: speeds.png, results.json")


if __name__ == "__main__":
    run_demo(main)
