"""How long does a matrix-matrix multiply take?  The slides "GPUs vs. CPUs" and "A Simple Example".

The slides' claim: a CPU is like a motorcycle, quick to start, with a top speed that is not shabby; a GPU is like an
airplane, which takes forever to get off the ground and is super-fast once flying. Their picture: the seconds of a
product of two n x n matrices against n, on logarithmic axes.

    python demos/matmul-cpu-gpu.py
    python demos/matmul-cpu-gpu.py --max-n 1024 --dtype float64
    python demos/matmul-cpu-gpu.py --device gpu

Measured for n = 2, 4, 8, … 4096: the CPU with one thread and with all; and, whenever CuPy finds a GPU, the GPU with
the matrices lying there (computing only), with both copied in and the product copied out, and the time until the call
is back (dispatch), which says nothing of how long the product takes: who reads his clock then sees an airplane that
lands as it starts. --device gpu is for who wants an error, not a missing curve, where there is no GPU.

    n       rows and columns          w    bytes of a number: 4 for float32, 8 for float64
    P       peak, FLOP/s              β    memory bandwidth, bytes/s           t₀    seconds of a call, whatever n

    (1)  Each of n² numbers of the product is a sum of n products: n multiplications, n additions. In all 2 n³ FLOP.
    (2)  Read are two matrices and written is one, 3 n² numbers, once each if the caches are used as well as can be:
         3 n² w bytes.
    (3)  Intensity, FLOP a byte:  I = 2 n³ / (3 n² w) = 2 n / (3 w).  In float32, n / 6.
    (4)  In a second there are no more than P FLOP, and no more than β bytes, for which β I FLOP can be done:
         attainable = min(P, β I).  That is the roofline (Williams, Waterman, Patterson, CACM 2009).
    (5)  The ridge, where both are equal:  β I = P,  n = 3 w P / (2 β).  Right of it arithmetic is the limit.
    (6)  Left of it memory is; or, long before, the call. As seconds: t ≥ max(t₀, 3 n² w / β, 2 n³ / P), and what limits
         a product is what makes the greatest of the three.

P is the best that was measured here of all n, β the bytes/s of c ← a + b over arrays that no cache holds (two numbers
read and one written, as in (2)), t₀ the time of the smallest product. Small matrices lie in a cache, which is faster
than memory: a point may lie above the slope. That is not what keeps small products slow.

What comes out: a table, curves.png (seconds on the left; on the right GFLOP/s under the roofline, dashed) and
results.json in out/matmul-cpu-gpu/. Takes under a minute, --quick a few seconds.

To predict before running; `predict` in results.json has the answers:
    1.  Two matrices of 16 x 16 have 512 times the arithmetic of two of 2 x 2. How many times as long do they take?
    2.  From which n on do all threads beat one?
"""

# %% What we need
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.plots import COLOURS, lines
from _shared.progress import Progress
from _shared.report import environment, table, write_json
from _shared.ways import Way, crossover, in_time, in_turn, machine_in_words, ways_here

from minigrad.backend import to_cpu, to_gpu, xp_of

ADDED = 1 << 24  # numbers in each of the arrays that are added: in float32 three times 64 MiB
GREATEST = 1 << 14  # rows: three times 1 GiB in float32


# %% The roofline
def flop(n: int) -> float:
    return 2.0 * n**3  # (1)


def moved(n: int, itemsize: int) -> float:
    return 3.0 * n**2 * itemsize  # (2)


def intensity(n: float, itemsize: int) -> float:
    return 2.0 * n / (3.0 * itemsize)  # (3)


def attainable(n: float, itemsize: int, peak: float, bandwidth: float) -> float:
    return min(peak, bandwidth * intensity(n, itemsize))  # (4)


def ridge(itemsize: int, peak: float, bandwidth: float) -> float:
    return 3.0 * itemsize * peak / (2.0 * bandwidth)  # (5)


def limit(n: int, itemsize: int, peak: float, bandwidth: float, call: float) -> str:
    seconds = {"call": call, "memory": moved(n, itemsize) / bandwidth, "arithmetic": flop(n) / peak}
    return max(seconds, key=seconds.get)  # (6)


# %% The CPU
def matrices(n: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.random((n, n), dtype) for _ in range(2)]


def measure_cpu(n: int, dtype: str, ways: Sequence[Way], seconds: float) -> dict[str, float]:
    """Seconds of a product each way, by its key."""
    a, b = matrices(n, dtype)
    c = np.empty_like(a)
    times = in_turn({way: lambda: np.matmul(a, b, out=c) for way in ways}, seconds)
    return {way.key: t for way, t in times.items()}


def cpu_bandwidth(dtype: str, ways: Sequence[Way], seconds: float) -> dict[str, float]:
    """β each way, bytes/s: NumPy adds with one thread, so each thread of a way is given a part of the arrays."""
    a, b, c = (np.ones(ADDED, dtype) for _ in range(3))

    def added(threads: int, pool: ThreadPoolExecutor) -> Callable[[], object]:
        parts = list(zip(*(np.array_split(array, threads) for array in (a, b, c)), strict=True))
        return lambda: list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))

    with ThreadPoolExecutor(max(way.threads or 1 for way in ways)) as pool:
        times = in_turn({way: added(way.threads or 1, pool) for way in ways}, seconds)
    return {way.key: 3 * a.nbytes / t for way, t in times.items()}


# %% The GPU: `benchmark` is cupyx.profiler's. After a warm-up it has events recorded on the GPU before and after each
# call, and waits for both: gpu_times are the seconds between them. cpu_times end when the call is back.
def measure_gpu(n: int, dtype: str, seconds: float, benchmark: Callable) -> dict[str, float]:
    """Seconds of a product on the GPU: of computing, with both matrices copied in and the product out, of the call."""
    here = matrices(n, dtype)
    a, b = map(to_gpu, here)
    xp = xp_of(a)
    c = xp.empty_like(a)
    alone = benchmark(lambda: xp.matmul(a, b, out=c), n_warmup=5, n_repeat=1000, max_duration=seconds)
    whole = benchmark(lambda: to_cpu(xp.matmul(*map(to_gpu, here))), n_warmup=2, n_repeat=1000, max_duration=seconds)
    return {
        "gpu": float(np.median(alone.gpu_times)),
        "gpu_with_copies": float(np.median(whole.gpu_times)),
        "gpu_dispatch": float(np.median(alone.cpu_times)),
    }


def gpu_bandwidth(dtype: str, seconds: float, benchmark: Callable) -> float:
    """β of the GPU's own memory, bytes/s."""
    a = to_gpu(np.ones(ADDED, dtype))
    xp = xp_of(a)
    b, c = xp.ones_like(a), xp.empty_like(a)
    added = benchmark(lambda: xp.add(a, b, out=c), n_warmup=5, n_repeat=1000, max_duration=seconds)
    return 3 * a.nbytes / float(np.median(added.gpu_times))


# %% What the seconds say
def rooflines(sizes: Sequence[int], itemsize: int, seconds: dict, bandwidths: dict) -> dict[str, dict]:
    """P, β, the ridge (5) and t₀ of each way whose bandwidth was measured."""
    roofs = {}
    for key, bandwidth in bandwidths.items():
        peak = max(flop(n) / t for n, t in zip(sizes, seconds[key], strict=True))
        roofs[key] = {
            "peak_gflops": peak / 1e9,
            "bandwidth_gb_per_second": bandwidth / 1e9,
            "ridge_n": ridge(itemsize, peak, bandwidth),
            "call_seconds": seconds[key][0],
            "limited_by": [limit(n, itemsize, peak, bandwidth, seconds[key][0]) for n in sizes],
        }
    return roofs


def crossovers(sizes: Sequence[int], seconds: dict) -> dict[str, int | None]:
    """From which n on all threads beat one, and the GPU the CPU's better way; None: at no n. Of what was measured."""
    cpu = np.min([t for key, t in seconds.items() if key.startswith("cpu")], axis=0)
    races = {
        "all threads beat one": (seconds.get("cpu_one_thread"), "cpu_all_threads"),
        "GPU beats CPU, computing": (cpu, "gpu"),
        "GPU beats CPU, with copies": (cpu, "gpu_with_copies"),
    }
    return {what: crossover(sizes, slow, seconds[key]) for what, (slow, key) in races.items() if key in seconds}


def picture(path, sizes, names: dict, seconds: dict, roofs: dict, itemsize: int, crossed: dict, dtype: str, show):
    colour = {key: {"color": COLOURS[i]} for i, key in enumerate(names)}
    curves = {names[key]: (sizes, seconds[key], colour[key]) for key in names}
    speeds = {
        names[key]: (sizes, [flop(n) / t / 1e9 for n, t in zip(sizes, seconds[key], strict=True)], colour[key])
        for key in names
        if key != "gpu_dispatch"
    }
    for key, roof in roofs.items():
        peak, bandwidth = roof["peak_gflops"], roof["bandwidth_gb_per_second"]
        corners = sorted({sizes[0], sizes[-1], min(max(roof["ridge_n"], sizes[0]), sizes[-1])})
        heights = [attainable(n, itemsize, peak, bandwidth) for n in corners]
        dashed = {**colour[key], "linestyle": "--", "linewidth": 1.5, "marker": ""}
        speeds[f"{names[key]}: {peak:,.0f} GFLOP/s, {bandwidth:,.0f} GB/s"] = (corners, heights, dashed)
    marks = {what: n for what, n in crossed.items() if n}
    left = {"series": curves, "xlabel": "n", "ylabel": "seconds", "log": "xy", "marks": marks}
    right = {"series": speeds, "xlabel": "n", "ylabel": "GFLOP/s", "log": "xy"}
    lines(path, f"A product of two n x n matrices, {dtype}", [left, right], show)


def parser():
    p = common_flags(__doc__, name="matmul-cpu-gpu", corpus=False)
    p.add_argument("--max-n", type=int, default=4096, metavar="N", help="the greatest n (default 4096)")
    p.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of the numbers")
    return p


# %% All of it
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if not 2 <= args.max_n <= GREATEST:
        raise DemoError(f"--max-n must lie in 2 to {GREATEST}, got {args.max_n}")
    ways, no_gpu = ways_here(args.device)
    out = output_folder(args.out)
    if args.quick:
        args.max_n = min(args.max_n, 512)
    sizes = [2**i for i in range(1, args.max_n.bit_length())]
    per_size, itemsize = 0.1 if args.quick else 0.5, np.dtype(args.dtype).itemsize
    said = machine_in_words()
    print("\n".join(said))

    cpus = [way for way in ways if way.device == "cpu"]
    names = {way.key: way.name for way in cpus}
    benchmark = None
    if no_gpu:
        print(f"no CUDA device: GPU curves not drawn ({no_gpu})")
    else:
        from cupyx.profiler import benchmark

        names |= {"gpu": "GPU, computing", "gpu_with_copies": "GPU, with copies", "gpu_dispatch": "GPU, dispatch"}
    seconds = {key: [] for key in names}
    with Progress("multiplying", len(sizes) + 1, "sizes") as bar:
        bandwidths = cpu_bandwidth(args.dtype, cpus, per_size)
        if benchmark:
            bandwidths["gpu"] = gpu_bandwidth(args.dtype, per_size, benchmark)
        bar.advance()
        for n in sizes:
            times = measure_cpu(n, args.dtype, cpus, per_size)
            if benchmark:
                times |= measure_gpu(n, args.dtype, per_size, benchmark)
            for key in names:
                seconds[key].append(times[key])
            bar.advance()

    roofs, crossed = rooflines(sizes, itemsize, seconds, bandwidths), crossovers(sizes, seconds)
    limits = [[roof["limited_by"][i] for roof in roofs.values()] for i in range(len(sizes))]
    table(
        f"A product of two n x n matrices, {args.dtype}",
        ["n", *names.values(), *(f"limit, {names[key]}" for key in roofs)],
        [[n, *(in_time(seconds[key][i]) for key in names), *limits[i]] for i, n in enumerate(sizes)],
    )
    table(
        "The roofline, measured",
        ["", "peak GFLOP/s", "memory GB/s", "ridge at n", "a call"],
        [
            [
                names[key],
                roof["peak_gflops"],
                roof["bandwidth_gb_per_second"],
                roof["ridge_n"],
                in_time(roof["call_seconds"]),
            ]
            for key, roof in roofs.items()
        ],
    )
    for what, n in crossed.items():
        print(f"{what}: {f'from n = {n:,} on' if n else 'at no n'}")
    picture(out / "curves.png", sizes, names, seconds, roofs, itemsize, crossed, args.dtype, args.show)
    first = seconds[cpus[0].key]
    write_json(
        out / "results.json",
        {
            "environment": environment() | {"machine": said, "no_gpu": no_gpu},
            "arguments": vars(args),
            "sizes": sizes,
            "seconds": seconds,
            "roofline": roofs,
            "crossovers": crossed,
            "predict": {
                "times_as_long_for_512_times_the_arithmetic": first[3] / first[0] if len(sizes) > 3 else None,
                "from_which_n_on_all_threads_beat_one": crossed.get("all threads beat one"),
            },
        },
    )
    print(f"in {out}: curves.png, results.json")


if __name__ == "__main__":
    run_demo(main)
