"""Word embeddings by negative sampling: the slides' "Let's try it out!".

The slides' claim: a softmax over the vocabulary is too much to calculate for every word, so sample some negative words
instead; and "creating and arranging memory is expensive", so let a whole mini-batch share the same negatives.

    python demos/wordemb-negative-sampling.py
    python demos/wordemb-negative-sampling.py --how minibatch --epochs 2
    python demos/wordemb-negative-sampling.py --corpus text.txt --min-count 2 --neighbours king,queen

Skip-gram: the vector of each word learns to tell the words around it from words drawn at random. The first command
climbs a ladder, the same learning done in three ways, on a slice of the text:

    per-word    the slide's graph: for one word after the other, dot product by dot product
    minibatch   1,024 pairs of words at once, each with negatives of its own
    shared      1,024 pairs at once that share their negatives (Zoph et al. 2016)

and prints the words/s of each rung. Then it trains the best on all of the text, and ends with a table of nearest
neighbours. It leaves behind, in out/wordemb-negative-sampling/:

    vectors.txt                 word2vec's text format; gensim's KeyedVectors.load_word2vec_format reads it
    vectors.tsv, metadata.tsv   for the embedding projector (projector.tensorflow.org reads both in the browser)
    map.png                     a map of the frequent words
    results.json                the numbers

Ctrl-C stops early and keeps what was learned. Takes a minute and a half on two cores, --quick under ten seconds.
"""

# %% What we need
import time
from dataclasses import dataclass

import numpy as np
from _shared.corpus import load_corpus
from _shared.errors import DemoError
from _shared.export import nearest_neighbours, write_projector, write_word2vec
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.plots import word_map
from _shared.progress import Progress, interruptible
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import keep_probability, skipgram_pairs, subsample
from _shared.vocabulary import Tokens, Vocabulary

import losses
import minigrad as mg
from losses.sampled.negative import negative_sampling_naive

HOW = ("per-word", "minibatch", "shared")
CHUNK = 50_000  # words that are made into pairs, and provided with noise, at once
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
            shared=args.shared if how == "shared" else None,
            bias=False,
        )
        vectors = mg.param((key.fold(1).uniform(size) - 0.5) / args.dim)
        optimiser = {"sgd": mg.optim.SGD, "adagrad": mg.optim.Adagrad}[args.optimiser]
        return cls(vectors, layer, optimiser([vectors, *layer.parameters()], lr=args.lr))

    def update(self, loss: mg.Tensor) -> None:
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


# %% Rung 1: the slide's graph, word by word
def learn_per_word(model: SkipGram, tokens: Tokens, args, key: mg.Key):
    """For each word of each sentence: a graph of one dot product for every context and every negative word."""
    starts = np.flatnonzero(np.diff(tokens.sentence, prepend=-1))
    for number, sentence in enumerate(np.split(tokens.ids, starts[1:])):
        noise = model.layer.sampler.sample(key.fold(number), (len(sentence), 2 * args.window, args.negatives))
        for i, centre in enumerate(sentence):
            h = mg.take(model.vectors, centre)  # (d,)
            loss, pairs = 0.0, 0
            for j in range(max(0, i - args.window), min(len(sentence), i + args.window + 1)):
                if j == i:
                    continue
                target = (mg.take(model.layer.weight, sentence[j]) * h).sum()
                negatives = [(mg.take(model.layer.weight, n) * h).sum().reshape(1) for n in noise[i, pairs]]
                loss = loss + negative_sampling_naive(target, negatives[0])
                for score in negatives[1:]:
                    loss = loss - mg.log(mg.sigmoid(-score)).sum()
                pairs += 1
            if pairs:
                model.update(loss)
                yield 1, pairs, loss
            else:
                yield 1, 0, None


# %% Rungs 2 and 3: mini-batches, with negatives of each pair's own, or shared
def learn_in_batches(model: SkipGram, tokens: Tokens, args, key: mg.Key):
    """All pairs of the tokens in batches; how the layer was made decides whose the negatives are.

    Pairs, and the noise for all batches, are made and moved to the device at once, before the first is needed.
    """
    centres, contexts = skipgram_pairs(tokens, args.window, None if args.full_window else key.fold(0))
    steps = -(-len(centres) // args.batch)
    if not steps:
        yield len(tokens), 0, None
        return
    noise = model.layer.draw(key.fold(1), args.batch, steps)
    centres, contexts = mg.backend.asarray(centres), mg.backend.asarray(contexts)
    for step in range(steps):
        here = slice(step, None, steps)  # every steps-th pair: near and far ones, from all over the chunk
        centre, context = centres[here], contexts[here]
        mine = noise[step] if model.layer.shared else noise[step, : len(centre)]
        loss = model.layer.loss(mg.take(model.vectors, centre), context, noise=mine, reduction="sum")
        model.update(loss)
        yield len(tokens) * (step + 1) // steps - len(tokens) * step // steps, len(centre), loss


def learner(how: str):
    return learn_per_word if how == "per-word" else learn_in_batches


# %% The ladder: the same words, learned in three ways
def climb(vocabulary: Vocabulary, tokens: Tokens, args, seconds: float) -> list[dict]:
    """words/s of each rung: each goes over the same words again and again for so many seconds, after a warm-up."""
    rungs = []
    for how in HOW:
        model = SkipGram.new(vocabulary, how, args)
        for _ in zip(range(3), learner(how)(model, tokens, args, mg.Key(args.seed)), strict=False):
            pass  # warm up: kernels are compiled, or read from disk
        words = pairs = rounds = 0
        start = now = time.perf_counter()
        while now - start < seconds:
            for n, m, _ in learner(how)(model, tokens, args, mg.Key(args.seed).fold(2, rounds)):
                words, pairs = words + n, pairs + m
                now = time.perf_counter()
                if now - start >= seconds:
                    break
            rounds += 1
        rungs.append({"how": how, "words_per_second": words / (now - start), "pairs_per_second": pairs / (now - start)})
    return rungs


# %% Training on the whole text
def train(model: SkipGram, how: str, tokens: Tokens, counts, args) -> dict:
    """All epochs, the learning rate falling to nothing on the way, as in word2vec."""
    keep = keep_probability(counts, args.subsample, args.formula)
    keep[0] = 0.0  # <unk> is many words, and no context says which
    key, done, curve, total = mg.Key(args.seed).fold(3), 0, [], args.epochs * len(tokens)
    loss_sum = pair_sum = 0
    with interruptible() as stop, Progress("training", total) as bar:
        for epoch in range(args.epochs):
            for chunk in range(0, len(tokens), CHUNK):
                k = key.fold(epoch, chunk)
                text = Tokens(tokens.ids[chunk : chunk + CHUNK], tokens.sentence[chunk : chunk + CHUNK])
                kept = subsample(text, keep, k.fold(0))
                per_kept = len(text) / max(len(kept), 1)  # progress is told in words of the text
                for words, pairs, loss in learner(how)(model, kept, args, k.fold(1)):
                    done += words * per_kept
                    model.optimiser.lr = args.lr * max(1.0 - done / total, 1e-4)
                    pair_sum += pairs
                    if loss is not None and pair_sum - loss_sum >= 20 * args.batch:
                        loss_sum = pair_sum
                        curve.append([round(done), loss.item() / pairs])
                    bar.advance(words * per_kept, loss=np.mean([c[1] for c in curve[-10:]]) if curve else None)
                    if stop.requested:
                        break
                if stop.requested:
                    break
            if stop.requested:
                break
    if not pair_sum:
        raise DemoError("there is nothing to learn: no word of the text has a neighbour within its sentence")
    return {
        "epochs": args.epochs,
        "stopped_early": stop.requested,
        "words": round(done),
        "pairs": pair_sum,
        "seconds": bar.seconds,
        "words_per_second": bar.rate,
        "loss_curve": curve,
    }


# %% What was learned
def neighbour_table(vocabulary: Vocabulary, vectors: np.ndarray, wanted: list[str]) -> dict:
    words = [word for word in wanted if vocabulary.id(word)]
    if not words:  # another text, another language: words of middling frequency
        words = [
            vocabulary.words[i]
            for i in np.unique(np.geomspace(min(20, len(vectors) - 1), len(vectors) - 1, 12).astype(int))
        ]
    near, cosines = nearest_neighbours(vectors, [vocabulary.id(word) for word in words], k=6)
    table(
        "Nearest neighbours, by cosine",
        ["word", "count", "nearest"],
        [
            [
                word,
                int(vocabulary.counts[vocabulary.id(word)]),
                "  ".join(f"{vocabulary.words[i]} {c:.2f}" for i, c in zip(ids, cs, strict=True)),
            ]
            for word, ids, cs in zip(words, near, cosines, strict=True)
        ],
    )
    return {word: [vocabulary.words[i] for i in ids] for word, ids in zip(words, near, strict=True)}


def parser():
    p = common_flags(__doc__, name="wordemb-negative-sampling")
    p.add_argument("--how", choices=HOW, help="train in this way; without it: the ladder, then shared")
    p.add_argument("--epochs", type=int, default=10, help="passes over the text (default 10)")
    p.add_argument("--dim", type=int, default=128, help="numbers in a word vector (default 128)")
    p.add_argument("--window", type=int, default=5, help="contexts on either side, at most (default 5)")
    p.add_argument("--full-window", action="store_true", help="always the whole window; else 1 to WINDOW, as word2vec")
    p.add_argument("--negatives", type=int, default=5, metavar="K", help="noise words a pair (default 5)")
    p.add_argument("--shared", type=int, default=64, metavar="N", help="noise words that a batch shares (default 64)")
    p.add_argument("--batch", type=int, default=1024, help="pairs in a mini-batch (default 1024)")
    p.add_argument("--optimiser", choices=["adagrad", "sgd"], default="adagrad")
    p.add_argument("--lr", type=float, default=0.1, help="learning rate at the start (default 0.1)")
    p.add_argument("--min-count", type=int, default=5, help="rarer words become <unk> (default 5)")
    p.add_argument(
        "--subsample", type=float, default=1e-3, metavar="T", help="thin out words more frequent than T; 0: none"
    )
    p.add_argument(
        "--formula", choices=["paper", "code"], default="paper", help="subsampling as published, or as in word2vec.c"
    )
    p.add_argument("--neighbours", metavar="WORDS", help="words to look up at the end, with commas between")
    return p


# %% All of it
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.quick:
        args.epochs, args.dim, args.min_count = min(args.epochs, 1), min(args.dim, 32), min(args.min_count, 3)
    for name in ("epochs", "dim", "window", "negatives", "shared", "batch", "lr"):
        if not getattr(args, name) > 0:
            raise DemoError(f"--{name} must be positive, got {getattr(args, name)}")
    choose_device(args.device)
    out = output_folder(args.out)

    corpus = load_corpus(args.corpus, limit_words=20_000 if args.quick else None)
    vocabulary = Vocabulary.from_sentences(corpus.sentences, args.min_count)
    tokens = vocabulary.encode(corpus.sentences)
    print(f"{corpus.describe()}\n{len(vocabulary):,} words occur {args.min_count} times or more")

    results = {
        "environment": environment(),
        "corpus": corpus.describe(),
        "arguments": vars(args),
        "vocabulary": len(vocabulary),
    }
    how = args.how or "shared"
    if args.how is None:
        slice_ = Tokens(tokens.ids[:2000], tokens.sentence[:2000])
        results["ladder"] = rungs = climb(vocabulary, slice_, args, 0.3 if args.quick else 3.0)
        table(
            f"The ladder: {args.dim} numbers a vector, window {args.window}, {args.negatives} negatives, {args.optimiser}",
            ["how", "words/s", "pairs/s", "times the rung below"],
            [
                [
                    r["how"],
                    r["words_per_second"],
                    r["pairs_per_second"],
                    f"{r['pairs_per_second'] / below['pairs_per_second']:.1f}×" if below else None,
                ]
                for r, below in zip(rungs, [None, *rungs], strict=False)
            ],
        )

    model = SkipGram.new(vocabulary, how, args)
    results["training"] = train(model, how, tokens, vocabulary.counts, args)
    vectors = model.vectors.numpy()
    if not np.isfinite(vectors).all():
        raise DemoError(f"the vectors have grown beyond all bounds: try --lr smaller than {args.lr}")

    wanted = args.neighbours.split(",") if args.neighbours else WORDS_TO_SHOW.split()
    results["neighbours"] = neighbour_table(vocabulary, vectors, wanted)
    write_word2vec(out / "vectors.txt", vocabulary.words, vectors)
    write_projector(out / "vectors.tsv", out / "metadata.tsv", vocabulary.words, vectors)
    write_json(out / "results.json", results)
    shown = [i for i in range(1, len(vocabulary)) if vocabulary.words[i].isalpha()][:150]
    if len(shown) >= 3:
        word_map(
            out / "map.png", [vocabulary.words[i] for i in shown], vectors[shown], "Frequent words", args.show, 150
        )
    print(f"written to {out}: vectors.txt, vectors.tsv, metadata.tsv, results.json, map.png")


if __name__ == "__main__":
    run_demo(main)
