"""The n-gram language model of `nn-1m.py` beside PyTorch's: words/s, and what was learned. Each in its own process.

    python demos/versus/language_model.py

The model guesses a word from the two before it: an embedding table of 128 numbers for each of the 6,000 most frequent
words of the built-in corpus, a hidden layer of 128 with tanh, and the exact softmax; mini-batches of 64 words, Adam.
Two races on one core. In the first only the rows of the table that a batch looks up are updated: this project as it
is, PyTorch with `nn.Embedding(sparse=True)` and `SparseAdam` beside an `Adam` for the other weights, and once more with
its fused kernel for the latter. In the second all rows are updated: this project with `lazy=False`, PyTorch as it is.
(That is another algorithm: a row goes on by its momentum when its word doesn't occur.)

All begin with the same weights and see the same words in the same order. First the losses of twenty updates must be the
same, and then, after many more, the perplexity of sentences that were held out, to a thousandth. Takes about a minute
and a half; needs `pip install 'minigrad[versus]'`.
"""

# %% What we need
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.progress import Progress, counted
from _shared.race import Race
from _shared.report import environment, table, write_json
from _shared.text import read_text
from _shared.vocabulary import Tokens

BEFORE, DIM, HIDDEN, BATCH, LR = 2, 128, 128, 64, 1e-3
HELD_OUT = 20  # every so many sentences one that nobody learns


# %% What all begin with, and do
class Contestant:
    """begin() anew, learn(updates) from there on, losses(updates) and perplexity() of what was held out. In float32."""

    def __init__(self, contexts, targets, held_out, weights):
        self.contexts, self.targets, self.held_out, self.weights = contexts, targets, held_out, weights
        self.prepare()
        self.begin()

    def begin(self) -> None:
        self.load(self.weights)
        self.at = 0

    def learn(self, updates: int) -> float:
        """The loss of the last of so many updates; after the last batch comes the first."""
        for _ in range(updates):
            loss = self.update(self.contexts[self.at], self.targets[self.at])
            self.at = (self.at + 1) % len(self.contexts)
        return loss.item()

    def losses(self, updates: int) -> list:
        return [[self.learn(1) for _ in range(updates)]]

    def perplexity(self) -> float:
        contexts, targets = self.held_out
        parts = range(0, len(targets), 512)
        return math.exp(sum(self.loss_of(contexts[i : i + 512], targets[i : i + 512]) for i in parts) / len(targets))


# %% minigrad
class Minigrad(Contestant):
    name, package, lazy = "minigrad", None, True

    def prepare(self) -> None:
        import minigrad as mg

        class Model(mg.nn.Module):
            def __init__(self, vocab: int, key: mg.Key):
                self.embedding = mg.nn.Embedding(vocab, DIM, key=key)
                self.hidden = mg.nn.Linear(BEFORE * DIM, HIDDEN, key=key)
                self.output = mg.nn.Linear(HIDDEN, vocab, key=key)

            def forward(self, contexts):
                x = self.embedding(contexts).reshape(len(contexts), -1)
                return self.output(mg.tanh(self.hidden(x)))

        self.mg, self.model = mg, Model(len(self.weights["embedding.weight"]), mg.Key(0))
        self.criterion = mg.nn.CrossEntropyLoss()

    def load(self, weights) -> None:
        self.model.load_state_dict(weights)
        self.optimiser = self.mg.optim.Adam(self.model.parameters(), lr=LR, lazy=self.lazy)

    def update(self, contexts, targets):
        loss = self.criterion(self.model(contexts), targets)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss

    def loss_of(self, contexts, targets) -> float:
        with self.mg.no_grad():
            return self.criterion(self.model(contexts), targets).item() * len(targets)


class MinigradDense(Minigrad):
    name, lazy = "minigrad, lazy=False", False


# %% PyTorch
class Torch(Contestant):
    name, package = "torch, SparseAdam + Adam", "torch"
    sparse, fused = True, False

    def prepare(self) -> None:
        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self, vocab: int, sparse: bool):
                super().__init__()
                self.embedding = nn.Embedding(vocab, DIM, sparse=sparse)
                self.hidden = nn.Linear(BEFORE * DIM, HIDDEN)
                self.output = nn.Linear(HIDDEN, vocab)

            def forward(self, contexts):
                x = self.embedding(contexts).reshape(len(contexts), -1)
                return self.output(torch.tanh(self.hidden(x)))

        self.torch, self.model = torch, Model(len(self.weights["embedding.weight"]), self.sparse)
        self.criterion = nn.CrossEntropyLoss()
        self.contexts, self.targets = torch.from_numpy(self.contexts), torch.from_numpy(self.targets)
        self.held_out = list(map(torch.from_numpy, self.held_out))

    def load(self, weights) -> None:
        self.model.load_state_dict({name: self.torch.tensor(array) for name, array in weights.items()})
        table, *others = self.model.parameters()
        optim, how = self.torch.optim, {"fused": True} if self.fused else {}
        self.optimisers = [optim.SparseAdam([table], lr=LR)] if self.sparse else []
        self.optimisers.append(optim.Adam(others if self.sparse else [table, *others], lr=LR, **how))

    def update(self, contexts, targets):
        loss = self.criterion(self.model(contexts), targets)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        return loss

    def loss_of(self, contexts, targets) -> float:
        with self.torch.no_grad():
            return self.criterion(self.model(contexts), targets).item() * len(targets)


class TorchFused(Torch):
    name, fused = "torch, SparseAdam + fused Adam", True


class TorchDense(Torch):
    name, sparse = "torch, Adam", False


RACES = {
    "Adam on the rows that were looked up": (Minigrad, Torch, TorchFused),
    "Adam on all rows": (MinigradDense, TorchDense),
}


# %% The text in mini-batches, and what is held out
def prepared(corpus, vocab: int, updates: int, limit: int | None, rng: np.random.Generator):
    """The text's description, contexts (updates, B, n), targets (updates, B), and those held out."""
    reading = ("reading docstrings", "files") if corpus is None else (f"reading {corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(corpus, 1, max_size=vocab - 1, limit_words=limit, progress=progress)
    boundary, (ids, sentence) = len(text.vocabulary), (text.tokens.ids, text.tokens.sentence)
    out = sentence % HELD_OUT == HELD_OUT - 1
    held_out = ngrams(Tokens(ids[out], sentence[out]), BEFORE, boundary)
    contexts, targets = ngrams(Tokens(ids[~out], sentence[~out]), BEFORE, boundary)
    if not len(held_out[1]) or len(targets) < BATCH:
        expected = f"expected {HELD_OUT} sentences or more, one a line, and {BATCH} words to learn"
        raise DemoError(f"{text.name}: there is too little to learn: {expected}")
    order = rng.permutation(len(targets))[: min(updates, len(targets) // BATCH) * BATCH]
    return text, contexts[order].reshape(-1, BATCH, BEFORE), targets[order].reshape(-1, BATCH), held_out


def beginning(vocab: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The weights that all begin with."""

    def layer(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
        weight = rng.uniform(-1, 1, (outputs, inputs)) / math.sqrt(inputs)
        return {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": np.zeros(outputs, np.float32)}

    table = rng.standard_normal((vocab, DIM), np.float32)
    return {"embedding.weight": table, **layer("hidden", HIDDEN, BEFORE * DIM), **layer("output", vocab, HIDDEN)}


# %% All of it
def parser():
    p = common_flags(__doc__, name="language_model")
    p.set_defaults(out=Path("out") / "versus-language_model")
    p.add_argument("--vocab", type=int, default=6000, metavar="V", help="the most frequent words (default 6000)")
    p.add_argument("--rounds", type=int, default=11, help="rounds, each contestant once in each (default 11)")
    p.add_argument("--updates", type=int, default=1000, help="updates before the perplexity (default 1000)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    for flag, least in {"vocab": 4, "rounds": 1, "updates": 1}.items():
        if getattr(args, flag) < least:
            raise DemoError(f"--{flag} must be at least {least}, got {getattr(args, flag)}")
    out = output_folder(args.out)
    rounds, number, updates = (3, 5, 50) if args.quick else (args.rounds, 40, args.updates)
    rng = np.random.default_rng(args.seed)
    text, contexts, targets, held_out = prepared(args.corpus, args.vocab, updates, 20_000 if args.quick else None, rng)
    vocab = len(text.vocabulary) + 1
    print(f"{text.describe()}\n{vocab:,} ids, {len(held_out[1]):,} words held out", flush=True)
    setup = {"contexts": contexts, "targets": targets, "held_out": held_out, "weights": beginning(vocab, rng)}
    results = {"environment": environment(), "corpus": text.describe(), "vocab_size": vocab, "updates": updates}
    results |= {"words_per_round": number * BATCH, "versions": {}, "absent": {}, "races": {}}

    races = {title: RACES[title][:2] for title in list(RACES)[:1]} if args.quick else RACES
    for title, contestants in races.items():
        with Race(contestants, setup, threads=1) as race:
            differ = race.agree("losses", tolerance=1e-3, updates=20)
            print(f"{title}: the losses of 20 updates differ by {differ:.1g} at most", flush=True)
            with Progress("racing", (rounds + 1) * len(race.names), unit="turns") as bar:
                times = race.run("learn", rounds=rounds, advance=bar.advance, updates=number)
            race.ask("begin")
            with Progress("learning", updates, unit="updates") as bar:
                while bar.done < updates:
                    race.ask("learn", updates=min(50, updates - bar.done))
                    bar.advance(min(50, updates - bar.done))
            perplexities = race.ask("perplexity")
            results["versions"] |= race.versions
            results["absent"] |= race.absent
        ours, rows, found = contestants[0].name, [], {}
        for name in times.seconds:
            off = perplexities[name] / perplexities[ours] - 1
            if not abs(off) <= 1e-3:
                raise AssertionError(f"{ours} and {name} have learned different things: perplexities {perplexities}")
            speed, ratio = number * BATCH / times.median(name), times.ratio(name, ours)
            rows.append([name, speed, None if name == ours else str(ratio), perplexities[name], f"{off:+.4%}"])
            found[name] = {"words_per_second": speed, "time_over_ours": vars(ratio), "perplexity": perplexities[name]}
        table(
            f"{title}, one core",
            ["", "words/s", "time over ours", f"perplexity, {updates:,} updates", "off ours"],
            rows,
        )
        results["races"][title] = {"contestants": found, "losses_differ_by": differ, "seconds": dict(times.seconds)}
    print("".join(f"{name}: {library}\n" for name, library in results["versions"].items()), end="")
    print("".join(f"{name}: {reason}\n" for name, reason in results["absent"].items()), end="")
    print(f"time over ours: in the same round, median of {rounds}, and the interval of that median")
    write_json(out / "results.json", results)
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
