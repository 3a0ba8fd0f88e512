"""A million words, one sentence at a time: the first slide's nn-1m.py, and how to be done sooner.

The slide, "Glamorous Life of an AI Scientist: Perception, Reality", shows a program that says `--finished 500
sentences`, then `--finished 1000 sentences`, and so on, for a long time. Here is such a program, and then the lecture.

    python demos/nn-1m.py
    python demos/nn-1m.py --full
    python demos/nn-1m.py --full --how batch
    python demos/nn-1m.py --corpus text.txt --before 3

The model (Bengio, Ducharme, Vincent, Jauvin, "A Neural Probabilistic Language Model", JMLR 2003) guesses each word of
a sentence, and its end, from the n words before it:

    x = [E_u, E_v]          the rows of an embedding table for these words, one behind the other: (n d,)       (1)
    h = tanh(H x + b)       a hidden layer: (m,)                                                               (2)
    L = −log P(w | u, v),   P = softmax(W h + c)    over all V words of the vocabulary                         (3)

The loss of a sentence is the sum of (3) over its words. The command climbs a ladder; each rung is the one before it and
one thing more that the lecture says:

    word        the slide's program: for one word after the other the graph (1) to (3); an update after each sentence
    once        trick 1, don't repeat operations: a word is looked up once, though it stands before n others
    sentence    trick 2, fewer operations: what stands before the words of a sentence is one matrix, a layer one product
    batch       mini-batches: so for the words of many sentences, and one update for all of them
    negative    negative sampling (losses/sampled/negative.py): (3) asks of all V words, this of a few that are drawn
    rows        nothing needless over big pieces of data: the gradient of E is the rows that were looked up, where until
                now it was all V of them, nearly all zero

The updates of `word`, `once` and `sentence` are the same but for rounding. `batch` has the same loss, and updates less
often. `negative` has another loss, from which probabilities can be had (its step (6)), and `rows` has the updates of
`negative`. Each rung learns for a few seconds, after a warm-up, and says when a million words would be done at this
speed, which is an extrapolation. (The end of a sentence is guessed like a word, and counts as one.) It takes turns with
the rung before it, and how many times as fast it is, is the median over the turns: for a machine that is busy is so for
both. Beside the speed stands how many operations a word takes, counted on the tape, there and back.

--full then learns the million words, by `rows` unless --how says otherwise; a shorter text is read again. It tells the
true time beside the estimate, and the perplexity, exp of the mean of (3), of sentences that were held out. Ctrl-C stops
early and keeps what was learned. In out/nn-1m/: estimates.png, results.json, and of --full model.npz. Takes a minute,
--full half a minute more (by a slower rung, as long as that rung's estimate says), --quick under ten seconds.

Before you run it: trick 1 saves one look-up of two; what part of the time is that? And negative sampling does more
operations a word than the rung before it: does it take more time?
"""

# %% What we need
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count, islice
from statistics import median

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.plots import bars
from _shared.progress import Progress, counted, interruptible
from _shared.report import environment, table, write_json
from _shared.text import Text, read_text
from _shared.vocabulary import Tokens
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from minigrad.tape import watching

HELD_OUT = 20  # every so many sentences one that nobody learns
WARM_UP = 10  # updates before the clock runs
TURNS = 5  # of a rung, and as many of the one before
BLOCK = 100  # batches for which noise is drawn at once


# %% The text: what is learned, and what is held out
@dataclass
class Data:
    """Words with those before them; sentences in random order. ends[i]: how many words there are to the i-th's end."""

    contexts: np.ndarray  # (N, n)
    targets: np.ndarray  # (N,)
    ends: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]  # contexts and targets
    vocab_size: int  # with the boundary between two sentences, the last id

    @classmethod
    def of(cls, text: Text, before: int, key: mg.Key) -> "Data":
        boundary, (ids, sentence) = len(text.vocabulary), (text.tokens.ids, text.tokens.sentence)
        sentences = int(sentence[-1]) + 1
        if sentences < 2 or not (np.diff(sentence) == 0).any():
            expected = "expected two sentences or more, one a line, and words beside others"
            raise DemoError(f"{text.name}: there is nothing to learn: {expected}")
        every = min(HELD_OUT, sentences)
        out = sentence % every == every - 1
        held_out = ngrams(Tokens(ids[out], sentence[out]), before, boundary)
        contexts, targets = ngrams(Tokens(ids[~out], sentence[~out]), before, boundary)
        number = np.cumsum(targets == boundary) - (targets == boundary)  # of each word's sentence
        place = np.argsort(mg.to_cpu(key.permutation(int(number[-1]) + 1)))
        order = np.argsort(place[number], kind="stable")
        contexts, targets = contexts[order], targets[order]
        return cls(contexts, targets, np.flatnonzero(targets == boundary) + 1, held_out, boundary + 1)

    def sentences_in(self, targets: np.ndarray) -> int:
        """How many sentences end among these words."""
        return int(np.count_nonzero(targets == self.vocab_size - 1))


def pieces(data: Data, batch: int | None, words: float = math.inf) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What one update after the other learns, contexts and targets: a sentence, or so many words, until `words` words.

    After the last of the text comes the first again.
    """
    ends = data.ends.tolist() if batch is None else [*range(batch, len(data.targets), batch), len(data.targets)]
    while words:
        begin = 0
        for end in ends:
            end = min(end, begin + words)
            yield data.contexts[begin:end], data.targets[begin:end]
            words, begin = words - (end - begin), end
            if not words:
                return


# %% The model
@dataclass
class LanguageModel:
    """(1) to (3). Whether the output layer asks of all words, or of some, is all that differs from rung to rung."""

    embedding: mg.Tensor  # E (V, d)
    hidden: mg.nn.Linear  # H (m, n d), b (m,)
    output: losses.FullSoftmax | losses.NegativeSampling  # W (V, m), c (V,)
    optimiser: mg.optim.Optimizer = field(init=False)
    noise: Iterator | None = None

    @classmethod
    def new(cls, data: Data, how: str, args) -> "LanguageModel":
        key, size = mg.Key(args.seed).fold(0), (data.vocab_size, args.hidden)
        output, noise = losses.FullSoftmax(*size, key=key.fold(0)), None
        if RUNGS[how].loss is against_noise:
            counts = np.bincount(data.targets, minlength=data.vocab_size) + 1  # 1: every word can be drawn
            some = {"k": args.negatives, "shared": args.shared}
            output = losses.NegativeSampling(*size, counts=counts, key=key.fold(0), **some)
            noise = (each for i in count() for each in output.draw(key.fold(3, i), 1, BLOCK))
        hidden = mg.nn.Linear(args.before * args.dim, args.hidden, key=key.fold(1))
        model = cls(mg.param(0.1 * key.fold(2).normal((data.vocab_size, args.dim))), hidden, output, noise=noise)
        model.optimiser = mg.optim.Adagrad(list(model.parameters().values()), lr=args.lr)
        return model

    def parameters(self) -> dict[str, mg.Tensor]:
        layers = {"hidden": self.hidden, "output": self.output}
        return {"embedding": self.embedding} | {
            f"{name}.{what}": getattr(layer, what) for name, layer in layers.items() for what in ("weight", "bias")
        }

    def update(self, loss: mg.Tensor, dense: bool) -> None:
        loss.backward()
        if dense and type(self.embedding.grad) is mg.Rows:
            self.embedding.grad = self.embedding.grad.dense()  # (V, d)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def perplexity(self, contexts: np.ndarray, targets: np.ndarray) -> float:
        """exp of the mean of (3); of `negative`, with the probabilities that its scores stand for."""
        total = 0.0
        with mg.no_grad():
            for begin in range(0, len(targets), 1024):
                here = slice(begin, begin + 1024)
                log_prob = self.output.log_prob(hidden_of(self, contexts[here]))
                total -= mg.take_along_axis(log_prob, targets[here, None]).sum().item()
        with mg.backend.quiet():
            perplexity = float(np.exp(total / len(targets)))
        if not math.isfinite(perplexity):
            raise FloatingPointError
        return perplexity


# %% Rung 1: the slide's program. Each rung gives the loss of its contexts (B, n) and targets (B,), summed
def word_by_word(model: LanguageModel, contexts: np.ndarray, targets: np.ndarray) -> mg.Tensor:
    loss = 0.0
    for context, target in zip(contexts.tolist(), targets.tolist(), strict=True):
        vectors = [model.embedding[word] for word in context]  # (d,) each
        loss = loss + loss_of_word(model, vectors, target)
    return loss


def loss_of_word(model: LanguageModel, vectors: list[mg.Tensor], target: int) -> mg.Tensor:
    x = mg.concat(vectors)  # (1)
    h = mg.tanh(model.hidden(x))  # (2)
    return mg.cross_entropy(model.output.weight @ h + model.output.bias, target)  # (3)


# %% Rung 2, trick 1: a word stands before n others, and is looked up for the first of them
def looked_up_once(model: LanguageModel, contexts: np.ndarray, targets: np.ndarray) -> mg.Tensor:
    """Of the words from the beginning of a sentence on: what stands before the first is boundaries."""
    n, words, loss = contexts.shape[1], targets.tolist(), 0.0
    vectors = [model.embedding[int(contexts[0, 0])]] * n + [model.embedding[word] for word in words[:-1]]
    for i, target in enumerate(words):
        loss = loss + loss_of_word(model, vectors[i : i + n], target)
    return loss


# %% Rungs 3 and 4, trick 2: the words of a sentence in one matrix, or of many
def all_at_once(model: LanguageModel, contexts: np.ndarray, targets: np.ndarray) -> mg.Tensor:
    return model.output.loss(hidden_of(model, contexts), targets, reduction="sum")


def hidden_of(model: LanguageModel, contexts: np.ndarray) -> mg.Tensor:
    """(1) and (2) for contexts (B, n) -> (B, h)."""
    x = mg.take(model.embedding, contexts).reshape(len(contexts), -1)  # (B, n d)
    return mg.tanh(model.hidden(x))


# %% Rungs 5 and 6: of the vocabulary a few words that the batch shares
def against_noise(model: LanguageModel, contexts: np.ndarray, targets: np.ndarray) -> mg.Tensor:
    noise = next(model.noise)
    return model.output.loss(hidden_of(model, contexts), targets, noise=noise, reduction="sum")


@dataclass(frozen=True)
class Rung:
    trick: str
    loss: Callable[[LanguageModel, np.ndarray, np.ndarray], mg.Tensor]
    in_batches: bool = True
    dense: bool = True  # whether all V rows of E have a gradient

    def learn(self, model: LanguageModel, contexts: np.ndarray, targets: np.ndarray) -> None:
        model.update(self.loss(model, contexts, targets), self.dense)


RUNGS = {
    "word": Rung("the slide's program", word_by_word, in_batches=False),
    "once": Rung("trick 1, don't repeat operations", looked_up_once, in_batches=False),
    "sentence": Rung("trick 2, fewer operations", all_at_once, in_batches=False),
    "batch": Rung("mini-batches", all_at_once),
    "negative": Rung("negative sampling", against_noise),
    "rows": Rung("nothing needless over big data", against_noise, dense=False),
}


# %% The ladder
@dataclass
class Slice:
    """So much was learned in so many seconds, and so many operations were counted for the words of the warm-up."""

    words: int = 0
    sentences: int = 0
    seconds: float = 0.0
    operations: int = 0
    words_counted: int = 0

    def extrapolated(self, words: int) -> float:
        """Seconds for so many words at this speed."""
        return words * self.seconds / self.words


class Operations:
    """Counts what the tape does: operations on the way there, and rules on the way back."""

    def __init__(self):
        self.number = 0

    def __call__(self, op, args, y, node) -> None:
        self.number += 1

    def gradients(self, node, gradients) -> None:
        self.number += 1


class Learner:
    """A rung at work: it learns for a while, and again for a while, after a warm-up in which operations are counted."""

    def __init__(self, data: Data, how: str, args):
        self.data, self.rung, self.model = data, RUNGS[how], LanguageModel.new(data, how, args)
        self.pieces = pieces(data, args.batch if self.rung.in_batches else None)
        self.learned, operations = Slice(), Operations()
        with watching(operations):
            for contexts, targets in islice(self.pieces, WARM_UP):
                self.rung.learn(self.model, contexts, targets)  # kernels are compiled now, or read from disk
                self.learned.words_counted += len(targets)
        self.learned.operations = operations.number
        mg.backend.synchronize()

    def learn(self, seconds: float) -> float:
        """Words/s of this turn, which has an update at least."""
        start, words = time.perf_counter(), 0
        for contexts, targets in self.pieces:
            self.rung.learn(self.model, contexts, targets)
            words += len(targets)
            self.learned.sentences += self.data.sentences_in(targets)
            if time.perf_counter() - start >= seconds:
                break
        mg.backend.synchronize()
        taken = time.perf_counter() - start
        self.learned.words += words
        self.learned.seconds += taken
        return words / taken


def finished(learned: Slice, words: int) -> str:
    left = learned.extrapolated(words)
    done = datetime.now() + timedelta(seconds=left)
    return (
        f"--finished {learned.sentences:,} sentences: {learned.words:,} words in {learned.seconds:.1f} s; "
        f"{words:,} would take {duration(left)}, until {done:%a %d %b %Y, %H:%M}"
    )


def duration(seconds: float) -> str:
    """For people: 1.2 s, 3 min 20 s, 5 h 7 min, 3 days 4 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} days {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def ladder(data: Data, args) -> list[dict]:
    """Climbs rung after rung, and says what there is to tell of each."""
    turn, learners, ratios = (min(args.seconds, 0.3) if args.quick else args.seconds) / TURNS, {}, {}
    for how, rung in RUNGS.items():
        print(f"\n{how}: {rung.trick}")
        *_, before = None, *learners.values()
        learners[how], ratios[how] = Learner(data, how, args), []
        for _ in range(TURNS):
            speed = learners[how].learn(turn)
            print(finished(learners[how].learned, args.words), flush=True)
            if before:
                ratios[how].append(speed / before.learn(turn))
    rungs = []
    for how, learner in learners.items():
        told = {"how": how, "trick": learner.rung.trick, **vars(learner.learned)}
        told["words_per_second"] = told["words"] / told["seconds"]
        told["operations_per_word"] = told["operations"] / told["words_counted"]
        told["extrapolated_seconds"] = learner.learned.extrapolated(args.words)
        told["times_the_rung_before"] = median(ratios[how]) if ratios[how] else None
        rungs.append(told)
    print()
    table(
        f"{args.words:,} words, one trick after the other",
        ["", "", "words/s", "operations a word", f"{args.words:,} words", "extrapolated from", "times the one before"],
        [
            [
                *(rung[name] for name in ("how", "trick", "words_per_second", "operations_per_word")),
                duration(rung["extrapolated_seconds"]),
                f"{rung['words']:,} words in {rung['seconds']:.1f} s",
                rung["times_the_rung_before"],
            ]
            for rung in rungs
        ],
    )
    print("the same updates: word, once, sentence. The same loss, fewer updates: batch. Another loss: negative, rows")
    return rungs


# %% The million words
def train(data: Data, args) -> tuple[LanguageModel, dict]:
    """Learns `args.words` words, or until Ctrl-C; returns the model, and what there is to tell."""
    how = args.how or "rows"
    rung, model, sentences = RUNGS[how], LanguageModel.new(data, how, args), 0
    before = model.perplexity(*data.held_out)
    with interruptible() as stop, Progress(f"training by {how}", args.words) as bar:
        for contexts, targets in pieces(data, args.batch if rung.in_batches else None, args.words):
            rung.learn(model, contexts, targets)
            sentences += data.sentences_in(targets)
            bar.advance(len(targets))
            if stop.requested:
                break
        mg.backend.synchronize()
    after = model.perplexity(*data.held_out)
    numbers = {"words": bar.done, "sentences": sentences, "seconds": bar.seconds, "words_per_second": bar.rate}
    perplexities = {"perplexity_before": before, "perplexity_after": after}
    return model, {"how": how, **numbers, **perplexities, "stopped_early": bar.done < args.words}


def show_training(training: dict, held_out: int) -> None:
    ending = ", stopped early" if training["stopped_early"] else ""
    table(
        f"{training['words']:,} words learned by {training['how']}{ending}",
        ["true time", "extrapolated", "words/s", "perplexity before", "after", "of words held out"],
        [
            [
                *(duration(training[name]) for name in ("seconds", "extrapolated_seconds")),
                *(training[name] for name in ("words_per_second", "perplexity_before", "perplexity_after")),
                held_out,
            ]
        ],
    )


# %% All of it
def parser():
    p = common_flags(__doc__, name="nn-1m")
    p.add_argument("--full", action="store_true", help="then learn the million words")
    p.add_argument("--how", choices=RUNGS, help="the rung by which --full learns (default: rows)")
    p.add_argument("--words", type=int, default=1_000_000, metavar="N", help="a million, or another number")
    p.add_argument("--seconds", type=float, default=5.0, help="how long each rung is measured (default 5)")
    p.add_argument("--vocab", type=int, default=6000, metavar="V", help="the most frequent words (default 6000)")
    p.add_argument(
        "--before", type=int, default=2, metavar="n", help="words from which the next is guessed (default 2)"
    )
    p.add_argument("--dim", type=int, default=128, help="numbers in a word vector (default 128)")
    p.add_argument("--hidden", type=int, default=128, help="numbers in the hidden layer (default 128)")
    p.add_argument("--batch", type=int, default=256, help="words in a mini-batch (default 256)")
    p.add_argument("--negatives", type=int, default=25, metavar="K", help="noise words a word (default 25)")
    p.add_argument("--shared", type=int, default=256, metavar="N", help="noise words drawn for a batch (default 256)")
    p.add_argument("--lr", type=float, default=0.1, help="Adagrad's learning rate (default 0.1)")
    return p


def checked(args) -> None:
    least = {"vocab": 4, "words": 1, "before": 1, "dim": 1, "hidden": 1, "batch": 1, "negatives": 1, "shared": 1}
    for name, smallest in least.items():
        if not smallest <= getattr(args, name) <= 10**9:
            raise DemoError(f"--{name} must lie in {smallest} to 1,000,000,000, got {getattr(args, name)}")
    for name in ("seconds", "lr"):
        if not 0 < getattr(args, name) < math.inf:
            raise DemoError(f"--{name} must be positive, got {getattr(args, name)}")
    if args.how and not args.full:
        raise DemoError(f"--how {args.how} is for --full: add it")
    if args.quick and args.full:
        args.words = min(args.words, 20_000)


@threadpool_limits.wrap(limits=1, user_api="blas")  # most products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    checked(args)
    choose_device(args.device)
    out = output_folder(args.out)

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        limit = 20_000 if args.quick else None
        text = read_text(args.corpus, 1, max_size=args.vocab - 1, limit_words=limit, progress=progress)
    data = Data.of(text, args.before, mg.Key(args.seed).fold(1))
    unknown = text.vocabulary.counts[0] / len(text.tokens)
    print(f"{text.describe()}\nvocabulary: {data.vocab_size:,} ids; {unknown:.2%} of the text is <unk>", flush=True)
    results = {"environment": environment(), "corpus": text.describe(), "arguments": vars(args)}
    try:
        with mg.backend.quiet():
            rungs = ladder(data, args)
            model, training = train(data, args) if args.full else (None, None)
    except FloatingPointError:
        raise DemoError(f"the weights have grown beyond all bounds: try --lr smaller than {args.lr}") from None

    results |= {"vocab_size": data.vocab_size, "rungs": rungs}
    estimates = {f"{rung['how']}: {rung['trick']}": rung["extrapolated_seconds"] for rung in rungs}
    names, unit = ["estimates.png", "results.json"], "seconds, extrapolated from a slice of each"
    if training:
        extrapolated = {rung["how"]: rung["extrapolated_seconds"] for rung in rungs}[training["how"]]
        training["extrapolated_seconds"] = extrapolated * training["words"] / args.words
        show_training(training, len(data.held_out[1]))
        arrays = {name: parameter.numpy() for name, parameter in model.parameters().items()}
        mg.save(out / "model.npz", arrays, {"words": [*text.vocabulary.words, "<s>"]})
        names, results["training"] = [*names, "model.npz"], training
        if not training["stopped_early"]:
            estimates[f"{training['how']}, true time"], unit = training["seconds"], f"{unit}; the last bar is true"
    title = f"{args.words:,} words, one trick after the other"
    bars(out / "estimates.png", title, list(estimates), list(estimates.values()), unit, args.show)
    write_json(out / "results.json", results)
    print(f"in {out}: {', '.join(names)}")


if __name__ == "__main__":
    run_demo(main)
