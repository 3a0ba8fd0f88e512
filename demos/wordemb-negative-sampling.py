"""Word embeddings by negative sampling: the slides' "Let's try it out!".

The slides' claim: a softmax over the vocabulary is too much to calculate for every word, so sample some negative words
instead; and "creating and arranging memory is expensive", so let a whole mini-batch share the same negatives.

    python demos/wordemb-negative-sampling.py
    python demos/wordemb-negative-sampling.py --how minibatch --epochs 2
    python demos/wordemb-negative-sampling.py --how kernel --threads 2 --epochs 50
    python demos/wordemb-negative-sampling.py --corpus text.txt --min-count 2 --neighbours king,queen

Skip-gram: the vector of each word learns to tell the words around it from words drawn at random. The first command
climbs a ladder, the same learning done in four ways, on a slice of the text:

    per-word    the slide's graph: for one word after the other, dot product by dot product
    minibatch   1,024 pairs of words at once, each with negatives of its own
    shared      1,024 pairs at once that share their negatives (Zoph et al. 2016)
    kernel      word by word again, but compiled: all contexts of a word share its negatives (losses/skipgram.py)

and prints the words/s of each rung. Then it trains `shared` on all of the text, and ends with a table of nearest
neighbours. It leaves behind, in out/wordemb-negative-sampling/:

    vectors.txt                 word2vec's text format; gensim's KeyedVectors.load_word2vec_format reads it
    vectors.tsv, metadata.tsv   for the embedding projector (projector.tensorflow.org reads both in the browser)
    map.png                     a map of the frequent words
    results.json                the numbers
    state.npz                   where the training stands

Ctrl-C stops early and keeps what was learned; the same command with --resume goes on from there, and learns what the
unbroken run would have learned, to the last bit (with several threads or on a GPU, nearly that: they add in no fixed
order). A run of more epochs is another run, as the learning rate falls to nothing by the last of them. Takes about a
minute, --quick under ten seconds.
"""

# %% What we need
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _shared.checkpoint import read_checkpoint, write_checkpoint
from _shared.errors import DemoError
from _shared.export import nearest_neighbours, write_projector, write_word2vec
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.plots import word_map
from _shared.progress import Progress, counted, interruptible
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import keep_probability, skipgram_pairs, subsample
from _shared.text import Text, read_text
from _shared.vocabulary import Tokens, Vocabulary
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses import skipgram

CHUNK = 50_000  # words that are made into pairs, and provided with noise, at once
BLOCK = 10_000  # words that the kernel learns before Ctrl-C is heard
SAVE_EVERY = 30.0  # seconds of training after which its state is saved
WORDS_TO_SHOW = "array file string thread error number python function true matrix list time"


# %% The model: a vector for each word as a centre, and an output layer that scores each word as a context
@dataclass
class SkipGram:
    vectors: mg.Tensor  # (V, d)
    layer: losses.NegativeSampling
    optimiser: mg.optim.Optimizer

    @classmethod
    def new(cls, vocabulary: Vocabulary, how: str, args) -> "SkipGram":
        key, size = mg.Key(args.seed), (len(vocabulary), args.dim)
        layer = losses.NegativeSampling(
            *size,
            counts=vocabulary.counts,
            key=key.fold(0),
            k=args.negatives,
            shared={"shared": args.shared, "kernel": args.negatives}.get(how),
            bias=False,
        )
        vectors = mg.param((key.fold(1).uniform(size) - 0.5) / args.dim)
        optimiser = {"sgd": mg.optim.SGD, "adagrad": mg.optim.Adagrad}[args.optimiser]
        return cls(vectors, layer, optimiser([vectors, *layer.parameters()], lr=args.lr))

    def update(self, loss: mg.Tensor) -> None:
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, np.ndarray]:
        """All that the next update depends on, by name."""
        state = {f"optimiser.{name}": array for name, array in self.optimiser.state_dict().items()}
        return {"vectors": self.vectors.numpy(), "outputs": self.layer.weight.numpy(), **state}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.vectors.data, self.layer.weight.data = map(mg.backend.asarray, (state["vectors"], state["outputs"]))
        prefix = "optimiser."
        named = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        self.optimiser.load_state_dict(named)


# %% Rung 1: the slide's graph, word by word. Each rung does its updates from number `first` on, one after the other
def learn_per_word(model: SkipGram, tokens: Tokens, args, key: mg.Key, first: int = 0):
    """For each word of each sentence a graph: a dot product for every context, and for every negative word."""
    reach = window_of_each(len(tokens), args, key.fold(0))
    noise = model.layer.draw(key.fold(1), 2 * args.window, len(tokens))
    for i in range(first, len(tokens)):
        centre = tokens.ids[i]
        nearby = range(max(0, i - reach[i]), min(len(tokens), i + reach[i] + 1))
        contexts = [tokens.ids[j] for j in nearby if j != i and tokens.sentence[j] == tokens.sentence[i]]
        h, loss = mg.take(model.vectors, centre), 0.0  # (d,)
        for context, negatives in zip(contexts, noise[i], strict=False):
            loss = loss - mg.log(mg.sigmoid(score(model, context, h)))
            for negative in negatives:
                loss = loss - mg.log(mg.sigmoid(-score(model, negative, h)))
        if contexts:
            model.update(loss)
        yield 1, len(contexts), loss


def score(model: SkipGram, word: int, h: mg.Tensor) -> mg.Tensor:
    return (mg.take(model.layer.weight, word) * h).sum()


def window_of_each(n: int, args, key: mg.Key) -> np.ndarray:
    """How far each of n words looks: always the whole window, or 1 to window at random, as in word2vec."""
    return np.full(n, args.window) if args.full_window else mg.to_cpu(key.integers(1, args.window + 1, n))


# %% Rungs 2 and 3: mini-batches, with negatives of each pair's own, or shared
def learn_in_batches(model: SkipGram, tokens: Tokens, args, key: mg.Key, first: int = 0):
    """All pairs of the tokens in batches; how the layer was made decides whose the negatives are.

    Pairs, and the noise for all batches, are made and moved to the device at once, before the first is needed.
    """
    centres, contexts = skipgram_pairs(tokens, args.window, None if args.full_window else key.fold(0))
    steps = -(-len(centres) // args.batch)
    noise = model.layer.draw(key.fold(1), args.batch, steps)
    centres, contexts = mg.backend.asarray(centres), mg.backend.asarray(contexts)
    for step in range(first, steps):
        here = slice(step, None, steps)  # every steps-th pair: near and far ones, from all over the chunk
        centre, context = centres[here], contexts[here]
        mine = noise[step] if model.layer.shared else noise[step, : len(centre)]
        loss = model.layer.loss(mg.take(model.vectors, centre), context, noise=mine, reduction="sum")
        model.update(loss)
        yield len(tokens) * (step + 1) // steps - len(tokens) * step // steps, len(centre), loss


# %% Rung 4: word by word, with nothing left but the arithmetic
def learn_by_kernel(model: SkipGram, tokens: Tokens, args, key: mg.Key, first: int = 0):
    """Blocks of words, each in one call. The loss is that of a few pairs of the block before it is learned."""
    reach = window_of_each(len(tokens), args, key.fold(0))
    ids, sentence = tokens.ids.astype(np.int64), tokens.sentence.astype(np.int64)
    for block in range(first, -(-len(tokens) // BLOCK)):
        places = range(block * BLOCK, min((block + 1) * BLOCK, len(tokens)))
        noise, rates = key.fold(1, block), np.full(len(tokens), model.optimiser.lr)
        loss = loss_of_a_few(model, Tokens(ids[places.start :][:32], sentence[places.start :][:32]), args, noise)
        model_and_text = model.vectors, model.layer, model.optimiser, ids, sentence, reach
        pairs = skipgram.learn(*model_and_text, noise, rates, places, threads=args.threads)
        yield len(places), pairs, mg.tensor(loss * pairs)


def loss_of_a_few(model: SkipGram, tokens: Tokens, args, key: mg.Key) -> float:
    targets, inputs = skipgram_pairs(tokens, args.window)
    if not len(inputs):
        return 0.0
    noise = model.layer.sampler.sample(key.fold(1 << 32), (len(inputs), args.negatives))
    return skipgram.held_out_loss(model.vectors.data, model.layer.weight.data, inputs, targets, noise)


LEARN = {
    "per-word": learn_per_word,
    "minibatch": learn_in_batches,
    "shared": learn_in_batches,
    "kernel": learn_by_kernel,
}


# %% The ladder: the same words, learned in four ways
def climb(vocabulary: Vocabulary, tokens: Tokens, args, seconds: float) -> list[dict]:
    """words/s of each rung: each goes over the same words again and again for so many seconds, after a warm-up."""
    rungs = []
    for how, learn in LEARN.items():
        if how == "kernel" and args.device == "gpu":
            continue
        model, key = SkipGram.new(vocabulary, how, args), mg.Key(args.seed).fold(2)
        for _ in zip(range(3), learn(model, tokens, args, key), strict=False):
            pass  # kernels are compiled now, or read from disk
        words = pairs = rounds = 0
        start = now = time.perf_counter()
        while now - start < seconds:
            for new_words, new_pairs, _ in learn(model, tokens, args, key.fold(rounds)):
                words, pairs, now = words + new_words, pairs + new_pairs, time.perf_counter()
                if now - start >= seconds:
                    break
            rounds, now = rounds + 1, time.perf_counter()
        rungs.append({"how": how, "words_per_second": words / (now - start), "pairs_per_second": pairs / (now - start)})
    return rungs


# %% Training on the whole text
@dataclass
class Position:
    """Where the training stands: before update `step` of the chunk that begins with word `begin` of an epoch."""

    epoch: int = 0
    begin: int = 0
    step: int = 0
    words: float = 0.0
    pairs: int = 0
    seconds: float = 0.0


def train(model: SkipGram, how: str, tokens: Tokens, counts: np.ndarray, args, state: Path, run: dict) -> dict:
    """All epochs, the learning rate falling to nothing on the way, as in word2vec. Keeps its state in a file."""
    at, curve, total = Position(), [], args.epochs * len(tokens)
    if args.resume:
        arrays, position = read_checkpoint(state, run)
        at, curve = Position(**position), arrays.pop("loss_curve").tolist()
        model.load_state(arrays)
        print(f"going on after {at.words:,.0f} of {total:,} words", flush=True)
    seconds_before, saved_at, cost = at.seconds, time.perf_counter(), 0.0

    def save() -> None:
        if not np.isfinite(model.vectors.numpy()).all():
            raise FloatingPointError
        at.seconds = seconds_before + bar.seconds
        arrays = {**model.state(), "loss_curve": np.array(curve, np.float64).reshape(-1, 2)}
        write_checkpoint(state, arrays, vars(at), run)

    with interruptible() as stop, Progress("training", total, done=round(at.words)) as bar:
        for place, new_words, new_pairs, loss in updates(model, how, tokens, counts, args, at):
            at.epoch, at.begin, at.step = place
            at.words, at.pairs = at.words + new_words, at.pairs + new_pairs
            model.optimiser.lr = args.lr * max(1.0 - at.words / total, 1e-4)
            if new_pairs and at.pairs >= (len(curve) + 1) * 20 * args.batch:  # on a GPU, reading waits: not every time
                curve.append([round(at.words), loss.item() / new_pairs])
            bar.advance(round(at.words) - bar.done, loss=np.mean([c[1] for c in curve[-10:]]) if curve else None)
            if stop.requested:
                break
            if (now := time.perf_counter()) - saved_at > max(SAVE_EVERY, 20 * cost):
                save()
                saved_at = time.perf_counter()
                cost = saved_at - now
    if not at.pairs:
        raise DemoError("subsampling has left no two words of one sentence: try --subsample 0, which keeps all words")
    save()
    return {
        "how": how,
        "threads": args.threads,
        "stopped_early": stop.requested,
        "resumed": args.resume,
        "words": bar.done,
        "pairs": at.pairs,
        "seconds": at.seconds,
        "words_per_second": bar.rate,
        "loss_curve": curve,
    }


def updates(model: SkipGram, how: str, tokens: Tokens, counts: np.ndarray, args, at: Position):
    """Every update from a position on: (the position after it, words of the text behind it, pairs, loss)."""
    keep = keep_probability(counts, args.subsample, args.formula)
    keep[0] = 0.0  # <unk> is many words, and no context says which
    first_epoch, first_begin, first_step = at.epoch, at.begin, at.step
    for epoch in range(first_epoch, args.epochs):
        for begin in range(first_begin, len(tokens), CHUNK):
            key = mg.Key(args.seed).fold(3, epoch, begin)
            text = Tokens(tokens.ids[begin : begin + CHUNK], tokens.sentence[begin : begin + CHUNK])
            kept = subsample(text, keep, key.fold(0))
            learning = LEARN[how](model, kept, args, key.fold(1), first_step)
            for step, (words, pairs, loss) in enumerate(learning, start=first_step + 1):
                yield (epoch, begin, step), words * len(text) / len(kept), pairs, loss
            first_step = 0
        first_begin = 0


def what_is_learned(how: str, text: Text, args) -> dict:
    """All that decides what a run learns: --resume goes on with the same only."""
    names = "epochs dim window full_window negatives shared batch optimiser lr min_count subsample formula seed quick"
    options = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names.split()}
    words = hashlib.sha256("\n".join(text.vocabulary.words).encode()).hexdigest()[:12]
    return {
        "the state's version": 1,
        "the text's sha256": text.sha256[:12],
        "the vocabulary's sha256": words,
        "--how": how,
        **options,
    }


# %% What was learned
def neighbours(words: list[str], counts: np.ndarray, vectors: np.ndarray, wanted: str | None) -> dict[str, list[str]]:
    """Prints the words nearest to each of the wanted ones; returns them."""
    rank = {word: i for i, word in enumerate(words)}
    asked = (wanted or WORDS_TO_SHOW).lower().replace(",", " ").split()
    if wanted and (missing := [word for word in asked if word not in rank]):
        print(f"not in the vocabulary: {', '.join(missing)}")
    ids = [rank[word] for word in asked if word in rank]
    if not ids:  # another text, another language: some words from frequent to rare
        ids = np.unique(np.geomspace(min(20, len(words)), len(words), 12).astype(int) - 1).tolist()
    found, rows = {}, []
    for i, near, cosines in zip(ids, *nearest_neighbours(vectors, ids, k=6), strict=True):
        found[words[i]] = [words[j] for j in near]
        said = "  ".join(f"{other} {cosine:.2f}" for other, cosine in zip(found[words[i]], cosines, strict=True))
        rows.append([words[i], counts[i], said])
    table("Nearest neighbours, by cosine", ["word", "count", "nearest"], rows)
    return found


def parser():
    p = common_flags(__doc__, name="wordemb-negative-sampling")
    p.add_argument("--how", choices=LEARN, help="train in this way; without it: the ladder, then shared")
    p.add_argument("--epochs", type=int, default=15, help="passes over the text (default 15)")
    p.add_argument("--dim", type=int, default=128, help="numbers in a word vector (default 128)")
    p.add_argument("--window", type=int, default=5, help="contexts on either side, at most (default 5)")
    p.add_argument("--full-window", action="store_true", help="always the whole window; else 1 to WINDOW, as word2vec")
    p.add_argument("--negatives", type=int, default=10, metavar="K", help="noise words a pair (default 10)")
    p.add_argument("--shared", type=int, default=64, metavar="N", help="noise words that a batch shares (default 64)")
    p.add_argument("--batch", type=int, default=1024, help="pairs in a mini-batch (default 1024)")
    p.add_argument("--optimiser", choices=["adagrad", "sgd"], default="adagrad")
    p.add_argument("--lr", type=float, default=0.3, help="learning rate at the start (default 0.3)")
    p.add_argument("--min-count", type=int, default=5, help="rarer words become <unk> (default 5)")
    p.add_argument(
        "--subsample", type=float, default=1e-3, metavar="T", help="thin out words more frequent than T; 0: none"
    )
    p.add_argument(
        "--formula", choices=["paper", "code"], default="paper", help="subsampling as published, or as in word2vec.c"
    )
    p.add_argument("--threads", type=int, default=1, metavar="N", help="so many threads without locks, of the kernel")
    p.add_argument("--resume", action="store_true", help="go on where the same command stopped; no ladder")
    p.add_argument("--neighbours", metavar="WORDS", help="words to look up at the end, with commas between")
    return p


# %% All of it
@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.quick:
        args.epochs, args.dim, args.min_count = min(args.epochs, 1), min(args.dim, 32), min(args.min_count, 3)
    for name in ("epochs", "dim", "window", "negatives", "shared", "batch", "lr", "min_count", "subsample", "threads"):
        least = 0.0 if name == "subsample" else np.nextafter(0.0, 1.0)
        if not least <= getattr(args, name) < float("inf"):
            expected = "0 or more" if name == "subsample" else "positive"
            raise DemoError(f"--{name.replace('_', '-')} must be {expected}, got {getattr(args, name)}")
    how = args.how or "shared"
    if how == "kernel" and args.device == "gpu":
        raise DemoError("--how kernel runs on the CPU: leave out --device gpu, or take --how shared")
    if how != "kernel" and args.threads > 1:
        raise DemoError(f"--threads {args.threads} is for --how kernel; --how {how} has one thread")
    choose_device(args.device)
    out = output_folder(args.out)

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, args.min_count, limit_words=20_000 if args.quick else None, progress=progress)
    vocabulary, tokens = text.vocabulary, text.tokens
    print(f"{text.describe()}\n{len(vocabulary) - 1:,} words occur {args.min_count} times or more")
    if not any((np.diff(tokens.sentence[i : i + CHUNK + 1]) == 0).any() for i in range(0, len(tokens), CHUNK)):
        raise DemoError(f"{text.name}: there is nothing to learn: expected sentences of two words or more, one a line")
    if args.quick and args.how == "per-word":
        tokens = Tokens(tokens.ids[:1000], tokens.sentence[:1000])
    results = {"environment": environment(), "corpus": text.describe(), "arguments": vars(args)}

    if args.how is None and not args.resume:
        print("climbing the ladder ...", flush=True)
        first = Tokens(tokens.ids[:2000], tokens.sentence[:2000])
        rungs = results["ladder"] = climb(vocabulary, first, args, seconds=0.3 if args.quick else 3.0)
        for rung, below in zip(rungs, [None, *rungs], strict=False):
            rung["over_rung_below"] = below and rung["words_per_second"] / below["words_per_second"]
        table(
            "The ladder: the same learning, done in four ways",
            ["how", "words/s", "pairs/s", "times the rung below"],
            [list(rung.values()) for rung in rungs],
        )

    model, run = SkipGram.new(vocabulary, how, args), what_is_learned(how, text, args)
    try:
        with mg.backend.quiet():
            results["training"] = train(model, how, tokens, vocabulary.counts, args, out / "state.npz", run)
        words, counts, vectors = vocabulary.words[1:], vocabulary.counts[1:], model.vectors.numpy()[1:]  # not <unk>
        if not np.isfinite(vectors).all():
            raise FloatingPointError
    except FloatingPointError:
        raise DemoError(f"the vectors have grown beyond all bounds: try --lr smaller than {args.lr}") from None

    results["neighbours"] = neighbours(words, counts, vectors, args.neighbours)
    write_word2vec(out / "vectors.txt", words, vectors)
    write_projector(out / "vectors.tsv", out / "metadata.tsv", words, vectors)
    frequent = [i for i, word in enumerate(words) if word.isalpha()][:150] or range(len(words))
    word_map(out / "map.png", [words[i] for i in frequent], vectors[frequent], "The most frequent words", args.show)
    write_json(out / "results.json", results)
    print(f"in {out}: vectors.txt, vectors.tsv, metadata.tsv, map.png, results.json, state.npz")


if __name__ == "__main__":
    run_demo(main)
