"""Skip-gram with negative sampling beside PyTorch and gensim: words/s, and what was learned. Each in its own process.

    python demos/versus/skipgram.py

Two races over the built-in corpus (128 numbers a vector, window 2, 3 negatives a pair, SGD). In mini-batches of
1,024 pairs, with automatic differentiation: this project as on the demo's rung `--how minibatch`, PyTorch as at the
end of `losses/sampled/negative.py`, with `nn.Embedding(sparse=True)`; first both learn from the same noise, and must
arrive at the same vectors; then this project draws its noise within the time, and PyTorch gets it for nothing. And
word by word: the kernel of `losses/skipgram.py` beside gensim's Word2Vec (sg=1, full windows, no subsampling), whole
epochs, noise drawn within the time, on one core, and where there are two, with two threads beside two workers.
Last, both learn five epochs anew, and the loss of the pairs of sentences that neither has seen, with the same noise,
says whether the faster one learns less. Takes about a minute; needs `pip install 'minigrad[versus]'`.
"""

# %% What we need
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import counted
from _shared.race import Race
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import skipgram_pairs
from _shared.text import read_text
from _shared.vocabulary import Tokens

import losses
import minigrad as mg
from losses import skipgram

DIM, WINDOW, NEGATIVES, BATCH, LR = 128, 2, 3, 1024, 0.025
HELD_OUT = 20  # every so many sentences one that nobody learns


# %% In mini-batches: learn(steps) does so many updates
class MinigradBatches:
    name, package = "minigrad, autodiff", None

    def __init__(self, centres, contexts, noise, counts, start):
        self.layer = losses.NegativeSampling(len(counts), DIM, counts=counts, key=mg.Key(0), k=NEGATIVES, bias=False)
        self.vectors, self.layer.weight.data = mg.param(start[0]), start[1].copy()
        self.optimiser = mg.optim.SGD([self.vectors, self.layer.weight], lr=LR)
        self.centres, self.contexts, self.given, self.rounds = centres, contexts, noise, 0

    def learn(self, steps: int) -> None:
        self.rounds += 1
        self.updates(self.layer.draw(mg.Key(self.rounds), BATCH, steps))

    def updates(self, noise) -> None:
        for centres, contexts, drawn in zip(self.centres, self.contexts, noise, strict=False):
            hidden = mg.take(self.vectors, centres)
            self.layer.loss(hidden, contexts, noise=drawn, reduction="sum").backward()
            self.optimiser.step()
            self.optimiser.zero_grad()

    def vectors_from_the_same_noise(self) -> list:
        self.updates(self.given[:20])
        return [self.vectors.numpy(), self.layer.weight.numpy()]


class TorchBatches:
    name, package = "torch, sparse=True", "torch"

    def __init__(self, centres, contexts, noise, counts, start):
        import torch

        self.torch, self.logsigmoid = torch, torch.nn.functional.logsigmoid
        self.vectors, self.outputs = (
            torch.nn.Embedding.from_pretrained(torch.tensor(table), freeze=False, sparse=True) for table in start
        )
        self.optimiser = torch.optim.SGD([self.vectors.weight, self.outputs.weight], lr=LR)
        self.batches = [list(map(torch.from_numpy, batch)) for batch in zip(centres, contexts, noise, strict=True)]

    def learn(self, steps: int) -> None:
        for centres, contexts, noise in self.batches[:steps]:
            hidden = self.vectors(centres)  # (B, d)
            rows = self.outputs(self.torch.cat([contexts[:, None], noise], dim=1))  # (B, 1 + k, d)
            scores = self.torch.bmm(rows, hidden[:, :, None])[:, :, 0]  # (B, 1 + k)
            loss = -self.logsigmoid(scores[:, 0]).sum() - self.logsigmoid(-scores[:, 1:]).sum()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def vectors_from_the_same_noise(self) -> list:
        self.learn(20)
        return [self.vectors.weight.detach().numpy(), self.outputs.weight.detach().numpy()]


# %% Word by word: epoch() learns the whole text once, held_out(epochs) -> the loss of what was held out
class MinigradKernel:
    name, package = "minigrad, kernel", None

    def __init__(self, tokens, counts, held_out, threads):
        self.tokens, self.counts, self.held_out_pairs, self.threads = tokens, counts, held_out, threads
        self.begin()

    def begin(self) -> None:
        size, key = (len(self.counts), DIM), mg.Key(1)
        self.layer = losses.NegativeSampling(
            *size, counts=self.counts, key=key.fold(0), k=NEGATIVES, shared=NEGATIVES, bias=False
        )
        self.vectors = mg.param((key.fold(1).uniform(size) - 0.5) / DIM)
        self.layer.weight.data = np.zeros(size, np.float32)
        self.optimiser, self.epochs = mg.optim.SGD([self.vectors, self.layer.weight], lr=LR), 0

    def epoch(self, rates=None) -> None:
        ids, sentence = self.tokens
        rates = np.full(len(ids), LR) if rates is None else rates
        self.epochs += 1
        text = ids, sentence, np.full(len(ids), WINDOW)
        model = self.vectors, self.layer, self.optimiser
        skipgram.learn(*model, *text, mg.Key(self.epochs), rates, threads=self.threads)

    def held_out(self, epochs: int) -> float:
        self.begin()
        for rates in np.array_split(np.linspace(LR, LR * 1e-4, epochs * len(self.tokens[0])), epochs):
            self.epoch(rates)
        return skipgram.held_out_loss(self.vectors.data, self.layer.weight.data, *self.held_out_pairs)


class Gensim:
    name, package = "gensim", "gensim"

    def __init__(self, tokens, counts, held_out, threads):
        ids, sentence = tokens
        ends = np.flatnonzero(np.diff(sentence)) + 1
        self.sentences = [list(map(str, words)) for words in np.split(ids, ends)]
        self.counts, self.held_out_pairs, self.threads = counts, held_out, threads
        self.begin()

    def begin(self) -> None:
        from gensim.models import Word2Vec

        how = dict(sg=1, hs=0, negative=NEGATIVES, window=WINDOW, shrink_windows=False, sample=0, min_count=1)
        self.model = Word2Vec(vector_size=DIM, workers=self.threads, alpha=LR, seed=1, **how)
        self.model.build_vocab(self.sentences)

    def epoch(self, epochs: int = 1, last: float = LR) -> None:
        self.model.train(
            self.sentences, total_examples=len(self.sentences), epochs=epochs, start_alpha=LR, end_alpha=last
        )

    def held_out(self, epochs: int) -> float:
        self.begin()
        self.epoch(epochs, LR * 1e-4)
        vectors, outputs = np.zeros((2, len(self.counts), DIM), np.float32)
        words = np.array(self.model.wv.index_to_key, np.int64)
        vectors[words], outputs[words] = self.model.wv.vectors, self.model.syn1neg
        return skipgram.held_out_loss(vectors, outputs, *self.held_out_pairs)


# %% The text: what is learned, and what is held out
def divided(tokens: Tokens, size: int, key: mg.Key):
    """(ids, sentence) to learn, the counts of these, and pairs with noise of the other sentences."""
    out = tokens.sentence % HELD_OUT == HELD_OUT - 1
    ids, sentence = tokens.ids[~out].astype(np.int64), tokens.sentence[~out].astype(np.int64)
    counts = np.bincount(ids, minlength=size)
    centres, contexts = skipgram_pairs(Tokens(tokens.ids[out], tokens.sentence[out]), WINDOW)
    known = (counts[centres] > 0) & (counts[contexts] > 0)  # gensim knows no others
    centres, contexts = centres[known].astype(np.int64), contexts[known].astype(np.int64)
    sampler = losses.NegativeSampling(size, 1, counts=counts, key=key, bias=False).sampler
    return (ids, sentence), counts, (centres, contexts, sampler.sample(key, (len(centres), NEGATIVES)))


# %% All of it
def parser():
    p = common_flags(__doc__, name="skipgram")
    p.set_defaults(out=Path("out") / "versus-skipgram")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each (default 9)")
    p.add_argument("--epochs", type=int, default=5, help="epochs before the loss of what was held out (default 5)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    for flag in ("rounds", "epochs"):
        if getattr(args, flag) < 1:
            raise DemoError(f"--{flag} must be positive, got {getattr(args, flag)}")
    out = output_folder(args.out)
    steps, rounds, epochs = (20, 3, 1) if args.quick else (100, args.rounds, args.epochs)
    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, min_count=1, limit_words=60_000 if args.quick else None, progress=progress)
    print(text.describe(), flush=True)
    key = mg.Key(args.seed)
    results = {"environment": environment(), "corpus": text.describe(), "versions": {}, "absent": {}, "races": {}}

    def race(title: str, contestants, setup, threads, method, words, proof=None, last=None, **arguments):
        """One race and its table; a rival alone is no reason to end, the next race may have another."""
        try:
            with Race(contestants, setup, threads=threads) as runners:
                differ = runners.agree(proof, tolerance=1e-5) if proof else None
                times = runners.run(method, rounds=rounds, **arguments)
                losses_held_out = runners.ask("held_out", epochs=last) if last else {}
                results["versions"] |= runners.versions
        except DemoError as error:
            print(f"{title}: {error}", flush=True)
            results["absent"][title] = str(error)
            return
        (ours, *_), rows, found = times.seconds, [], {}
        for name in times.seconds:
            ratio = times.ratio(name, ours)
            rows.append([name, words / times.median(name), None if name == ours else str(ratio)])
            rows[-1] += [losses_held_out.get(name)] if last else []
            found[name] = {"words_per_second": words / times.median(name), "time_over_ours": vars(ratio)}
            found[name] |= {"held_out_loss": losses_held_out[name]} if last else {}
        table(title, ["", "words/s", "time over ours", *["held-out loss"] * bool(last)], rows)
        more = {"vectors_differ_by": differ, "seconds": dict(times.seconds), "words_per_round": words}
        results["races"][title] = {"contestants": found, "threads": threads, **more}

    frequent = read_text(args.corpus, min_count=5, limit_words=60_000 if args.quick else None)
    centres, contexts = skipgram_pairs(frequent.tokens, WINDOW)
    pairs_per_word, needed = len(centres) / len(frequent.tokens), steps * BATCH
    if len(centres) < needed:
        raise DemoError(f"the text has {len(centres):,} pairs; {needed:,} are needed")
    order = np.random.default_rng(args.seed).permutation(len(centres))[:needed]
    centres, contexts = (ids[order].reshape(steps, BATCH).astype(np.int64) for ids in (centres, contexts))
    counts = frequent.vocabulary.counts
    start = [(key.fold(i).uniform((len(counts), DIM)) - 0.5) / DIM for i in range(2)]
    layer = losses.NegativeSampling(len(counts), DIM, counts=counts, key=key, k=NEGATIVES, bias=False)
    batches = {"centres": centres, "contexts": contexts, "noise": layer.draw(key, BATCH, steps)}
    race(
        f"In mini-batches of {BATCH:,} pairs, with automatic differentiation, one core",
        (MinigradBatches, TorchBatches),
        {**batches, "counts": counts, "start": start},
        threads=1,
        method="learn",
        steps=steps,
        words=needed / pairs_per_word,
        proof="vectors_from_the_same_noise",
    )
    tokens, counts, held_out = divided(text.tokens, len(text.vocabulary), key)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for threads in [1, 2][: 1 if args.quick else cores]:
        race(
            f"Word by word, {'one core' if threads == 1 else 'two cores'}",
            (MinigradKernel, Gensim),
            {"tokens": tokens, "counts": counts, "held_out": held_out, "threads": threads},
            threads=threads,
            method="epoch",
            words=len(tokens[0]),
            last=epochs,
        )
    if not results["races"]:
        raise DemoError("there is no race: pip install torch gensim")
    print("".join(f"{name}: {library}\n" for name, library in results["versions"].items()), end="")
    print(f"time over ours: in the same round, median of {rounds}, and the interval of that median")
    write_json(out / "results.json", results)
    print(f"in {out}: results.json")


if __name__ == "__main__":
    run_demo(main)
