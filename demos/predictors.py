"""Structure-based approximations: how many rows of W does a word cost, and what does it cost in perplexity?

The slides: "We can also change the structure of the softmax to be more efficiently calculable: class-based softmax,
hierarchical softmax, binary codes, embedding prediction"; and twice: "Quiz: What is the computational complexity?"

    python demos/predictors.py
    python demos/predictors.py --layers full class hierarchical adaptive
    python demos/predictors.py --full

The quizzes first, in rows touched a word: exact, from the `score_cost` of each layer of losses/structured/, where words
occur by Zipf's law. p is how often a word occurs, the sum of all p being 1.

    class-based     C rows for the classes, and one for each word of the right class. With C classes of equally many
                    words that is C + V / C ≥ 2 √V. With classes as probable as one another,
                    C + Σ_c (1 / C) |c| = C + V / C: the same.                                                   (1)
                    Let a class have s words where words are about as frequent as their neighbours in rank. Then the
                    classes are Σ_w 1 / s, and of the right one's words there are Σ_w p s. Both together are least for
                    s = 1 / √p, 2 Σ_w √p ≤ 2 √V: classes among which √p is shared out equally.                   (2)
    hierarchical    the length of a path: log₂ V if the tree is balanced; for Huffman's H ≤ E ℓ < H + 1, H being the
                    entropy of the words in bits.                                                                (3)
    binary codes    ⌈log₂ V⌉; error-correcting, with memory r, 2 (⌈log₂ V⌉ + r); hybrid, N + 1 and the bits.     (4)
    embedding       m, the numbers in a vector, whatever V is.

What they cannot say is a number too, and needs no training. Take log P(w | h) for many h and all w, and from each row
its mean: what is the rank of this matrix? Of a full softmax it is that of W h + b, so d + 1 at most (Yang, Dai,
Salakhutdinov, Cohen: "Breaking the Softmax Bottleneck", ICLR 2018). With a code, log P(w | h) = Σ_b c_b(w) z_b(h) but
for what all words share, so that the rank is at most the number of bits: log₂ V things can be said of V words.

Then all learn the same: a language model, with an embedding of 128 numbers for each of the three words before, a hidden
layer of 128 with tanh, and one of the structures at its end (Bengio et al., JMLR 2003: see nn-1m.py). They hear the
same words in the same order, in batches of 256, and begin alike but for the output layer; Adagrad, with a rate that
falls to zero. By default it is that of 0.05, 0.1 and 0.2 which does best for the layer in --full, which tries all three
and learns for longer, from three seeds. The table has

    perplexity       of sentences that were held out; all these layers are normalised over all words
    right words      how often the word it finds likeliest is the word that comes
    words/s          in training; in prediction of the likeliest word, by the layer alone, and by the whole model
    bytes            of the output layer, with the vectors that embedding prediction needs, which are frozen

Those vectors are made of the same text: of words beside each other the positive pointwise mutual information, its
largest singular vectors (Levy and Goldberg, NIPS 2014), of length one.

In out/predictors/: rows.png, perplexity.png, results.json. Takes about one and a half minutes, --quick under ten
seconds; --full says how long when it begins. With Ctrl-C the layers that are done are shown.

To predict before running; `predict` in results.json has the answers:
    1.  Of 1,000,000 words a softmax touches ten times the rows that it touches of 100,000. How many times those does
        class-based softmax touch, and how many times hierarchical softmax?
    2.  A softmax over 8,000 words becomes 13 sigmoids. What becomes of the perplexity?
"""

# %% What we need
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from _shared.curves import curves
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.plots import lines
from _shared.progress import Progress, counted, interruptible
from _shared.report import environment, table, write_json
from _shared.text import Text, read_text
from _shared.vocabulary import Tokens
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses.structured import class_based
from losses.structured.error_correcting import ConvolutionalCode
from minigrad import backend
from minigrad.backend import read, type_of_array

DIM = 128  # numbers in an embedding, and in the hidden layer
BEFORE = 3  # words from which the next is guessed
HELD_OUT = 20  # every so many sentences one that nobody learns
FREQUENT, MEMORY, NUMBERS = 256, 6, 64  # N of the hybrids, r of the codes, m of embedding prediction
RATES = (0.05, 0.1, 0.2)


# %% The structures. Each makes a layer(vocab_size, dim, counts=…, key=…, vectors=(V, m))
class Kind(NamedTuple):
    says: str
    make: Callable[..., losses.layer.OutputLayer]
    rank: str  # of its log-probabilities, at most
    look: dict[str, object]  # of its curve
    rate: float = 0.1  # the best of RATES in --full


def plain(layer: type, **of_kind) -> Callable[..., losses.layer.OutputLayer]:
    """A layer that needs no vectors."""
    return lambda vocab_size, dim, *, vectors=None, **options: layer(vocab_size, dim, **of_kind, **options)


def hybrid(**of_kind) -> Callable[..., losses.layer.OutputLayer]:
    """N frequent words, fewer where there aren't as many."""
    return lambda vocab_size, dim, *, vectors=None, **options: losses.HybridCode(
        vocab_size, dim, num_frequent=min(FREQUENT, vocab_size // 4), **of_kind, **options
    )


def embedding(vocab_size: int, dim: int, *, vectors: type_of_array, **options) -> losses.layer.OutputLayer:
    return losses.VonMisesFisher(vocab_size, dim, embeddings=vectors, **options)


BLACK, BLUE, RED, GREEN, PINK, ORANGE, GRAY = "#000000 #0072B2 #D55E00 #009E73 #A4468A #B07800 #555555".split()
DASHED, DOTTED = {"linestyle": "--"}, {"linestyle": ":"}
CONVOLUTIONAL = partial(ConvolutionalCode, memory=MEMORY)
KINDS = {
    "full": Kind("full softmax", plain(losses.FullSoftmax), "d + 1", {"color": BLACK, "linewidth": 5}),
    "class": Kind("class-based", plain(losses.ClassSoftmax), "V − 1", {"color": BLUE}),
    "hierarchical": Kind("hierarchical, Huffman", plain(losses.HierarchicalSoftmax), "V − 1", {"color": GREEN}),
    "balanced": Kind(
        "hierarchical, balanced", plain(losses.HierarchicalSoftmax, tree="balanced"), "V − 1", {"color": GREEN, **DASHED}
    ),
    "adaptive": Kind("adaptive", plain(losses.AdaptiveSoftmax), "V − 1", {"color": PINK}),
    "binary": Kind("binary code", plain(losses.BinaryCode), "bits", {"color": RED}),
    "correcting": Kind(
        "error-correcting code", plain(losses.ErrorCorrectingCode, memory=MEMORY), "bits", {"color": RED, **DASHED}
    ),
    "hybrid": Kind("hybrid", hybrid(), "N + bits", {"color": ORANGE}),
    "hybrid-correcting": Kind(
        "hybrid, error-correcting", hybrid(codebook=CONVOLUTIONAL), "N + bits", {"color": ORANGE, **DASHED}
    ),
    "embedding": Kind("embedding (vMF)", embedding, "m", {"color": GRAY, **DOTTED}),
}


# %% The quizzes: rows touched a word
ZIPF = (1_000, 10_000, 100_000, 1_000_000)  # words
BINNINGS = {
    "equally many words": class_based.equal_size_classes,
    "equally probable": class_based.equal_mass_classes,
    "equal in √count": class_based.sqrt_count_classes,
}


def rows_of(name: str, vocab_size: int, key: mg.Key) -> losses.layer.ScoreCost:
    """As the layer itself says. With d = 1 where rows are counted whatever their length: a table of V rows is large."""
    dim = DIM if name == "adaptive" else 1
    vectors = backend.xp().ones((vocab_size, 1), "float32") if name == "embedding" else None
    return KINDS[name].make(vocab_size, dim, key=key, vectors=vectors).score_cost()


def entropy(counts: type_of_array) -> float:
    """In bits."""
    p = backend.to_cpu(counts) / float(read(counts.sum()))
    return -float((p * np.log2(p)).sum())


def class_rows(counts: type_of_array, binning: str, num_classes: int) -> float:
    """C and the mean size of the class of a word, for classes of this kind."""
    return class_based.expected_rows(counts, BINNINGS[binning](counts, num_classes))


def numbers_of_classes(vocab_size: int, points: int = 24, reach: float = 4.0) -> list[int]:
    """Of classes, from √V / reach to √V · reach, √V among them."""
    root = math.sqrt(vocab_size)
    found = {round(root * reach ** (2 * i / points - 1)) for i in range(points + 1)}
    return sorted(min(max(number, 2), vocab_size) for number in found)


def best_classes(counts: type_of_array, binning: str) -> tuple[float, int]:
    """The fewest rows, and with how many classes."""
    return min((class_rows(counts, binning, number), number) for number in numbers_of_classes(len(counts)))


def quiz(sizes: Sequence[int], key: mg.Key, advance: Callable[[], object]) -> dict:
    """All that part one has to tell: {"rows": {structure: rows for each V}, "best_classes": …, …}."""
    rows, best, test = {}, {}, {}
    for vocab_size in sizes:
        counts = losses.samplers.zipf(vocab_size)

        def add(says, number):
            rows.setdefault(says, []).append(float(number))

        for name, kind in KINDS.items():
            if name == "class":
                for binning in BINNINGS:
                    found = best_classes(counts, binning)
                    add(f"class-based, {binning}", found[0])
                    best.setdefault(binning, []).append(found[1])
                add("(2 Σ √p)", 2 * float(read(((counts / counts.sum()) ** 0.5).sum())))
            cost = rows_of(name, vocab_size, key)
            if name != "class":
                add(kind.says, cost.train)
            test.setdefault(kind.says, []).append(float(cost.test))
            if name == "hierarchical":
                add("(entropy, bits)", entropy(counts))
            advance()
    middle = sizes[len(sizes) // 2 - 1]
    counts = losses.samplers.zipf(middle)
    numbers = numbers_of_classes(middle, points=8, reach=8)
    over = {binning: [class_rows(counts, binning, number) for number in numbers] for binning in BINNINGS}
    return {
        "vocab_sizes": list(sizes),
        "rows": rows,
        "rows_at_test": test,
        "best_numbers_of_classes": best,
        "classes": {"vocab_size": middle, "numbers": numbers, "rows": over},
    }


def growth(sizes: Sequence[int], rows: Sequence[float]) -> float:
    """The exponent a of V^a over the last two sizes."""
    return math.log(rows[-1] / rows[-2]) / math.log(sizes[-1] / sizes[-2])


# %% What cannot be said: the rank of log P
def log_prob_of_random(kind: Kind, vocab_size: int, dim: int, numbers: int, contexts: int, key: mg.Key):
    """log P(w | h), (contexts, V) in float64, of a layer whose tables are drawn from N(0, 1 / d), and that layer."""
    vectors = key.fold(0).normal((vocab_size, numbers), "float64")
    vectors /= (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    layer = kind.make(vocab_size, dim, key=key.fold(1), vectors=vectors)
    for i, name in enumerate(layer.tables):
        if (old := getattr(layer, name)) is not None:
            setattr(layer, name, mg.param(key.fold(2, i).normal(old.shape, "float64") * (4.0 / dim) ** 0.5))
    with mg.no_grad():
        return layer.log_prob(mg.tensor(key.fold(3).normal((contexts, dim), "float64"))).numpy(), layer


def rank(log_prob: np.ndarray) -> int:
    """Of log P less the mean of each row: the singular values that are no rounding error."""
    centred = log_prob - log_prob.mean(axis=1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False)
    return int((values > 1e-9 * values[0]).sum())


def ranks(vocab_size: int, dim: int, numbers: int, key: mg.Key) -> dict[str, int]:
    """What is found for each structure."""
    found = {}
    for name, kind in KINDS.items():
        log_prob, _ = log_prob_of_random(kind, vocab_size, dim, numbers, 4 * vocab_size, key)
        found[name] = rank(log_prob)
    return found


# %% The text
class Size(NamedTuple):
    vocab_size: int  # at most, with the boundary of sentences, which is the last id
    updates: int
    batch: int
    held_out: int  # words, at most
    seeds: int = 1
    words: int | None = None  # of the text


SIZES = {
    "quick": Size(400, 48, 64, 300, words=20_000),
    "default": Size(8_000, 800, 256, 4_000),
    "full": Size(12_000, 8_000, 256, 20_000, seeds=3),
}


class Data(NamedTuple):
    """What is learned, in random order, and what is held out, on the device; and vectors for embedding prediction."""

    contexts: type_of_array  # (n, 3)
    targets: type_of_array  # (n,)
    held_contexts: type_of_array
    held_targets: type_of_array
    counts: type_of_array  # (V,) of the targets, and one more, for a word may be held out and nothing else
    vectors: type_of_array  # (V, m), of length one

    @property
    def vocab_size(self) -> int:
        return len(self.counts)


def read_data(text: Text, size: Size, rng: np.random.Generator) -> Data:
    boundary, (ids, sentence) = len(text.vocabulary), (text.tokens.ids, text.tokens.sentence)
    out = sentence % HELD_OUT == HELD_OUT - 1
    held_contexts, held_targets = ngrams(Tokens(ids[out], sentence[out]), BEFORE, boundary)
    contexts, targets = ngrams(Tokens(ids[~out], sentence[~out]), BEFORE, boundary)
    if not len(held_targets) or len(targets) < size.batch:
        expected = f"expected {HELD_OUT} sentences or more, one a line, and {size.batch} words to learn"
        raise DemoError(f"{text.name}: there is too little to learn: {expected}")
    counts = np.bincount(targets, minlength=boundary + 1) + 1.0
    vectors = vectors_of(contexts, targets, boundary + 1, rng)
    some, order = rng.permutation(len(held_targets))[: size.held_out], rng.permutation(len(targets))
    arrays = contexts[order], targets[order], held_contexts[some], held_targets[some], counts, vectors
    return Data(*map(backend.asarray, arrays))


def vectors_of(contexts: np.ndarray, targets: np.ndarray, vocab_size: int, rng: np.random.Generator) -> np.ndarray:
    """Of words that stand beside each other, within three words: unit vectors (V, m) float32.

    C_vw: how often v stands near w. M = max(0, log (C_vw Σ C / (C_v C_w))) ≈ U S Uᵀ; the vectors are rows of U √S. A
    word that is near none gets any direction.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    near = np.repeat(targets, BEFORE), contexts.ravel()
    C = coo_matrix((np.ones(len(near[0])), near), shape=(vocab_size, vocab_size)).tocsr()
    C = (C + C.T).tocoo()  # equal places are added up
    each = np.asarray(C.sum(axis=1)).ravel()
    C.data = np.maximum(np.log(C.data * each.sum() / (each[C.row] * each[C.col])), 0.0)
    m = min(NUMBERS, vocab_size // 4)
    U, S, _ = svds(C.tocsr(), k=m, v0=np.ones(vocab_size))
    found = U * np.sqrt(S)  # (V, m)
    nowhere = np.linalg.norm(found, axis=1) < 1e-6
    found[nowhere] = rng.standard_normal((nowhere.sum(), m))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


# %% The model
class LanguageModel:
    """Three embeddings side by side, a hidden layer, and an output layer."""

    def __init__(self, name: str, data: Data, key: mg.Key):
        V = data.vocab_size
        self.embedding = mg.param(0.1 * key.fold(0).normal((V, DIM)))
        self.hidden = mg.nn.Linear(BEFORE * DIM, DIM, key=key.fold(1))
        self.output = KINDS[name].make(V, DIM, counts=data.counts, key=key.fold(2), vectors=data.vectors)

    def parameters(self) -> list[mg.Tensor]:
        return [self.embedding, self.hidden.weight, self.hidden.bias, *self.output.parameters()]

    def __call__(self, contexts: type_of_array) -> mg.Tensor:
        """h of contexts (B, 3): (B, d)."""
        return mg.tanh(self.hidden(mg.take(self.embedding, contexts).reshape(len(contexts), -1)))


class Marks(NamedTuple):
    perplexity: float
    right: float


def examined(model: LanguageModel, data: Data, batch: int = 512) -> Marks:
    total, right = 0.0, 0
    with mg.no_grad(), backend.quiet():
        for i in range(0, len(data.held_targets), batch):
            contexts, targets = data.held_contexts[i : i + batch], data.held_targets[i : i + batch]
            hidden = model(contexts)
            total -= float(read(model.output.log_prob_of(hidden, targets).data.sum(dtype="float64")))
            right += int(read((model.output.topk(hidden, 1)[0][:, 0] == targets).sum()))
    n = len(data.held_targets)
    if not math.isfinite(total) or total / n > 700:
        raise FloatingPointError("the perplexity is not finite")
    return Marks(math.exp(total / n), right / n)


class Point(NamedTuple):
    updates: int
    seconds: float  # of learning alone
    perplexity: float
    right: float


class Stopped(Exception):
    """Ctrl-C was heard: what is under way is dropped, what is done is kept."""


class School:
    """Where one layer after the other learns from the same batches."""

    def __init__(self, data: Data, size: Size, key: mg.Key, stop):
        self.data, self.size, self.key, self.stop = data, size, key, stop
        self.advance = lambda updates: None

    def learn(self, name: str, rate: float, seed: int, updates: int, at: Sequence[int] = ()):
        """The model, and its points after the numbers of updates `at` and at the end. FloatingPointError: too fast."""
        model, data, batch = LanguageModel(name, self.data, self.key.fold(seed)), self.data, self.size.batch
        optimiser = mg.optim.Adagrad(model.parameters(), lr=rate)
        points, seconds, done = [], 0.0, 0
        first, batches = seed * updates, len(data.targets) // batch  # each seed has its own part of the text, or order
        for end in sorted({*(each for each in at if each < updates), updates}):
            backend.synchronize()
            begin = time.perf_counter()
            for update in range(done, end):
                here = slice(start := (first + update) % batches * batch, start + batch)
                optimiser.lr = rate * (1.0 - update / updates)
                with backend.quiet():
                    model.output.loss(model(data.contexts[here]), data.targets[here]).backward()
                    optimiser.step()
                optimiser.zero_grad()
                self.advance(1)
                if self.stop.requested:
                    raise Stopped
            backend.synchronize()
            seconds, done = seconds + time.perf_counter() - begin, end
            points.append(Point(done, seconds, *examined(model, data)))
        return model, points

    def teach(self, name: str, rates: Sequence[float]) -> dict:
        """All that there is to tell of one layer: the best rate, by the first seed, and what all seeds have learned."""
        updates = self.size.updates
        at, tried = [updates // 2**i for i in range(5, 0, -1) if updates >= 2**i], {}
        for rate in rates:
            try:
                tried[rate] = self.learn(name, rate, 0, updates, at)
            except FloatingPointError:
                tried[rate] = None
        ends = {rate: found[1][-1].perplexity for rate, found in tried.items() if found}
        if not ends:
            raise DemoError(f"{KINDS[name].says}: at the rates {', '.join(map(str, rates))} it grows beyond all bounds")
        rate = min(ends, key=ends.get)
        model, curve = tried[rate]
        last = [curve[-1], *(self.learn(name, rate, seed, updates)[1][-1] for seed in range(1, self.size.seeds))]
        alone, whole = self.speeds(model)
        return {
            "name": name,
            "says": KINDS[name].says,
            "learning_rate": rate,
            "tried": ends,
            "curve": [point._asdict() for point in curve],
            "seeds": [point._asdict() for point in last],
            "perplexity": math.exp(statistics.fmean(math.log(point.perplexity) for point in last)),
            "right": statistics.fmean(point.right for point in last),
            "seconds": curve[-1].seconds,
            "words_per_second": {
                "training": updates * self.size.batch / curve[-1].seconds,
                "prediction, layer": alone,
                "prediction, model": whole,
            },
            "bytes": bytes_of(name, model.output, self.data),
        }

    def speeds(self, model: LanguageModel) -> tuple[float, float]:
        """Words/s of the likeliest word: by the output layer alone, and by the whole model."""
        contexts = self.data.held_contexts[: self.size.batch]
        with mg.no_grad():
            hidden = model(contexts)
            calls = lambda: model.output.topk(hidden, 1), lambda: model.output.topk(model(contexts), 1)
            return tuple(len(contexts) / median_seconds(call) for call in calls)

    def about(self, name: str) -> float:
        """Seconds of one update, from a few; kernels are compiled now, or read from disk."""
        self.learn(name, KINDS[name].rate, 0, 2)
        return self.learn(name, KINDS[name].rate, 0, 6)[1][-1].seconds / 6


def median_seconds(call: Callable[[], object], least: int = 3, seconds: float = 0.2) -> float:
    call()
    times = []
    while len(times) < least or sum(times) < seconds:
        backend.synchronize()
        begin = time.perf_counter()
        call()
        backend.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def bytes_of(name: str, layer: losses.layer.OutputLayer, data: Data) -> int:
    """Of what is learned, and of the vectors that embedding prediction is given."""
    return sum(p.data.nbytes for p in layer.parameters()) + (data.vectors.nbytes if name == "embedding" else 0)


# %% What the numbers say
CODES = ("binary", "correcting", "hybrid", "hybrid-correcting", "full")  # in the order of the paper's results


def verdicts(asked: Mapping, found_ranks: Mapping[str, int], bits: int, taught: Mapping[str, dict]) -> list[dict]:
    """What is said, on the slides or in a paper: whether it holds here, and the numbers."""
    sizes, rows, told = asked["vocab_sizes"], asked["rows"], []

    def say(sentence, holds, measured, numbers):
        told.append({"sentence": sentence, "holds": holds, "measured": measured, "numbers": list(numbers)})

    of_classes = {binning: rows[f"class-based, {binning}"] for binning in BINNINGS}
    grow = [growth(sizes, found) for found in of_classes.values()]
    say("class-based: O(√V)", all(0.4 <= a <= 0.6 for a in grow), "growth V^…, of each kind of classes", grow)
    pairs = zip(of_classes["equally probable"], of_classes["equally many words"], strict=True)
    times = [a / b for a, b in pairs]
    say("(1): equally probable classes cost the same", all(abs(t - 1) < 0.05 for t in times), "times the rows", times)
    over = [a - b for a, b in zip(rows[KINDS["hierarchical"].says], rows["(entropy, bits)"], strict=True)]
    say("hierarchical: between H and H + 1, not log₂ V", all(0 <= x < 1 for x in over), "Huffman's less H", over)
    say("a code can say as many things as it has bits", found_ranks["binary"] == bits, "rank, bits", [found_ranks["binary"], bits])
    if {"binary", "full"} <= taught.keys():
        speed = [taught[name]["words_per_second"]["prediction, layer"] for name in ("binary", "full")]
        say("binary code: “fast”", speed[0] > speed[1], "words/s in prediction over the full softmax's", [speed[0] / speed[1]])
    if set(CODES) <= taught.keys():
        right = [taught[name]["right"] for name in CODES]
        order = all(a < b for a, b in zip(right, right[1:]))
        say("binary < EC < hybrid < hybrid EC ≤ softmax (Oda et al.)", order, "right words", right)
        gap = (right[-2] - right[0]) / (right[-1] - right[0])
        say("the two improvements close the gap to the softmax", gap > 0.5, "part of the gap in right words", [gap])
    return told


# %% Tables and pictures
def three(number: float | None) -> str | None:
    """For people: three digits."""
    if number is None:
        return None
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def print_quiz(asked: Mapping) -> None:
    sizes = asked["vocab_sizes"]
    rows = []
    for says, found in asked["rows"].items():
        at_test = asked["rows_at_test"].get(says)
        grow = f"V^{growth(sizes, found):.2f}" if found[-1] != found[-2] else None
        rows.append([says, *map(three, found), grow, three(at_test[-1]) if at_test else None])
    headers = ["", *map("V = {:,}".format, sizes), "grows as", f"for the best word, V = {sizes[-1]:,}"]
    table("Rows touched a word in training, words as frequent as Zipf's law has them", headers, rows)
    classes = asked["classes"]
    least = {binning: min(found) for binning, found in classes["rows"].items()}
    rows = [
        [binning, *(f"{three(each)}{'*' if each == least[binning] else ''}" for each in found)]
        for binning, found in classes["rows"].items()
    ]
    headers = ["classes", *map("C = {:,}".format, classes["numbers"])]
    table(f"The same for V = {classes['vocab_size']:,} over the number of classes; *: the fewest", headers, rows)


def print_ranks(found: Mapping[str, int], vocab_size: int, dim: int, numbers: int) -> None:
    rows = [[KINDS[name].says, found[name], KINDS[name].rank] for name in found]
    table(f"Rank of log P less each row's mean: V = {vocab_size}, d = {dim}, m = {numbers}", ["", "rank", "at most"], rows)


def print_layers(taught: Mapping[str, dict], size: Size) -> None:
    full = taught.get("full")
    rows = []
    for one in taught.values():
        speed = one["words_per_second"]
        more = f"{100 * (one['perplexity'] / full['perplexity'] - 1):+.1f} %" if full else None
        rows.append(
            [
                one["says"],
                three(one["perplexity"]),
                more,
                f"{100 * one['right']:.1f} %",
                one["learning_rate"],
                *(three(speed[what]) for what in speed),
                one["bytes"],
                f"1/{full['bytes'] / one['bytes']:.3g}" if full else None,
            ]
        )
    headers = ["output layer", "perplexity", "to full", "right words", "rate", "words/s, training", "prediction, layer"]
    headers += ["prediction, model", "bytes", "of full's"]
    examples = size.updates * size.batch
    table(f"After {size.updates:,} updates, {examples:,} words", headers, rows)


def picture_of_rows(path, asked: Mapping, show: bool) -> None:
    sizes, rows = asked["vocab_sizes"], asked["rows"]
    series = {says: (sizes, found) for says, found in rows.items() if not says.startswith("(")}
    looks = {kind.says: kind.look for kind in KINDS.values()}
    dashes = dict(zip(BINNINGS, ("--", ":", "-"), strict=True))
    looks |= {f"class-based, {binning}": {"color": BLUE, "linestyle": style} for binning, style in dashes.items()}
    series = {says: (*xy, looks[says]) for says, xy in series.items()}
    classes = asked["classes"]
    of_classes = {
        binning: (classes["numbers"], found, looks[f"class-based, {binning}"])
        for binning, found in classes["rows"].items()
    }
    panels = [
        {"series": series, "xlabel": "V, words", "ylabel": "rows a word", "log": "xy", "title": "over the vocabulary"},
        {
            "series": of_classes,
            "xlabel": "C, classes",
            "ylabel": "rows a word",
            "log": "xy",
            "title": f"class-based, V = {classes['vocab_size']:,}",
            "marks": {"√V": math.sqrt(classes["vocab_size"])},
        },
    ]
    lines(path, "Rows touched a word in training", panels, show)


def picture_of_perplexity(path, taught: Mapping[str, dict], size: Size, show: bool) -> None:
    series, full = {}, taught.get("full")
    for name, one in taught.items():
        curve = one["curve"]
        axes = [[point["updates"] for point in curve], [point["seconds"] for point in curve]]
        series[one["says"]] = {"x": axes, "y": [point["perplexity"] for point in curve], **KINDS[name].look}
    panels = [
        {"xlabel": f"updates, of {size.batch} words", "title": "the same updates", "ylabel": "perplexity, held out"},
        {"xlabel": "seconds of learning", "title": "the same time, the same colours"},
    ]
    curves(path, f"A language model with each output layer: {size.vocab_size:,} words", series, panels, show)


# %% All of it
def parser():
    p = common_flags(__doc__, name="predictors")
    p.add_argument("--full", action="store_true", help="12,000 words, three rates, three seeds, for as long as it takes")
    p.add_argument("--layers", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    p.add_argument("--rates", nargs="+", type=float, metavar="RATE", help="learning rates to try, for each layer")
    p.add_argument("--updates", type=int, metavar="N", help="updates of each layer")
    return p


def checked(args) -> None:
    if args.quick and args.full:
        raise DemoError("--quick and --full: one of the two")
    if args.rates and not all(0 < rate < math.inf for rate in args.rates):
        raise DemoError(f"--rates must be positive, got {' '.join(map(str, args.rates))}")
    if args.updates is not None and args.updates < 1:
        raise DemoError(f"--updates must be at least 1, got {args.updates}")


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


@threadpool_limits.wrap(limits=1, user_api="blas")  # so that the layers have the same: most have only small products
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    checked(args)
    choose_device(args.device)
    size = SIZES["quick" if args.quick else "full" if args.full else "default"]
    size = size._replace(updates=args.updates or size.updates)
    out, key = output_folder(args.out), mg.Key(args.seed)
    names = [name for name in KINDS if name in args.layers]
    rates = {name: args.rates or (RATES if args.full else [KINDS[name].rate]) for name in names}

    sizes = ZIPF[:2] if args.quick else ZIPF
    with Progress("counting rows", len(sizes) * len(KINDS), "layers") as bar:
        asked = quiz(sizes, key.fold(0), bar.advance)
    print_quiz(asked)
    ranked = (32, 12, 8) if args.quick else (64, 32, 16)  # V, d, m
    found_ranks = ranks(*ranked, key.fold(1))
    print_ranks(found_ranks, *ranked)

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, 1, max_size=size.vocab_size - 1, limit_words=size.words, progress=progress)
    data = read_data(text, size, np.random.default_rng(args.seed))
    size = size._replace(vocab_size=data.vocab_size)
    print(f"{text.describe()}\n{data.vocab_size:,} ids, {len(data.held_targets):,} words held out", flush=True)
    taught = {}
    with interruptible("the layer under way is dropped, those done are shown") as stop:
        school = School(data, size, key.fold(2), stop)
        updates = {name: size.updates * (len(rates[name]) + size.seeds - 1) for name in names}
        try:
            about = sum(school.about(name) * updates[name] for name in names)
            print(f"{len(names)} layers, {sum(updates.values()):,} updates: about {duration(about)}", flush=True)
            with Progress("learning", sum(updates.values()), "updates") as bar:
                school.advance = bar.advance
                for name in names:
                    taught[name] = school.teach(name, rates[name])
        except Stopped:
            if not taught:
                raise DemoError("stopped before the first layer was done: there is nothing to show") from None
            print(f"stopped early: of {len(names)} layers {len(taught)} done, and shown")

    print_layers(taught, size)
    bits = (ranked[0] - 1).bit_length()
    said = verdicts(asked, found_ranks, bits, taught)
    rows = [[row["sentence"], row["holds"], row["measured"], ", ".join(map(three, row["numbers"]))] for row in said]
    table("What is said, and what is found here", ["they say", "holds", "measured", "numbers"], rows)
    picture_of_rows(out / "rows.png", asked, args.show)
    picture_of_perplexity(out / "perplexity.png", taught, size, args.show)
    write_json(
        out / "results.json",
        {
            "environment": environment(),
            "arguments": vars(args),
            "corpus": text.describe(),
            "size": size._asdict(),
            "quiz": asked,
            "ranks": {"vocab_size": ranked[0], "dim": ranked[1], "numbers": ranked[2], "found": found_ranks},
            "layers": list(taught.values()),
            "stopped_early": len(taught) < len(names),
            "verdicts": said,
            "predict": predicted(asked, taught),
        },
    )
    print(f"in {out}: rows.png, perplexity.png, results.json")


def predicted(asked: Mapping, taught: Mapping[str, dict]) -> dict:
    """The answers to the questions at the top; None where a layer was not asked for."""
    rows = asked["rows"]
    times = lambda says: rows[says][-1] / rows[says][-2]
    both = {"binary", "full"} <= taught.keys()
    return {
        "times_the_rows_of_class_based_softmax": times("class-based, equal in √count"),
        "times_the_rows_of_hierarchical_softmax": times(KINDS["hierarchical"].says),
        "perplexity_of_the_binary_code_over_the_full_softmaxs": (
            taught["binary"]["perplexity"] / taught["full"]["perplexity"] if both else None
        ),
    }


if __name__ == "__main__":
    run_demo(main)
