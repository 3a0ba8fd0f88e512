"""Drawing noise: what a draw costs here, with NumPy and with PyTorch. One core, each library in its own process.

    python demos/versus/samplers.py

Words by Zipf's law, count ∝ 1 / (id + 1), to the power 3/4; V = 1,000 to a million. Three tasks: 64 words for one step,
drawn independently; a million words at once; and 64 different words. Who races:

    minigrad   Unigram by the alias method and by inverse CDF, Uniform and LogUniform (of distributions of their own);
               different words by Unique, with TensorFlow's counts and with exact ones, and by GumbelTopK
    numpy      Generator.choice(V, k, p=q); and with replace=False; and what one writes to be rid of choice's O(V),
               F = cumsum(q) once and F.searchsorted(random) for each draw
    torch      torch.multinomial(q, k), with and without replacement

First each way shows that it draws from the distribution that it names, to 6 standard deviations: the ten most frequent
words, and how many draws fall among the words that have half of the probability. Takes a minute; needs
`pip install 'minigrad[versus]'`.

Predict before running: which of these times grow with V? Which part of them is paid once a call, and which once a word?
"""

# %% What we need
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import Progress
from _shared.race import Race, Ratio
from _shared.report import environment, table, write_json

K, MANY, POWER = 64, 1_000_000, 0.75
TASKS = {"step": f"{K} words for one step", "bulk": "{:,} words at once", "distinct": f"{K} different words"}
RIVAL = "numpy, choice"  # whom all are compared with
CALLS, LONGEST = 100, 0.02  # calls in a turn, as long as they take no longer than so many seconds


# %% What all have
class Contestant:
    """self.ways[task][way](n): so many words drawn, as an array; self.declared[way]: q, where it isn't `self.q`."""

    def __init__(self, seed: int):
        self.seed, self.calls = seed, 0

    def begin(self, vocab: int) -> None:
        """What is prepared once for a vocabulary."""
        weights = (1.0 / np.arange(1.0, vocab + 1.0)) ** POWER
        self.vocab, self.q, self.declared = vocab, weights / weights.sum(), {}
        self.ways = self.prepare()

    def seconds(self, task: str, many: int) -> dict[str, float]:
        """One round: the time of a call of each way, the median over some calls, but for `many` words of one call."""
        found = {}
        for way, draw in self.ways[task].items():
            took: list[float] = []
            while len(took) < CALLS and (not took or sum(took) < LONGEST):
                begin = time.perf_counter()
                draw(many if task == "bulk" else K)
                took.append(time.perf_counter() - begin)
            found[way] = statistics.median(took)
        return found

    def deviations(self) -> dict[str, float]:
        """How many standard deviations each way is off: in the ten most frequent words, and in the half of all draws.

        The half: how often the word is one of the first, which have half of the probability together. Of different
        words the first of each draw counts, which has the law q.
        """
        found = {}
        each = [(task, *pair) for task in ("step", "distinct") for pair in self.ways[task].items()]
        for task, way, draw in each:
            q = self.declared.get(way, self.q)
            half = int(np.searchsorted(np.cumsum(q), 0.5)) + 1
            if task == "step":
                ids = np.asarray(draw(100_000))
                counts, chances = np.bincount(ids, minlength=10)[:10], q[:10]
            else:
                ids, counts, chances = np.array([int(draw(K)[0]) for _ in range(100)]), [], []
            counts, p = np.append(counts, (ids < half).sum()), np.append(chances, q[:half].sum())
            off = abs(counts - len(ids) * p) / np.sqrt(len(ids) * p * (1 - p))
            found[f"{way}, {task}"] = float(off.max())
        return found


# %% Who races
class Minigrad(Contestant):
    name, package = "minigrad", None

    def prepare(self):
        import minigrad as mg
        from losses import samplers

        key = mg.Key(self.seed)

        def draws(sampler):
            def draw(n):
                self.calls += 1
                return sampler.sample(key.fold(self.calls), n)

            return draw

        counts = 1.0 / np.arange(1.0, self.vocab + 1.0)
        alias, log_uniform = samplers.Unigram(counts, POWER), samplers.LogUniform(self.vocab)
        uniform = samplers.Uniform(self.vocab)
        independent = {
            "alias": draws(alias),
            "inverse CDF": draws(samplers.Unigram(counts, POWER, "cdf")),
            "uniform": draws(uniform),
            "log-uniform": draws(log_uniform),
        }
        distinct = {
            "Unique": draws(samplers.Unique(alias)),
            "Unique, exact": draws(samplers.Unique(alias, exact=True)),
            "Unique of log-uniform": draws(samplers.Unique(log_uniform)),
            "GumbelTopK": draws(samplers.GumbelTopK(counts, POWER)),
        }
        self.declared = {
            "uniform": uniform.probs,
            "log-uniform": log_uniform.probs,
            "Unique of log-uniform": log_uniform.probs,
        }
        return {"step": independent, "bulk": independent, "distinct": distinct}


class NumPy(Contestant):
    name, package = "numpy", "numpy"

    def prepare(self):
        rng, vocab, q = np.random.default_rng(self.seed), self.vocab, self.q
        cdf = np.cumsum(q)
        cdf /= cdf[-1]
        independent = {
            "choice": lambda n: rng.choice(vocab, n, p=q),
            "searchsorted by hand": lambda n: cdf.searchsorted(rng.random(n), side="right"),
        }
        return {
            "step": independent,
            "bulk": independent,
            "distinct": {"choice": lambda n: rng.choice(vocab, n, p=q, replace=False)},
        }


class Torch(Contestant):
    name, package = "torch", "torch"

    def prepare(self):
        import torch

        torch.manual_seed(self.seed)
        q = torch.from_numpy(self.q)
        independent = {"multinomial": lambda n: torch.multinomial(q, n, replacement=True)}
        return {
            "step": independent,
            "bulk": independent,
            "distinct": {"multinomial": lambda n: torch.multinomial(q, n, replacement=False)},
        }


CONTESTANTS = (Minigrad, NumPy, Torch)


# %% All of it
def parser():
    p = common_flags(__doc__, name="samplers", corpus=False)
    p.set_defaults(out=Path("out") / "versus-samplers")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    return p


def raced(race: Race, task: str, many: int, rounds: int, advance) -> dict[str, list[float]]:
    """ "name, way" -> its seconds, round by round, after a round that doesn't count."""
    seconds: dict[str, list[float]] = {}
    for number in range(-1, rounds):
        for name, ways in race.ask("seconds", task=task, many=many).items():
            for way, took in ways.items():
                seconds.setdefault(f"{name}, {way}", []).extend([took] if number >= 0 else [])
        advance()
    return {way: took for way, took in seconds.items() if len(took) == rounds}


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    if args.rounds < 1:
        raise DemoError(f"--rounds must be positive, got {args.rounds}")
    out, rounds = output_folder(args.out), 3 if args.quick else args.rounds
    sizes = [1000, 10_000] if args.quick else [1000, 10_000, 100_000, 1_000_000]
    many, rows, results, worst = MANY // 10 if args.quick else MANY, [], {}, 0.0
    with Race(CONTESTANTS, {"seed": args.seed}) as race:
        with Progress("racing", len(sizes) * len(TASKS) * (rounds + 1), unit="rounds") as bar:
            for vocab in sizes:
                race.ask("begin", vocab=vocab)
                for name, ways in race.ask("deviations").items():
                    for way, sigmas in ways.items():
                        if not sigmas < 6:
                            raise AssertionError(f"{name}, {way}: off by {sigmas:.1f} standard deviations")
                        worst = max(worst, sigmas)
                results[vocab] = {}
                for task in TASKS:
                    seconds = raced(race, task, many, rounds, bar.advance)
                    theirs = seconds.get(RIVAL)
                    for way, took in seconds.items():
                        ratio = theirs and Ratio.of([b / a for a, b in zip(took, theirs, strict=True)])
                        said = None if way == RIVAL or ratio is None else str(ratio)
                        median = float(np.median(took))
                        rows.append(
                            [
                                vocab,
                                task,
                                way,
                                f"{1e6 * median:.3g} µs" if median < 1e-3 else f"{1e3 * median:.3g} ms",
                                said,
                            ]
                        )
                        found = {"seconds": median, "times_as_fast_as_choice": ratio and vars(ratio), "rounds": took}
                        results[vocab].setdefault(task, {})[way] = found
        versions, absent = race.versions, race.absent
    print("\n".join(f"{name}: {library}" for name, library in versions.items()))
    for task, said in TASKS.items():
        chosen = [[row[0], *row[2:]] for row in rows if row[1] == task]
        headers = ["V", "", "a call", "times as fast as numpy's choice"]
        table(f"{said.format(many)}, one core, median of {rounds} rounds", headers, chosen)
    print(f"the most that any frequency is off: {worst:.1f} standard deviations")
    print("".join(f"{name}: {reason}\n" for name, reason in absent.items()), end="")
    report = {"environment": environment(), "versions": versions, "absent": absent, "k": K, "many": many}
    write_json(out / "results.json", {**report, "largest_deviation": worst, "results": results})
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
