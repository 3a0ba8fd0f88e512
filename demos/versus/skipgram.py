"""Skip-gram with negative sampling in mini-batches: this project's engine beside PyTorch, in one process, on one core.

    python demos/versus/skipgram.py

Both take the same pairs of the built-in corpus in the same batches (1,024 pairs; 128 numbers a vector, window 2, 3
negatives a pair), with automatic differentiation and SGD: this project as on the demo's rung `--how minibatch`,
PyTorch as at the end of `losses/sampled/negative.py`, with `nn.Embedding(sparse=True)`. First both learn
from the same noise, and must arrive at the same vectors. Then they take turns, round by round; this project draws its
noise within the time, PyTorch gets it for nothing. What counts is the ratio within a round: a machine that is busy is
busy for both. Takes some ten seconds; needs `pip install 'minigrad[versus]'`.
"""

# %% One thread for everybody, said before the libraries are loaded; no settings that slow one library down
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _shared.corpus import load_corpus
from _shared.errors import DemoError
from _shared.flags import common_flags, output_folder, run_demo
from _shared.progress import counted
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import skipgram_pairs
from _shared.vocabulary import Vocabulary

import losses
import minigrad as mg

DIM, WINDOW, NEGATIVES, BATCH, LR = 128, 2, 3, 1024, 0.025


# %% The two of them: learn(centres, contexts, noise) does one update
class Minigrad:
    name = f"minigrad {mg.__version__}"

    def __init__(self, counts: np.ndarray, vectors: np.ndarray, outputs: np.ndarray):
        self.layer = losses.NegativeSampling(len(counts), DIM, counts=counts, key=mg.Key(0), k=NEGATIVES, bias=False)
        self.layer.weight.data = outputs.copy()
        self.vectors = mg.param(vectors)
        self.optimiser = mg.optim.SGD([self.vectors, self.layer.weight], lr=LR)

    def noise(self, key: mg.Key, steps: int, given: np.ndarray) -> np.ndarray:
        return self.layer.draw(key, BATCH, steps)

    def learn(self, centres, contexts, noise) -> None:
        hidden = mg.take(self.vectors, centres)
        self.layer.loss(hidden, contexts, noise=noise, reduction="sum").backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def weights(self) -> list[np.ndarray]:
        return [self.vectors.numpy(), self.layer.weight.numpy()]


class Torch:
    def __init__(self, counts: np.ndarray, vectors: np.ndarray, outputs: np.ndarray):
        import torch

        self.name, self.torch = f"torch {torch.__version__}, sparse=True", torch
        torch.set_num_threads(1)
        self.vectors = torch.nn.Embedding.from_pretrained(torch.tensor(vectors), freeze=False, sparse=True)
        self.outputs = torch.nn.Embedding.from_pretrained(torch.tensor(outputs), freeze=False, sparse=True)
        self.optimiser = torch.optim.SGD([self.vectors.weight, self.outputs.weight], lr=LR)

    def noise(self, key: mg.Key, steps: int, given: np.ndarray):
        return given

    def learn(self, centres, contexts, noise) -> None:
        torch, logsigmoid = self.torch, self.torch.nn.functional.logsigmoid
        centres, contexts, noise = map(torch.from_numpy, (centres, contexts, noise))  # no copies
        hidden = self.vectors(centres)  # (B, d)
        rows = self.outputs(torch.cat([contexts[:, None], noise], dim=1))  # (B, 1 + k, d)
        scores = torch.bmm(rows, hidden[:, :, None])[:, :, 0]  # (B, 1 + k)
        loss = -logsigmoid(scores[:, 0]).sum() - logsigmoid(-scores[:, 1:]).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def weights(self) -> list[np.ndarray]:
        return [self.vectors.weight.detach().numpy(), self.outputs.weight.detach().numpy()]


# %% All of it
def parser():
    p = common_flags(__doc__, name="skipgram")
    p.set_defaults(out=Path("out") / "versus-skipgram")
    p.add_argument("--rounds", type=int, default=9, help="rounds, each rival once in each (default 9)")
    return p


def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.device != "cpu":
        raise DemoError("this race is between CPUs: leave out --device")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DemoError("there is no rival: pip install torch") from None
    out = output_folder(args.out)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    steps, rounds = (10, 3) if args.quick else (100, args.rounds)

    with counted("reading docstrings", "files") as progress:
        corpus = load_corpus(args.corpus, limit_words=60_000 if args.quick else None, progress=progress)
    vocabulary = Vocabulary.from_sentences(corpus.sentences, 5)
    tokens = vocabulary.encode(corpus.sentences)
    centres, contexts = skipgram_pairs(tokens, WINDOW)
    pairs_per_word = len(centres) / len(tokens)
    order = np.random.default_rng(args.seed).permutation(len(centres))[: steps * BATCH]
    if len(order) < steps * BATCH:
        raise DemoError(f"the text has {len(centres):,} pairs; {steps * BATCH:,} are needed")
    centres, contexts = (ids[order].reshape(steps, BATCH).astype(np.int64) for ids in (centres, contexts))

    key, size = mg.Key(args.seed), (len(vocabulary), DIM)
    start = [(key.fold(i).uniform(size) - 0.5) / DIM for i in range(2)]
    rivals = [rival(vocabulary.counts, *start) for rival in (Minigrad, Torch)]
    given = rivals[0].layer.draw(key, BATCH, steps)

    for rival in rivals:  # the warm-up is the proof: the same noise, the same vectors
        for step in range(min(steps, 20)):
            rival.learn(centres[step], contexts[step], given[step])
    difference = max(abs(a - b).max() for a, b in zip(rivals[0].weights(), rivals[1].weights(), strict=True))
    if not difference < 1e-5:
        raise AssertionError(f"the rivals learned different vectors: they differ by {difference}")

    seconds = {rival.name: [] for rival in rivals}
    for number in range(rounds):
        for rival in rivals if number % 2 else rivals[::-1]:
            begin = time.perf_counter()
            noise = rival.noise(key.fold(9, number), steps, given)
            for step in range(steps):
                rival.learn(centres[step], contexts[step], noise[step])
            seconds[rival.name].append(time.perf_counter() - begin)

    ours, theirs = seconds.values()
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    words = steps * BATCH / pairs_per_word
    rows = [[name, words / statistics.median(t), steps * BATCH / statistics.median(t)] for name, t in seconds.items()]
    print(f"{corpus.describe()}; {pairs_per_word:.2f} pairs a word; vectors equal to {difference:.1e}")
    table("Skip-gram in mini-batches, one core, median of the rounds", ["", "words/s", "pairs/s"], rows)
    ratio = statistics.median(ratios)
    print(f"minigrad does {ratio:.2f} × the words of torch ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)")
    results = {"environment": environment(), "corpus": corpus.describe(), "vectors_differ_by": float(difference)}
    results |= {"seconds": seconds, "words_per_round": words, "ratio_median": ratio, "ratios": ratios}
    write_json(out / "results.json", results)


if __name__ == "__main__":
    run_demo(main)
