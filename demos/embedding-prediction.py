"""Embedding prediction: a language model that says where the next word is, not which one it is.

The slide: "Directly predict embeddings of outputs themselves", with a distance from the right one as the loss;
"specifically: von Mises-Fisher distribution loss" (Kumar and Tsvetkov, ICLR 2019).

    python demos/embedding-prediction.py
    python demos/embedding-prediction.py --outputs softmax cosine vmf-both --words 1000000
    python demos/embedding-prediction.py --corpus text.txt --min-count 2

First every word gets a vector, by skip-gram with negative sampling (losses/skipgram.py). The mean of all is taken off,
each is divided by its length, and from then on they stay as they are. Then small language models are trained to predict
each word from the three before it,

    h = tanh(H [E_1; E_2; E_3] + c)

all alike but for what comes after h: the softmax over all words, or ê = W h + b and a distance from ê to the vector of
the right word (losses/structured/von_mises_fisher.py). They see the same words in the same order, and begin alike. The
word predicted is the one whose score is highest: for all but the softmax, the one whose vector is nearest to ê.

Of sentences that nobody learned from (every twentieth) the table says how often the right word was predicted, and how
often it was among the first five; how many words a second were learned and predicted; how many KB of numbers the output
layer learns (the vectors, which are frozen, come on top; their size is printed), and the mean κ = ‖ê‖ at the end. A
second table has the two claims of the paper's abstract (faster in training, on par in quality) and four more, as found
here. Sentence ends and rare words (<unk>) are not predicted, only seen.

Each kind has a learning rate of its own, chosen by hand. One seed, a small text, a small model: differences below one
percentage point mean nothing (and count as none), and translation, where the paper measures, is another task. With
Ctrl-C the models that are done are shown.

In out/embedding-prediction/: accuracy.png, kappa.png (κ while learning, with each regulariser and without) and
results.json. Takes one to two minutes, on a GPU the skip-gram part still runs on the CPU; --quick about five seconds.

To predict before running; `predict` in results.json has the answers:
    1.  The softmax learns a row for each word, the others none. How many times as many words a second do they learn?
    2.  The plain von Mises-Fisher loss may be as sure as it likes. How large is its κ at the end, with 128 dimensions?
        (Not with --quick, which has 32.)
"""

# %% What we need
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.plots import bars, lines
from _shared.progress import Progress, counted, interruptible
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import keep_probability, subsample
from _shared.text import Text, read_text
from _shared.vocabulary import Tokens
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses import skipgram
from losses.structured.von_mises_fisher import unit_rows
from minigrad import backend
from minigrad.backend import read, type_of_array

BEFORE = 3  # words that are seen
HELD_OUT = 20  # every twentieth sentence
BATCH = 128
POINTS = 40  # of κ, on the way
AT_ONCE = 1024  # words predicted at once
HELD = 0.5  # times the plain loss's κ: what is below was held
NOTHING = 1.0  # percentage points: a smaller difference means nothing


# %% The words' vectors: skip-gram, then divided by their length
def frozen_vectors(text: Text, size: "Size", key: mg.Key, device: str) -> np.ndarray:
    """(V, m), of length 1. The kernel runs on the CPU."""
    mg.set_device("cpu")
    vocab_size, counts = len(text.vocabulary), text.vocabulary.counts
    layer = losses.NegativeSampling(vocab_size, size.dim, counts=counts, key=key.fold(0), k=10, shared=10, bias=False)
    vectors = mg.param((key.fold(1).uniform((vocab_size, size.dim)) - 0.5) / size.dim)
    optimiser = mg.optim.Adagrad([vectors, *layer.parameters()], lr=0.3)
    keep, total = keep_probability(counts, 1e-3), size.epochs * len(text.tokens)
    with Progress("vectors of the words", total) as bar:
        for epoch in range(size.epochs):
            kept = subsample(text.tokens, keep, key.fold(2, epoch))
            n = len(kept)
            reach = mg.to_cpu(key.fold(3, epoch).integers(1, 6, n))
            rates = 0.3 * np.maximum(1.0 - (epoch + np.arange(n) / max(n, 1)) / size.epochs, 1e-4)
            ids, sentence = kept.ids.astype(np.int64), kept.sentence.astype(np.int64)
            for begin in range(0, n, 10_000):
                places = range(begin, min(begin + 10_000, n))
                skipgram.learn(
                    vectors, layer, optimiser, ids, sentence, reach, key.fold(4, epoch, begin), rates, places
                )
                bar.advance(round(len(places) * len(text.tokens) / n))
    found = unit_rows(vectors.data - vectors.data.mean(axis=0))  # what all words share tells none apart
    choose_device(device)
    return found


# %% The text: what is learned, and what is held out
class Examples(NamedTuple):
    contexts: np.ndarray  # (N, BEFORE)
    targets: np.ndarray  # (N,)


def examples(tokens: Tokens, boundary: int) -> Examples:
    """All words but <unk> and the ends of sentences, with those before them."""
    contexts, targets = ngrams(tokens, BEFORE, boundary)
    known = (targets != boundary) & (targets != 0)
    return Examples(contexts[known], targets[known])


def split(text: Text, key: mg.Key) -> tuple[Examples, Examples]:
    """Those to learn from, in random order, and those held out."""
    ids, sentence, boundary = text.tokens.ids, text.tokens.sentence, len(text.vocabulary)
    out = sentence % HELD_OUT == HELD_OUT - 1
    learned, held = (examples(Tokens(ids[here], sentence[here]), boundary) for here in (~out, out))
    if not len(learned.targets) or not len(held.targets):
        raise DemoError(f"{text.name}: expected {HELD_OUT} sentences or more, one a line, of words that occur often")
    order = mg.to_cpu(key.permutation(len(learned.targets)))
    return Examples(learned.contexts[order], learned.targets[order]), held


# %% The outputs
class Kind(NamedTuple):
    says: str
    options: dict | None  # of VonMisesFisher; None: the softmax
    rate: float


PLAIN = {"lambda_1": 0.0, "lambda_2": 1.0}
KINDS = {
    "softmax": Kind("softmax", None, 0.1),
    "cosine": Kind("cosine distance", {"distance": "cosine"}, 0.05),
    "l2": Kind("squared distance", {"distance": "l2"}, 0.0125),
    "margin": Kind("margin", {"distance": "margin"}, 0.05),
    "vmf": Kind("von Mises-Fisher", PLAIN, 0.1),
    "vmf-1": Kind("von Mises-Fisher, λ₁ = 0.02", {**PLAIN, "lambda_1": 0.02}, 0.1),
    "vmf-2": Kind("von Mises-Fisher, λ₂ = 0.1", {**PLAIN, "lambda_2": 0.1}, 0.05),
    "vmf-both": Kind("von Mises-Fisher, both", {}, 0.05),
}
VMF = [name for name in KINDS if name.startswith("vmf")]


class Model:
    """Three words, a hidden layer, and an output of one kind."""

    def __init__(self, name: str, text: Text, vectors: type_of_array, size: "Size", key: mg.Key):
        vocab_size, options = len(text.vocabulary), KINDS[name].options
        self.embedding = mg.param(0.1 * key.fold(0).normal((vocab_size + 1, size.dim)))  # and one for the boundary
        self.hidden = mg.nn.Linear(BEFORE * size.dim, size.hidden, key=key.fold(1))
        shared = {"counts": text.vocabulary.counts, "key": key.fold(2)}
        if options is None:
            self.output = losses.FullSoftmax(vocab_size, size.hidden, **shared)
        else:
            self.output = losses.VonMisesFisher(vocab_size, size.hidden, embeddings=vectors, **shared, **options)
        parameters = [self.embedding, *self.hidden.parameters(), *self.output.parameters()]
        self.optimiser = mg.optim.Adagrad(parameters, lr=KINDS[name].rate)

    def h(self, contexts: type_of_array) -> mg.Tensor:
        """(B, BEFORE) -> (B, hidden)."""
        seen = mg.take(self.embedding, contexts)
        return mg.tanh(self.hidden(seen.reshape((len(contexts), -1))))

    def learn(self, contexts: type_of_array, targets: type_of_array) -> None:
        with backend.quiet():
            self.output.loss(self.h(contexts), targets).backward()
            self.optimiser.step()
        self.optimiser.zero_grad()

    def kappa(self, contexts: type_of_array) -> float:
        """The mean of ‖ê‖."""
        with mg.no_grad():
            predicted = self.output.predicted(self.h(contexts)).data.astype("float64")
        return float(read(((predicted**2).sum(axis=1) ** 0.5).mean()))

    def right(self, held: Examples) -> tuple[float, float, float]:
        """How often the right word is first; among five; and the words/s of looking for the first five."""
        first = among = 0
        backend.synchronize()
        begin = time.perf_counter()
        for i in range(0, len(held.targets), AT_ONCE):
            with mg.no_grad():
                ids, _ = self.output.topk(self.h(held.contexts[i : i + AT_ONCE]), 5)
            hits = mg.to_cpu(ids) == held.targets[i : i + AT_ONCE, None]
            first, among = first + hits[:, 0].sum(), among + hits.sum()
        seconds = time.perf_counter() - begin
        n = len(held.targets)
        return first / n, among / n, n / seconds


# %% Learning
class Size(NamedTuple):
    words: int  # of text
    min_count: int
    dim: int  # of the vectors, and of those of the words seen
    hidden: int
    epochs: int  # of skip-gram
    held_out: int  # words at most


QUICK = Size(8_000, 3, 32, 32, 5, 500)
DEFAULT = Size(250_000, 5, 128, 128, 5, 10_000)


class Stopped(Exception):
    """Ctrl-C was heard."""


def taught(name: str, model: Model, learned: Examples, held: Examples, advance: Callable, stop) -> dict:
    """One pass over the text, the rate falling to zero along a line. κ is looked at between readings of the clock."""
    batches = -(-len(learned.targets) // BATCH)
    marks = sorted({0, batches, *np.geomspace(1, batches, POINTS).astype(int).tolist()})
    seconds, curve, words = 0.0, [], 0
    few = held.contexts[:AT_ONCE]
    for first, last in itertools.pairwise(marks):
        if name in VMF:
            curve.append((words, model.kappa(few)))
        backend.synchronize()
        begin, before = time.perf_counter(), words
        for batch in range(first, last):
            model.optimiser.lr = KINDS[name].rate * (1.0 - batch / batches)
            here = slice(batch * BATCH, (batch + 1) * BATCH)
            model.learn(learned.contexts[here], learned.targets[here])
            words += len(learned.targets[here])
        backend.synchronize()
        seconds += time.perf_counter() - begin
        advance(words - before)
        if stop.requested:
            raise Stopped
    if name in VMF:
        curve.append((words, model.kappa(few)))
    right, among_five, speed = model.right(held)
    return {
        "name": name,
        "says": KINDS[name].says,
        "right": right,
        "among_five": among_five,
        "words_per_second_learning": words / seconds,
        "words_per_second_predicting": speed,
        "bytes_learned": sum(p.data.nbytes for p in model.output.parameters()),
        "rows_in_training": model.output.score_cost(BATCH).train,
        "kappa": curve[-1][1] if curve else None,
        "kappa_curve": curve,
    }


# %% What the numbers say
class Claim(NamedTuple):
    sentence: str
    kinds: tuple[str, ...]  # whose numbers it needs
    measured: str
    numbers: Callable[..., list[float]]
    holds: Callable[..., bool]  # of the numbers


def speeds(*found: dict) -> list[float]:
    return [one["words_per_second_learning"] for one in found]


def rights(*found: dict) -> list[float]:
    return [100 * one["right"] for one in found]


def kappas(*found: dict) -> list[float]:
    return [one["kappa"] for one in found]


CLAIMS = [
    Claim(
        "abstract: faster to learn than a softmax",
        ("vmf-both", "softmax"),
        "words/s: von Mises-Fisher, softmax",
        speeds,
        lambda vmf, softmax: vmf > softmax,
    ),
    Claim(
        "abstract: and on par with it",
        ("vmf-both", "softmax"),
        "% right: von Mises-Fisher with both, softmax",
        rights,
        lambda vmf, softmax: vmf > softmax - NOTHING,
    ),
    Claim(
        "von Mises-Fisher before other distances",
        ("vmf-both", "cosine", "l2", "margin"),
        "% right: with both; cosine, squared, margin",
        rights,
        lambda vmf, *others: vmf > max(others) + NOTHING,
    ),
    Claim(
        "regularised better than plain",
        ("vmf-both", "vmf-1", "vmf-2", "vmf"),
        "% right: both, λ₁, λ₂; plain",
        rights,
        lambda *found: max(found[:-1]) > found[-1] + NOTHING,
    ),
    Claim(
        "λ₂ = 0.1 holds κ, λ₁ = 0.02 hardly",
        ("vmf-2", "vmf-1", "vmf"),
        "κ: λ₂, λ₁, plain",
        kappas,
        lambda held, hardly, plain: held < HELD * plain < hardly,
    ),
    Claim(
        "the margin looks at all words",
        ("margin", "cosine"),
        "words/s: margin, cosine",
        speeds,
        lambda margin, cosine: margin < cosine,
    ),
]


def verdicts(found: dict[str, dict]) -> list[dict]:
    """The claims whose models were trained: what was found, and whether they hold here."""
    told = []
    for claim in CLAIMS:
        if found.keys() >= set(claim.kinds):
            numbers = claim.numbers(*(found[name] for name in claim.kinds))
            told.append(
                {
                    "sentence": claim.sentence,
                    "measured": claim.measured,
                    "numbers": numbers,
                    "holds": claim.holds(*numbers),
                }
            )
    return told


def times(found: dict[str, dict], name: str, other: str, what: str) -> float | None:
    """One number over another; None if one of the models was not asked for."""
    return found[name][what] / found[other][what] if found.keys() >= {name, other} else None


# %% Tables and pictures
def three(number: float | None) -> str | None:
    if number is None:
        return None
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def print_models(found: dict[str, dict], guess: float, held: int) -> None:
    headers = ["output", "right", "among five", "learns, words/s", "predicts, words/s", "KB learned", "rows/word", "κ"]
    rows = [["(always the most frequent word)", f"{100 * guess:.2f} %", *[None] * 6]]
    for one in found.values():
        shares = [f"{100 * one[what]:.2f} %" for what in ("right", "among_five")]
        fast = [three(one[f"words_per_second_{what}"]) for what in ("learning", "predicting")]
        rows.append(
            [
                one["says"],
                *shares,
                *fast,
                round(one["bytes_learned"] / 1000),
                one["rows_in_training"],
                three(one["kappa"]),
            ]
        )
    table(f"The next word, of {held:,} held out", headers, rows)


def pictures(out, found: dict[str, dict], show: bool) -> list[str]:
    """Draw what there is to draw; an older picture that is not drawn again goes, for it shows another run."""
    for name in ("accuracy.png", "kappa.png"):
        (out / name).unlink(missing_ok=True)
    bars(
        out / "accuracy.png",
        "How often the next word is right",
        [one["says"] for one in found.values()],
        rights(*found.values()),
        "%",
        show,
    )
    curves = {KINDS[name].says: found[name]["kappa_curve"] for name in VMF if name in found}
    if not curves:
        return ["accuracy.png"]
    series = {says: tuple(map(list, zip(*curve[1:], strict=True))) for says, curve in curves.items()}  # but for 0
    panel = {
        "series": series,
        "xlabel": "words learned",
        "ylabel": "κ = ‖ê‖, the mean over held-out words",
        "log": "xy",
    }
    lines(out / "kappa.png", "How sure the prediction is", [panel], show)
    return ["accuracy.png", "kappa.png"]


# %% All of it
def parser():
    p = common_flags(__doc__, name="embedding-prediction")
    p.add_argument("--outputs", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    p.add_argument(
        "--words", type=int, metavar="N", help=f"of the text (default {DEFAULT.words:,}), in whole sentences"
    )
    p.add_argument("--min-count", type=int, metavar="N", help=f"rarer words are <unk> (default {DEFAULT.min_count})")
    return p


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    size = QUICK if args.quick else DEFAULT
    for name in ("words", "min_count"):
        if (given := getattr(args, name)) is not None:
            if given < 1:
                raise DemoError(f"--{name.replace('_', '-')} must be 1 or more, got {given}")
            size = size._replace(**{name: given})
    choose_device(args.device)
    out, key, found = output_folder(args.out), mg.Key(args.seed), {}
    names = [name for name in KINDS if name in args.outputs]

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, size.min_count, limit_words=size.words, progress=progress)
    print(f"{text.describe()}\n{len(text.vocabulary) - 1:,} words occur {size.min_count} times or more")
    learned, held = split(text, key.fold(1))
    held = Examples(held.contexts[: size.held_out], held.targets[: size.held_out])
    guess = float((held.targets == np.bincount(learned.targets).argmax()).mean())
    vectors = frozen_vectors(text, size, key.fold(0), args.device)
    frozen = vectors.nbytes
    with interruptible("the model under way is dropped, those done are shown") as stop:
        try:
            with Progress("language models", len(names) * len(learned.targets)) as bar:
                for name in names:
                    model = Model(name, text, vectors, size, key.fold(2))
                    found[name] = taught(name, model, learned, held, bar.advance, stop)
        except Stopped:
            if not found:
                raise DemoError("stopped before the first model was done: there is nothing to show") from None
            print(f"stopped early: {len(found)} of {len(names)} models done, and shown")

    print_models(found, guess, len(held.targets))
    print(
        f"the vectors, frozen, are {frozen / 1000:,.0f} KB: {len(vectors):,} words, {vectors.shape[1]} numbers each\n"
    )
    said = verdicts(found)
    if said:
        rows = [[row["sentence"], row["holds"], row["measured"], ", ".join(map(three, row["numbers"]))] for row in said]
        table("The paper, as found here", ["they say", "holds", "measured", "numbers"], rows)
    files = pictures(out, found, args.show)
    write_json(
        out / "results.json",
        {
            "environment": environment(),
            "arguments": vars(args),
            "size": size._asdict(),
            "text": {"name": text.name, "words": len(text.tokens), "sha256": text.sha256},
            "vocab_size": len(text.vocabulary),
            "most_frequent_word_is_right": guess,
            "held_out_words": len(held.targets),
            "learned_words": len(learned.targets),
            "bytes_frozen": frozen,
            "outputs": list(found.values()),
            "stopped_early": len(found) < len(names),
            "verdicts": said,
            "predict": {
                "words_per_second_of_von_mises_fisher_over_those_of_the_softmax": times(
                    found, "vmf-both", "softmax", "words_per_second_learning"
                ),
                "kappa_of_the_plain_loss": found["vmf"]["kappa"] if "vmf" in found else None,
            },
        },
    )
    print(f"in {out}: {', '.join([*files, 'results.json'])}")


if __name__ == "__main__":
    run_demo(main)
