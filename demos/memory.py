"""What about memory? The slide: "Many GPUs only have up to 12GB, so memory is a major issue".

The slide's advice: "Minimize unnecessary operations, especially ones over big pieces of data", and "if absolutely
necessary, use multiple GPUs (but try to minimize memory movement)".

    python demos/memory.py
    python demos/memory.py --cap 1GB
    python demos/memory.py --cap 12GB --gpus 8

A deep network of equal layers is made so large that a step of training, in the plainest way, needs two and a half times
the memory that there is (--cap). (That way keeps the graph after its walk, and computes Adam by formulas; the first
trick and the third are what this library does unasked.) It runs into the error; then trick after trick is added:

    free      arrays are freed as the walk goes back, not at its end
    micro     the batch goes through in four parts, whose gradients add up (two sets of them are there for a while)
    in place  the optimiser writes into its arrays, and makes none beside them
    √n        checkpoints: of n layers only what enters √n segments is kept, the rest is computed again
    SGD       instead of Adam, whose averages weigh twice as much as the parameters; it learns otherwise, so it is last

Five tables: who holds memory in a step; what is kept with k segments, by the formula and as counted, with gradients
compared to the last bit; what an optimiser needs beside the parameters; the tricks; and for several GPUs, how many
bytes move between them with each placement of the layers. In out/memory/: memory.png, bytes in use from operation to
operation, and results.json.

Takes under a minute, --quick under ten seconds. Time grows faster than --cap; beforehand the demo says how much memory
it needs and how long it will take. On a GPU the cap is the limit of CuPy's memory pool.

Before you run it: which of the five tricks saves most, and which of them cost time? And at which moment of a step is
most memory in use, with the plain way, and with all tricks?
"""

# %% What we need
import argparse
import gc
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.plots import lines
from _shared.progress import Progress
from _shared.report import environment, table, write_json
from threadpoolctl import threadpool_limits

import minigrad as mg
from minigrad import memory
from minigrad.ledger import in_bytes
from minigrad.tape import Node, watching

MIB = 1 << 20
LAYERS = 64  # at least: more where the cap is larger
PARTS = 4  # micro-batches
PARAMETERS, KEPT = 0.18, 1.24  # of the cap. 7 parameters (gradients, Adam's two averages, three new) + kept = 2.5 caps


# %% A network whose size follows from the cap
@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    batch: int

    @classmethod
    def for_cap(cls, cap: int) -> "Size":
        layers = max(LAYERS, int(16 * (cap / MIB) ** 0.5))
        width = int((PARAMETERS * cap / 4 / layers) ** 0.5)
        return cls(layers, width, max(int(KEPT * cap / 4 / layers / width) // PARTS, 1) * PARTS)

    @property
    def array(self) -> int:
        """Bytes of what one layer gives."""
        return 4 * self.batch * self.width


class Layer(mg.nn.Linear):
    """relu(x Wᵀ + b), which keeps one array, what it gives. Weights as He et al. (2015) have them, for deep nets."""

    def __init__(self, width: int, key: mg.Key):
        super().__init__(width, width, key=key)
        self.weight.data *= 6**0.5

    def forward(self, x):
        return mg.relu(super().forward(x))


class Task:
    """Layers, and a batch that they learn."""

    def __init__(self, size: Size, seed: int):
        key = mg.Key(seed)
        self.layers = [Layer(size.width, key.fold(0, i)) for i in range(size.layers)]
        self.params = [p for layer in self.layers for p in layer.parameters()]
        self.x = key.fold(1).normal((size.batch, size.width))  # (B, d)
        self.labels = key.fold(2).integers(0, size.width, size.batch)  # (B,)

    def loss(self, segments: int | None = 1, part: int = 0, of: int = 1) -> mg.Tensor:
        """The loss of one part of the batch: over all parts they add up to the mean over the batch."""
        here = slice(part * len(self.x) // of, (part + 1) * len(self.x) // of)
        h = memory.checkpoint_sequential(self.layers, mg.Tensor(self.x[here]), segments)
        return mg.cross_entropy(h, self.labels[here]) * (1.0 / of)


# %% Ways to do a step
@dataclass(frozen=True)
class Way:
    name: str
    free: bool = False
    segments: int | None = 1
    in_place: bool = False
    parts: int = 1
    adam: bool = True

    def optimiser(self, params: list[mg.Tensor]) -> mg.optim.Optimizer:
        if not self.adam:
            return mg.optim.SGD(params, lr=1e-4)
        return (mg.optim.Adam if self.in_place else AdamOutOfPlace)(params, lr=1e-4)

    def step(self, task: Task, optimiser: mg.optim.Optimizer) -> float:
        total = 0.0
        for part in range(self.parts):
            loss = task.loss(self.segments, part, self.parts)
            loss.backward(retain_graph=not self.free)
            total += loss.item()
        optimiser.step()
        return total


class AdamOutOfPlace(mg.optim.Adam):
    """Adam as its formulas are written: all arrays of the next step are there before those of this one go."""

    def step(self) -> None:
        self.steps = [n + 1 for n in self.steps]
        arrays = enumerate(zip(self.params, self.mean, self.square, strict=True))
        new = [self._moved(p.data, m, v, p.grad, *self._numbers(i)) for i, (p, m, v) in arrays]
        for i, (w, m, v) in enumerate(new):
            self.params[i].data, self.mean[i], self.square[i] = w, m, v


def tricks() -> list[Way]:
    """From the plain way on, each with one trick more."""
    ways = [Way("plain")]
    for name, change in {
        "free as the walk goes": {"free": True},
        f"{PARTS} micro-batches": {"parts": PARTS},
        "Adam in place": {"in_place": True},
        "√n checkpoints": {"segments": None},
        "SGD for Adam": {"adam": False},
    }.items():
        ways.append(replace(ways[-1], name=f"+ {name}", **change))
    return ways


# %% One step, watched
@dataclass
class Run:
    """What a step has shown. error: of memory, if there was one; the rest is then as far as it came."""

    way: Way
    peak: int
    used: list[int]  # bytes in use, from operation to operation
    error: str | None = None
    seconds: float | None = None
    loss: float | None = None
    digest: str | None = None  # of all gradients
    gradient: np.ndarray | None = None  # of the first layer's weight


def run_step(way: Way, size: Size, seed: int, limit: int | None = None) -> Run:
    """A step from nothing: model, optimiser and batch are made inside, so that they count."""
    gc.collect()
    result = Run(way, 0, [])
    try:
        with memory.trace(limit) as seen:
            task = Task(size, seed)
            optimiser = way.optimiser(task.params)
            mg.backend.synchronize()
            begin = time.perf_counter()
            result.loss = way.step(task, optimiser)
            mg.backend.synchronize()
            result.seconds = time.perf_counter() - begin
        gradients = [np.ascontiguousarray(mg.to_cpu(p.grad)) for p in task.params]
        result.digest = hashlib.sha256(b"".join(hashlib.sha256(g).digest() for g in gradients)).hexdigest()
        result.gradient = gradients[0].copy()
    except MemoryError as error:
        result.error = " ".join(str(error).split())
    result.peak, result.used = seen.peak, [moment.used for moment in seen.timeline]
    return result


def difference(run: Run, before: Run) -> float:
    """0 if all gradients are the same to the last bit; else by how much the first weight's differ, relative to them."""
    if run.digest == before.digest:
        return 0.0
    return float(abs(run.gradient - before.gradient).max() / abs(before.gradient).max())


# %% Table 1: who holds memory
def who_holds_what(size: Size, seed: int) -> dict:
    way = replace(Way("", free=True), in_place=True)
    with memory.trace() as seen:
        task = Task(size, seed)
        optimiser = way.optimiser(task.params)
        loss = task.loss()
        held = memory.account(task.params, optimiser, loss)
        loss.backward()
        held["gradients"] = memory.account(task.params)["gradients"]
        optimiser.step()
    whole = sum(held.values())
    table(
        f"Who holds memory: {size.layers} layers of {size.width:,}, batch {size.batch:,}",
        ["held by", "bytes", "", "share"],
        [[who, n, in_bytes(n), f"{n / whole:.0%}"] for who, n in held.items()]
        + [["most in use at once", seen.peak, in_bytes(seen.peak), f"{seen.peak / whole:.0%}"]],
    )
    print("Gradients come while what was kept goes, and rules need arrays for a moment.\n")
    return {"held": held, "peak": seen.peak, "size": vars(size)}


# %% Table 2: how many segments
def how_many_segments(size: Size, seed: int) -> list[dict]:
    """(2) of minigrad/memory.py and what a trace counts; and whether any gradient has changed."""
    task, n, rows, first = Task(size, seed), size.layers, [], None
    for k in (k for k in range(1, n + 1) if n % k == 0):
        for p in task.params:
            p.grad = None
        forward = Count("linear")
        with watching(forward), memory.trace() as seen:
            task.loss(k).backward()
        gradients = [p.grad for p in task.params]
        first = first or gradients
        rows.append(
            {
                "k": k,
                "formula": (k - 1 + n // k) * size.array,
                # what goes in, and what the loss keeps, are kept in any case
                "counted": seen.peak_kept - 2 * size.array,
                "forward": forward.times,
                "equal": all(mg.backend.read((a == b).all()) for a, b in zip(gradients, first, strict=True)),
            }
        )
    best = memory.best_segments(n)
    table(
        f"Checkpoints: {n} layers in k segments; √{n} is {n**0.5:g}",
        ["k", "kept by the formula", "kept as counted", "of all", "layers run forward", "gradients equal to the bit"],
        [
            [r["k"], r["formula"], r["counted"], f"{r['counted'] / rows[0]['counted']:.3f}", r["forward"], r["equal"]]
            for r in rows
        ],
    )
    least = min(rows, key=lambda r: r["counted"])["k"]
    print(f"The least is kept with {least} segments; minigrad.memory takes {best}.\n")
    return rows


class Count:
    """How often an operation is done."""

    def __init__(self, name: str):
        self.name, self.times = name, 0

    def __call__(self, op, args, y, node) -> None:
        self.times += op.name == self.name

    def gradients(self, node, gradients) -> None:
        pass


# %% Table 3: optimisers
def optimisers(numbers: int) -> list[dict]:
    """What an optimiser holds, and what it needs for a moment, in sizes of the parameters."""

    def out_of_place(p):
        p.data = p.data - 1e-4 * p.grad

    rows = []
    for name, make in {
        "SGD, w ← w − η g out of place": lambda p: (None, lambda: out_of_place(p)),
        "SGD in place": lambda p: both(mg.optim.SGD([p], lr=1e-4)),
        "SGD with momentum in place": lambda p: both(mg.optim.SGD([p], lr=1e-4, momentum=0.9)),
        "Adam out of place": lambda p: both(AdamOutOfPlace([p], lr=1e-4)),
        "Adam in place": lambda p: both(mg.optim.Adam([p], lr=1e-4)),
    }.items():
        p = mg.param(mg.Key(0).uniform(numbers))
        p.grad = p.data * 0.5
        optimiser, update = make(p)
        update()  # kernels are compiled now
        with memory.trace() as seen:
            update()
        held = memory.account([p], optimiser)["optimiser"]
        rows.append({"optimiser": name, "held": held / p.data.nbytes, "for_a_moment": seen.peak / p.data.nbytes})
    table(
        f"Bytes beside a parameter of {in_bytes(4 * numbers)}, as multiples of it",
        ["optimiser", "held all the time", "in use for a moment"],
        [[r["optimiser"], f"{r['held']:.1f}", f"{r['for_a_moment']:.1f}"] for r in rows],
    )
    return rows


def both(optimiser: mg.optim.Optimizer) -> tuple:
    return optimiser, optimiser.step


# %% Table 4: under the cap
def bring_under(cap: int, size: Size, seed: int, unlimited: bool) -> list[Run]:
    """Each way with the cap as its limit; where that is too little, once more without, if there is memory for it."""
    runs = []
    with Progress("one step each way", len(tricks()), "ways") as bar:
        for way in tricks():
            run = run_step(way, size, seed, limit=cap)
            if run.error and not runs:
                print(f"\nThe plain way, with no more than {in_bytes(cap)}:\n  MemoryError: {run.error}\n", flush=True)
            if run.error and unlimited:
                run = replace(run_step(way, size, seed), error=run.error)
            runs.append(run)
            bar.advance()
    ran, rows = [run for run in runs if run.seconds is not None], []
    for run in runs:
        if run not in ran:
            rows.append([run.way.name, f"over {in_bytes(cap)}", None, False, None, None, None])
            continue
        i = ran.index(run)
        numbers = [in_bytes(run.peak), f"{run.peak / cap:.2f}", not run.error, f"{run.seconds:.2f} s"]
        rows.append(
            [run.way.name, *numbers, f"{run.seconds / ran[0].seconds:.2f}", difference(run, ran[i - 1]) if i else None]
        )
    table(
        f"A step under {in_bytes(cap)}: {size.layers:,} layers of {size.width:,}, a batch of {size.batch:,}",
        ["way", "most in use", "of the cap", "fits", "time", "relative", "gradients: from those above"],
        rows,
    )
    print("The last column: 0 where all gradients equal those of the way above, to the last bit; else by how much.")
    if fitting := next((run for run in runs if not run.error), None):
        print(f"It fits with: {fitting.way.name.removeprefix('+ ')}.\n")
    return runs


# %% Table 5: several GPUs
def moved(loss: mg.Tensor, home: dict[int, int]) -> tuple[int, dict[int, int]]:
    """Bytes that cross from GPU to GPU on the way there, and what is kept on each.

    home: the id of each parameter -> the GPU where it lies, and where the operations on it are done; an operation
    without parameters is done where its first argument is. What is needed on another GPU goes there once, however often
    it is used; on the way back the gradient of each copy returns, which is as many bytes again.
    """
    graph, at, crossed, kept = mg.graph(loss), {}, {}, {}
    for node, held in zip(graph.nodes, graph.kept, strict=True):
        leaves = [home[id(p)] for p in node.parents if type(p) is mg.Tensor]
        before = [p for p in node.parents if type(p) is Node]
        here = at[id(node)] = leaves[0] if leaves else at[id(before[0])]
        kept[here] = kept.get(here, 0) + held
        for p in before:
            if at[id(p)] != here:
                crossed[id(p), here] = int(np.prod(p.shape)) * p.dtype.itemsize
    return sum(crossed.values()), kept


def placements(layers: int, gpus: int) -> dict[str, list[int]]:
    """The GPU of each layer."""
    return {
        "in blocks, a block each": [i * gpus // layers for i in range(layers)],
        "in blocks half as long, going round twice": [i * 2 * gpus // layers % gpus for i in range(layers)],
        "layer by layer, going round": [i % gpus for i in range(layers)],
    }


def over_several_gpus(size: Size, seed: int, gpus: int) -> list[dict]:
    task = Task(size, seed)
    loss, parameters = task.loss(), sum(p.data.nbytes for p in task.params)
    rows = []
    for name, places in placements(size.layers, gpus).items():
        home = {id(p): gpu for layer, gpu in zip(task.layers, places, strict=True) for p in layer.parameters()}
        there, kept = moved(loss, home)
        rows.append({"placement": name, "there": there, "back": there, "sums": 0, "kept": max(kept.values())})
    rows.append(
        {
            "placement": "data parallel: the whole net on each, a part of the batch",
            "there": 0,
            "back": 0,
            "sums": 2 * (gpus - 1) * parameters,  # each gradient to the first GPU, and their sum to the others
            "kept": -(-mg.graph(loss).bytes_kept // gpus),
        }
    )
    shares = {row["placement"]: parameters // (1 if row["sums"] else gpus) for row in rows}
    table(
        f"{gpus} GPUs: bytes that move between them in a step of the net of the first table",
        ["placement", "activations there", "gradients back", "sums of gradients", "in all", "kept a GPU", "parameters"],
        [
            [
                row["placement"],
                *(in_bytes(row[way]) for way in ("there", "back", "sums")),
                in_bytes(row["there"] + row["back"] + row["sums"]),
                in_bytes(row["kept"]),
                in_bytes(shares[row["placement"]]),
            ]
            for row in rows
        ],
    )
    return rows


# %% How much there is
def size_in_bytes(text: str) -> int:
    """12GB, 300MB, 1.5 GiB: a GB is 2³⁰ bytes, as those are that GPUs are sold with."""
    powers = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?B", text.strip().upper())
    if not found:
        raise argparse.ArgumentTypeError(f"expected a size as 12GB or 300MB, got {text!r}")
    if (size := int(float(found[1]) * 2 ** powers[found[2]])) < 8 * MIB:
        raise argparse.ArgumentTypeError(f"expected 8MB or more, got {text!r}")
    return size


def available(device: str) -> int | None:
    """Bytes that are free; None if this system does not say."""
    if device == "gpu":
        return mg.backend.xp().cuda.runtime.memGetInfo()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def plan(cap: int, free: int | None, seconds_a_step: Callable[[], float]) -> bool:
    """Says how much memory and how long it will take; whether ways over the cap can be measured without a limit."""
    unlimited = free is not None and free > 2.8 * cap
    needed = 2.8 * cap if unlimited else 1.2 * cap
    if free is not None and free < needed:
        raise DemoError(
            f"--cap {in_bytes(cap)} needs {in_bytes(needed)} of free memory, and there are {in_bytes(free)}: "
            "try a smaller --cap"
        )
    steps = 9.0 if unlimited else 5.0  # those that do not fit are begun, and without a limit done once more
    there = "it is not known how much is free" if free is None else f"{in_bytes(free)} are free"
    print(
        f"Under {in_bytes(cap)}: takes up to {in_bytes(needed)} of memory ({there}) and about "
        f"{max(round(steps * seconds_a_step()), 1):,} s",
        flush=True,
    )
    return unlimited


def seconds_a_step(size: Size, seed: int) -> float:
    """A layer's product once there and twice back, by the time that one takes; as much as two more for the rest."""
    x, w = (mg.Key(seed).uniform((n, size.width)) for n in (size.batch, size.width))
    times = []
    for _ in range(4):
        mg.backend.synchronize()
        begin = time.perf_counter()
        x @ w.T
        mg.backend.synchronize()
        times.append(time.perf_counter() - begin)
    return 5.0 * size.layers * min(times)


# %% The picture
def picture(path: Path, cap: int, size: Size, runs: list[Run], segments: list[dict], show: bool) -> None:
    """On the left a curve for each way, from operation to operation; on the right what is kept with k segments."""
    used = {}
    for i, run in enumerate(runs, start=1):
        style = {"marker": "", "linewidth": 2 + 1.2 * (len(runs) - i)}  # where two are equal, one sees both
        name = run.way.name + (" (stopped)" if run.seconds is None else "")
        used[name] = np.arange(1, len(run.used) + 1), np.array(run.used) / MIB, style
    longest = max(len(run.used) for run in runs)
    used["the cap"] = ([1, longest], [cap / MIB] * 2, {"color": "black", "linestyle": "--", "marker": ""})
    k, n = np.arange(1, 65), 64
    counted = [n * row["counted"] / segments[0]["counted"] for row in segments]
    kept = {
        "k − 1 + 64/k": (k, k - 1 + n / k, {"marker": "", "linestyle": "--"}),
        "as counted; √64 is 8": ([row["k"] for row in segments], counted, {"linestyle": ""}),
    }
    panels = [
        {"series": used, "xlabel": "operations and rules of a step", "ylabel": "MiB in use"},
        {"series": kept, "xlabel": "k, segments of 64 layers", "ylabel": "arrays kept", "log": "x"},
    ]
    lines(path, f"One step of {size.layers:,} layers, with trick after trick", panels, show)


# %% All of it
def parser():
    p = common_flags(__doc__, name="memory", corpus=False)
    p.add_argument("--cap", type=size_in_bytes, metavar="SIZE", help="memory there is, as 12GB (default 200MB)")
    p.add_argument("--gpus", type=int, default=4, metavar="P", help="GPUs in the last table (default 4)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if not 2 <= args.gpus <= LAYERS:
        raise DemoError(f"--gpus must be 2 to {LAYERS}, got {args.gpus}")
    choose_device(args.device)
    out = output_folder(args.out)
    cap = args.cap or (20 if args.quick else 200) * MIB
    size = Size.for_cap(cap)
    with threadpool_limits(1 if size.width < 500 else None, user_api="blas"):  # small products are faster with one
        tell(cap, size, args, out)


def tell(cap: int, size: Size, args, out: Path) -> None:
    small, free = Size.for_cap(min(cap, 32 * MIB)), available(args.device)
    unlimited = plan(cap, free, lambda: seconds_a_step(size, args.seed))
    run_step(tricks()[-2], Size.for_cap(8 * MIB), args.seed)  # kernels are compiled, or read from disk
    print()

    results = {"environment": environment(), "arguments": vars(args) | {"cap": cap}}
    results["who_holds_what"] = who_holds_what(small, args.seed)
    results["segments"] = how_many_segments(Size(64, 32, 16), args.seed)
    results["optimisers"] = optimisers(MIB // 4 if args.quick else 4 * MIB)
    runs = bring_under(cap, size, args.seed, unlimited)
    results["under_the_cap"] = {
        "cap": cap,
        "size": vars(size),
        "ways": [
            {
                "way": run.way.name,
                "fits": not run.error,
                "error": run.error,
                "peak": run.peak if run.seconds else None,
                "seconds": run.seconds,
                "loss": run.loss,
                "gradients": run.digest,
            }
            for run in runs
        ],
    }
    results["placements"] = over_several_gpus(small, args.seed, args.gpus)

    picture(out / "memory.png", cap, size, runs, results["segments"], args.show)
    write_json(out / "results.json", results)
    print(f"in {out}: memory.png, results.json")


if __name__ == "__main__":
    run_demo(main)
