"""Structure-based approximations: how many rows of W does a word cost, and what does it cost in perplexity?

The slides: "We can also change the structure of the softmax to be more efficiently calculable: class-based softmax,
hierarchical softmax, binary codes, embedding prediction"; and twice: "Quiz: What is the computational complexity?"

    python demos/predictors.py
    python demos/predictors.py --layers full class hierarchical adaptive
    python demos/predictors.py --full

The quizzes first, in rows touched a word: exact, from the `score_cost` of each layer of losses/structured/, where words
occur by Zipf's law. p is how often a word occurs, the sum of all p being 1.

    class-based     C rows for the classes, and one for each word of the right class. With C classes of equally many
                    words that is C + V / C ≥ 2 √V. If classes are as probable as one another instead, it is
                    C + Σ_c (1 / C) |c| = C + V / C: the same. (A word that is heavier than a class forbids it: then
                    classes would be empty, and are left out.)                                                   (1)
                    Let a class have s words where the words are about as frequent as their neighbours in rank. Then
                    there are Σ_w 1 / s classes, and in the right one Σ_w p s words. For each word set the derivative
                    by s to zero, −1 / s² + p = 0: s = 1 / √p. Then there are Σ_w √p classes, each with Σ √p = 1, and
                    in the right one Σ_w √p words: 2 Σ_w √p ≤ 2 √V.                                               (2)
    hierarchical    the length of a path: ⌊log₂ V⌋ or one more if the tree is balanced, where the frequent words have
                    the shorter paths; for Huffman's H ≤ E ℓ < H + 1, H being the words' entropy in bits.         (3)
    binary codes    ⌈log₂ V⌉; error-correcting, with memory r, 2 (⌈log₂ V⌉ + r); hybrid, N + 1 and the bits.     (4)
    embedding       m, the numbers in a vector, whatever V is.
    adaptive        the head, and for a rare word a cluster whose rows are shorter: in rows of d numbers. That grows
                    nearly as V. It is worth it where few large products are quicker than many small ones.

All that is for learning. To find the likeliest word, codes and hybrids touch the same rows. The others have more to do:
a tree and classes are searched until nothing better can come, embedding prediction compares all V vectors.

What they cannot say is a number too, and needs no training. Take log P(w | h) for many h and all w, and from each row
its mean: what is the rank of this matrix? Of a full softmax it is that of W h + b, so d + 1 at most (Yang, Dai,
Salakhutdinov, Cohen: "Breaking the Softmax Bottleneck", ICLR 2018). With a code, log P(w | h) = Σ_b c_b(w) z_b(h) but
for what all words share, so that the rank is at most the number of bits: with a plain one ⌈log₂ V⌉ things can be said
of V words. An error-correcting one has more bits, of which two are others again (error_correcting.py, (12)); the z_b
are linear in h and 1, so that d + 1 is a bound as well. (Where decisions multiply, each has a sum of its own to be
divided by, and the log of such a sum is not linear in h. Still, two words that are the children of one node differ by
its score: more than d + 1 such pairs are not independent. All words of the adaptive head and its J clusters would
make k_h + J; one less, for the mean is taken off; and d_i in cluster i.)

Then all learn the same: a language model, with an embedding of 128 numbers for each of the three words before, a hidden
layer of 128 with tanh, and one of the structures at its end (Bengio et al., JMLR 2003: see nn-1m.py). They hear the
same words in the same order, in batches of 256, and begin alike but for the output layer; Adagrad, with a rate that
falls to zero. By default it begins at 0.1, for embedding prediction at 0.05: of these two and 0.2 the best for each
layer, at these sizes. --full tries all three, and learns for longer, from three seeds. The table has

    perplexity       of sentences that were held out; all these layers are normalised over all words. None of embedding
                     prediction, which learns a density on a sphere and no probability of words
    right words      how often the word it finds likeliest is the word that comes
    log P halved     of the error-correcting code: its bits are learned one by one, and as if they were independent. But
                     they are redundant, that is what they are for, and so the same evidence is counted twice or so:
                     it is far too sure of itself. That doesn't change which word is likeliest
    words/s          in training, by the median update; in prediction of the likeliest word, by the layer alone, and by
                     the whole model. One layer is measured after the other: on a busy machine they may vary twofold
    bytes            of the output layer, with the vectors that embedding prediction needs, which are frozen

Those vectors are made of the same text: of words beside each other the positive pointwise mutual information, its
largest singular vectors (Levy and Goldberg, NIPS 2014), of length one.

What is said of right words holds, or not, where it differs by two standard errors or more, of the differences on the
same words held out; otherwise there is a dash.

In out/predictors/: rows.png, perplexity.png, results.json. Takes about one and a half minutes, --quick under ten
seconds; --full says how long when it begins. With Ctrl-C the layers that are done are shown.

To predict before running; `predict` in results.json has the answers (--quick: of 10,000 words and of 1,000):
    1.  Of 1,000,000 words a softmax touches ten times the rows that it touches of 100,000. How many times those does
        class-based softmax touch, and how many times hierarchical softmax?
    2.  A softmax over 8,000 words becomes 13 sigmoids. What becomes of the perplexity?
"""

# %% What we need
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from _shared.curves import curves, named_at_the_end
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
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
LEAST = 6  # different words of a text: with fewer the adaptive softmax has no head
HELD_OUT = 20  # every so many sentences one that nobody learns
FREQUENT, MEMORY, NUMBERS = 256, 6, 64  # N of the hybrids, r of the codes, m of embedding prediction
RATES = (0.05, 0.1, 0.2)


# %% The structures. Each makes a layer(vocab_size, dim, counts=…, key=…, vectors=(V, m))
class Kind(NamedTuple):
    says: str
    make: Callable[..., losses.layer.OutputLayer]
    bound: tuple[str, Callable[[losses.layer.OutputLayer], int]]  # of the rank of its log P: in symbols, and of a layer
    look: dict[str, object]  # of its curve
    rate: float = 0.1  # by default: the best of RATES then
    probable: bool = True  # whether it learns probabilities of words


def plain(layer: type, **of_kind) -> Callable[..., losses.layer.OutputLayer]:
    """A layer that needs no vectors."""
    return lambda vocab_size, dim, *, vectors=None, **options: layer(vocab_size, dim, **of_kind, **options)


def hybrid(**of_kind) -> Callable[..., losses.layer.OutputLayer]:
    """N frequent words, fewer where there aren't as many."""
    return lambda vocab_size, dim, *, vectors=None, **options: losses.HybridCode(
        vocab_size, dim, num_frequent=min(FREQUENT, vocab_size // 4), **of_kind, **options
    )


def adaptive(vocab_size: int, dim: int, *, vectors=None, **options) -> losses.layer.OutputLayer:
    """With two clusters of a small vocabulary as well, for which the layer by itself makes none."""
    cutoffs = [vocab_size // 8, vocab_size // 2] if vocab_size < FREQUENT else None
    return losses.AdaptiveSoftmax(vocab_size, dim, cutoffs=cutoffs, **options)


def embedding(vocab_size: int, dim: int, *, vectors: type_of_array, **options) -> losses.layer.OutputLayer:
    return losses.VonMisesFisher(vocab_size, dim, embeddings=vectors, **options)


def different_bits(layer: losses.layer.OutputLayer) -> int:
    """The bits of the code, without those that are the same as another for all words."""
    book = layer.codebook
    codes = backend.to_cpu(book.bits(backend.xp().arange(book.num_words)))  # (words, bits)
    return len(np.unique(codes, axis=1).T)


def pairs(layer: losses.HierarchicalSoftmax) -> int:
    """Nodes of the tree whose children are two words."""
    children = backend.to_cpu(layer.tree.children)  # (V − 1, 2): a word is below V
    return int((children < layer.vocab_size).all(axis=1).sum())


BLACK, BLUE, RED, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PINK, ORANGE, GRAY, SKY, NAVY = "#A4468A", "#B07800", "#555555", "#4AA3DF", "#1B2A6B"
DASHED, DOTTED = {"linestyle": "--"}, {"linestyle": ":"}
CONVOLUTIONAL = partial(ConvolutionalCode, memory=MEMORY)
BITS = "min(bits, d + 1)", lambda layer: min(different_bits(layer), layer.dim + 1)
WORDS_AND_BITS = "min(N + bits, d + 2)", lambda layer: min(layer.num_frequent + different_bits(layer), layer.dim + 2)
TREE = "V − 1, less pairs above d + 1", lambda layer: layer.vocab_size - 1 - max(pairs(layer) - layer.dim - 1, 0)
HIERARCHICAL, CODE = losses.HierarchicalSoftmax, {"codebook": CONVOLUTIONAL}
KINDS = {
    "full": Kind(
        "full softmax",
        plain(losses.FullSoftmax),
        ("d + 1", lambda layer: layer.dim + 1),
        {"color": BLACK, "linewidth": 5},
    ),
    "class": Kind(
        "class-based",
        plain(losses.ClassSoftmax),
        ("d + C", lambda layer: layer.dim + layer.num_classes),
        {"color": BLUE},
    ),
    "hierarchical": Kind("hierarchical, Huffman", plain(HIERARCHICAL), TREE, {"color": GREEN}),
    "balanced": Kind("hierarchical, balanced", plain(HIERARCHICAL, tree="balanced"), TREE, {"color": GREEN, **DASHED}),
    "adaptive": Kind(
        "adaptive",
        adaptive,
        ("k_h + J − 1 + Σ d_i", lambda layer: len(layer.weight) - 1 + sum(layer.widths)),
        {"color": PINK},
    ),
    "binary": Kind("binary code", plain(losses.BinaryCode), BITS, {"color": RED}),
    "correcting": Kind(
        "error-correcting code", plain(losses.ErrorCorrectingCode, memory=MEMORY), BITS, {"color": RED, **DASHED}
    ),
    "hybrid": Kind("hybrid", hybrid(), WORDS_AND_BITS, {"color": ORANGE}),
    "hybrid-correcting": Kind("hybrid, error-correcting", hybrid(**CODE), WORDS_AND_BITS, {"color": ORANGE, **DASHED}),
    "embedding": Kind(
        "embedding (vMF)",
        embedding,
        ("m", lambda layer: layer.embeddings.shape[1]),
        {"color": GRAY, **DOTTED},
        rate=0.05,
        probable=False,
    ),
}


# %% The quizzes: rows touched a word
ZIPF = (1_000, 10_000, 100_000, 1_000_000)  # words
EQUAL_SIZE, EQUAL_MASS, EQUAL_ROOTS = "equally many words", "equally probable", "equal Σ √p"
BINNINGS = {
    EQUAL_SIZE: class_based.equal_size_classes,
    EQUAL_MASS: class_based.equal_mass_classes,
    EQUAL_ROOTS: class_based.sqrt_count_classes,
}


def rows_of(name: str, vocab_size: int, key: mg.Key) -> float:
    """In training, as the layer says. With d = 1 where the number doesn't depend on d: a table of V rows is large."""
    dim = DIM if name == "adaptive" else 1
    vectors = backend.xp().full((vocab_size, NUMBERS), NUMBERS**-0.5, "float32") if name == "embedding" else None
    return KINDS[name].make(vocab_size, dim, key=key, vectors=vectors).score_cost().train


def zipf(vocab_size: int) -> type_of_array:
    return backend.asarray(losses.samplers.zipf(vocab_size), "float64")


def entropy(counts: type_of_array) -> float:
    """In bits."""
    p = backend.to_cpu(counts) / float(read(counts.sum()))
    return -float((p * np.log2(p)).sum())


def sum_of_roots(counts: type_of_array) -> float:
    """Σ √p."""
    return float(read(((counts / counts.sum()) ** 0.5).sum()))


def class_rows(counts: type_of_array, binning: str, num_classes: int) -> tuple[float, int]:
    """C and the mean size of the class of a word, for classes of this kind; and how many of them are empty."""
    classes = BINNINGS[binning](counts, num_classes)
    return class_based.expected_rows(counts, classes), num_classes - 1 - int(read(classes.max()))


def numbers_about(middle: float, reach: float, points: int, most: int) -> list[int]:
    """Of classes: so many from middle / reach to middle · reach, each as many times the one before."""
    found = (round(middle * reach ** (2 * i / (points - 1) - 1)) for i in range(points))
    return sorted({min(max(number, 2), most) for number in found})


def fewest_rows(counts: type_of_array, binning: str) -> float:
    """With the best number of classes, which is looked for about where it is by (1) or (2)."""
    middle = sum_of_roots(counts) if binning == EQUAL_ROOTS else math.sqrt(len(counts))
    numbers = numbers_about(middle, reach=2.0, points=9, most=len(counts))
    return min(class_rows(counts, binning, number)[0] for number in numbers)


def beside(name: str, counts: type_of_array) -> dict[str, float]:
    """Other numbers of rows, which stand in the table before the layer's own."""
    if name == "class":
        binned = {f"class-based, {binning}": fewest_rows(counts, binning) for binning in BINNINGS}
        return binned | {"(2 Σ √p)": 2 * sum_of_roots(counts)}
    return {"(H, bits)": entropy(counts)} if name == "hierarchical" else {}


def quiz(sizes: Sequence[int], key: mg.Key, advance: Callable[[], object]) -> dict:
    """All there is to tell: {"rows": {structure: rows for each V}, "with_root_v_classes": …, "classes": …}."""
    rows, empty = {}, []
    for vocab_size in sizes:
        counts = zipf(vocab_size)
        for name, kind in KINDS.items():
            for says, number in (beside(name, counts) | {kind.says: rows_of(name, vocab_size, key)}).items():
                rows.setdefault(says, []).append(number)
            advance()
        equal, (mass, left_out) = (class_rows(counts, b, round(vocab_size**0.5)) for b in (EQUAL_SIZE, EQUAL_MASS))
        empty.append({"equal_size": equal[0], "equal_mass": mass, "empty": left_out})
    middle = sizes[(len(sizes) - 1) // 2]
    numbers = numbers_about(math.sqrt(middle), reach=8.0, points=9, most=middle)
    found = {binning: [class_rows(zipf(middle), binning, c) for c in numbers] for binning in BINNINGS}
    over = {binning: [row for row, _ in pairs] for binning, pairs in found.items()}
    over[f"{EQUAL_MASS}, and the empty"] = [row + left_out for row, left_out in found[EQUAL_MASS]]
    return {
        "vocab_sizes": list(sizes),
        "rows": rows,
        "with_root_v_classes": empty,
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


def ranks(vocab_size: int, dim: int, numbers: int, key: mg.Key) -> dict[str, dict]:
    """For each structure its rank, and the bound."""
    found = {}
    for name, kind in KINDS.items():
        log_prob, layer = log_prob_of_random(kind, vocab_size, dim, numbers, 4 * vocab_size, key)
        says, bound = kind.bound
        found[name] = {"rank": rank(log_prob), "bound": says, "at_most": min(bound(layer), vocab_size - 1)}
    return found


# %% The text
class Size(NamedTuple):
    vocab_size: int  # at most, with the boundary of sentences, which is the last id
    updates: int
    batch: int
    held_out: int  # words, at most
    seconds: float = 0.2  # for how long prediction is measured
    seeds: int = 1
    words: int | None = None  # of the text


SIZES = {
    "quick": Size(400, 32, 64, 300, seconds=0.01, words=20_000),
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
        got = f"got {int(sentence[-1]) + 1} and {len(targets)}, the ends of sentences being words"
        raise DemoError(f"{text.name}: there is too little to learn: {expected}; {got}")
    if (words := boundary - 1) < LEAST:  # <unk> is none
        raise DemoError(f"{text.name}: expected {LEAST} different words or more, got {words}")
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
        self.kind, V = KINDS[name], data.vocab_size
        self.embedding = mg.param(0.1 * key.fold(0).normal((V, DIM)))
        self.hidden = mg.nn.Linear(BEFORE * DIM, DIM, key=key.fold(1))
        self.output = self.kind.make(V, DIM, counts=data.counts, key=key.fold(2), vectors=data.vectors)

    def parameters(self) -> list[mg.Tensor]:
        return [self.embedding, self.hidden.weight, self.hidden.bias, *self.output.parameters()]

    def __call__(self, contexts: type_of_array) -> mg.Tensor:
        """h of contexts (B, 3): (B, d)."""
        return mg.tanh(self.hidden(mg.take(self.embedding, contexts).reshape(len(contexts), -1)))


class Marks(NamedTuple):
    perplexity: float | None  # None: it learns no probabilities of words
    right: float  # how often the word found likeliest is the word that comes
    hits: np.ndarray | None = None  # (n,): whether it is, of each word held out

    def told(self) -> dict:
        return {"perplexity": self.perplexity, "right": self.right}


def examined(model: LanguageModel, data: Data, batch: int = 512) -> Marks:
    total, hits, probable = 0.0, [], model.kind.probable
    with mg.no_grad(), backend.quiet():
        for i in range(0, len(data.held_targets), batch):
            contexts, targets = data.held_contexts[i : i + batch], data.held_targets[i : i + batch]
            hidden = model(contexts)
            if probable:
                total -= float(read(model.output.log_prob_of(hidden, targets).data.sum(dtype="float64")))
            hits.append(backend.to_cpu(model.output.topk(hidden, 1)[0][:, 0] == targets))
    n, hits = len(data.held_targets), np.concatenate(hits)
    if not math.isfinite(total) or total / n > 700:
        raise FloatingPointError("the perplexity is not finite")
    return Marks(math.exp(total / n) if probable else None, float(hits.mean()), hits)


def perplexity_halved(model: LanguageModel, data: Data, batch: int = 256) -> float:
    """exp of the mean of −log P, if half of what is found for log P were meant: divided by the sum over all words."""
    total = 0.0
    with mg.no_grad():
        for i in range(0, len(data.held_targets), batch):
            hidden, targets = model(data.held_contexts[i : i + batch]), data.held_targets[i : i + batch]
            half = 0.5 * model.output.log_prob(hidden)
            half = half - mg.logsumexp(half, axis=1, keepdims=True)
            total -= mg.take_along_axis(half, targets[:, None], axis=1).sum().item()
    return math.exp(total / len(data.held_targets))


class Point(NamedTuple):
    updates: int
    seconds: float  # of learning alone: so many times the median update
    marks: Marks

    def told(self) -> dict:
        return {"updates": self.updates, "seconds": self.seconds, **self.marks.told()}


class Stopped(Exception):
    """Ctrl-C was heard: what is under way is dropped, what is done is kept."""


class School:
    """Where one layer after the other learns from the same batches."""

    def __init__(self, data: Data, size: Size, key: mg.Key, stop):
        self.data, self.size, self.key, self.stop = data, size, key, stop
        self.advance, self.hits = lambda updates: None, {}  # hits: name -> (n,), the mean over seeds

    def learn(self, name: str, rate: float, seed: int, updates: int, at: Sequence[int] = ()):
        """The model, and its points after the numbers of updates `at` and at the end. FloatingPointError: too fast."""
        model, data, batch = LanguageModel(name, self.data, self.key.fold(seed)), self.data, self.size.batch
        optimiser = mg.optim.Adagrad(model.parameters(), lr=rate)
        marks, times, done = {}, [], 0
        first, batches = seed * updates, len(data.targets) // batch  # each seed has its own part of the text, or order
        for end in sorted({*(each for each in at if each < updates), updates}):
            for update in range(done, end):
                begin = time.perf_counter()
                here = slice(start := (first + update) % batches * batch, start + batch)
                optimiser.lr = rate * (1.0 - update / updates)
                with backend.quiet():
                    model.output.loss(model(data.contexts[here]), data.targets[here]).backward()
                    optimiser.step()
                optimiser.zero_grad()
                backend.synchronize()
                times.append(time.perf_counter() - begin)
                self.advance(1)
                if self.stop.requested:
                    raise Stopped
            marks[done := end] = examined(model, data)
        one = statistics.median(times)
        return model, [Point(updates, updates * one, found) for updates, found in marks.items()]

    def teach(self, name: str, rates: Sequence[float]) -> dict:
        """All that there is to tell of one layer: the best rate, by the first seed, and what all seeds have learned."""
        updates = self.size.updates
        at, tried = [updates // 2**i for i in range(5, 0, -1) if updates >= 8 * 2**i], {}  # the first few only jump
        for rate in rates:
            try:
                tried[rate] = self.learn(name, rate, 0, updates, at)
            except FloatingPointError:
                tried[rate] = None
        ends = {rate: found[1][-1].marks for rate, found in tried.items() if found}
        rate = best_rate(KINDS[name].says, ends, rates)
        model, curve = tried[rate]
        last = [curve[-1], *(self.learn(name, rate, seed, updates)[1][-1] for seed in range(1, self.size.seeds))]
        perplexities = [point.marks.perplexity for point in last if KINDS[name].probable]
        self.hits[name] = np.mean([point.marks.hits for point in last], axis=0)
        alone, whole = self.speeds(model)
        return {
            "name": name,
            "says": KINDS[name].says,
            "learning_rate": rate,
            "tried": {tried: marks.told() for tried, marks in ends.items()},
            "curve": [point.told() for point in curve],
            "seeds": [point.told() for point in last],
            "perplexity": statistics.geometric_mean(perplexities) if perplexities else None,
            "perplexity_halved": perplexity_halved(model, self.data) if name == "correcting" else None,
            "right": statistics.fmean(point.marks.right for point in last),
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
            return tuple(len(contexts) / median_seconds(call, self.size.seconds) for call in calls)

    def about(self, name: str) -> float:
        """Seconds of one update, from a few; kernels are compiled now, or read from disk."""
        self.learn(name, KINDS[name].rate, 0, 2)
        return self.learn(name, KINDS[name].rate, 0, 6)[1][-1].seconds / 6


def best_rate(says: str, ends: Mapping[float, Marks], rates: Sequence[float]) -> float:
    """By perplexity, or, where there is none, by how often it is right."""
    if not ends:
        raise DemoError(f"{says}: with every rate of {', '.join(map(str, rates))} the scores grow beyond all bounds")
    return min(ends, key=lambda rate: -ends[rate].right if ends[rate].perplexity is None else ends[rate].perplexity)


def median_seconds(call: Callable[[], object], seconds: float, least: int = 3) -> float:
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
CODES = ("binary", "correcting", "hybrid", "hybrid-correcting", "full")  # in the order that is looked for
MANY = 2_000  # words: to multiply by fewer rows than that is as quick as anything else


def more(hits: np.ndarray, than: np.ndarray) -> bool | None:
    """Whether one is right more often than the other, on the same words; None: not two standard errors apart."""
    differences = hits - than
    mean, error = differences.mean(), differences.std() / math.sqrt(len(differences))
    return None if abs(mean) <= 2 * error else bool(mean > 0)


def all_of(found: Sequence[bool | None]) -> bool | None:
    """No if one is no; yes if all are yes; None otherwise."""
    return False if False in found else None if None in found else True


def verdicts(
    asked: Mapping,
    found_ranks: Mapping[str, Mapping],
    taught: Mapping[str, dict],
    hits: Mapping[str, np.ndarray],
    vocab_size: int,
) -> list[dict]:
    """What is said, on the slides or here, of layers that were asked for: whether it holds, None if nobody can say."""
    sizes, rows, told = asked["vocab_sizes"], asked["rows"], []

    def say(sentence, measured, numbers, holds):
        told.append({"sentence": sentence, "measured": measured, "numbers": list(numbers), "holds": holds})

    grow = [growth(sizes, rows[f"class-based, {binning}"]) for binning in BINNINGS]
    say("class-based: O(√V)", "rows grow as V^…, each kind of classes", grow, all(0.4 <= a <= 0.6 for a in grow))
    times = [(one["equal_mass"] + one["empty"]) / one["equal_size"] for one in asked["with_root_v_classes"]]
    measured = "their rows, with the empty, over those of equal sizes"
    say("(1): equally probable classes cost the same", measured, times, all(abs(t - 1) < 0.02 for t in times))
    over = [a - b for a, b in zip(rows[KINDS["hierarchical"].says], rows["(H, bits)"], strict=True)]
    say("hierarchical: H ≤ E ℓ < H + 1", "Huffman's E ℓ − H, each V", over, all(0 <= x < 1 for x in over))
    binary = found_ranks["binary"]
    say(
        "a plain code says as many things as it has bits",
        "rank, bits",
        [binary["rank"], binary["at_most"]],
        binary["rank"] == binary["at_most"],
    )
    if {"binary", "full"} <= taught.keys():
        a, b = (taught[name]["words_per_second"]["prediction, layer"] for name in ("binary", "full"))
        sentence = "binary code: “fast on GPU”" + (", here on one CPU thread" if mg.get_device() == "cpu" else "")
        measured = "words/s in prediction, over the full softmax's"
        say(sentence, measured, [a / b], a > b if vocab_size >= MANY else None)
    if set(CODES) <= taught.keys():
        right = [float(hits[name].mean()) for name in CODES]
        rises = [more(hits[b], than=hits[a]) for a, b in itertools.pairwise(CODES)]
        say("the order looked for: binary < EC < hybrid < hybrid EC < softmax", "right words", right, all_of(rises))
        gap = more(hits["full"], than=hits["binary"])
        part = [(right[-2] - right[0]) / (right[-1] - right[0])] if gap else []
        better = more(hits["hybrid-correcting"], than=hits["binary"]) if gap else None
        say("“two improvements to binary code prediction”", "of the gap in right words, closed by both", part, better)
    return told


# %% Tables and pictures
def three(number: float | None) -> str | None:
    """For people: three digits."""
    if number is None:
        return None
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:#.3g}"


def two(number: float) -> str:
    """For people, of what a clock says: two digits."""
    return f"{float(f'{number:.2g}'):,.0f}"


def print_quiz(asked: Mapping) -> None:
    sizes = asked["vocab_sizes"]
    rows = []
    for says, found in asked["rows"].items():
        grow = f"V^{growth(sizes, found):.2f}" if found[-1] != found[-2] else None
        rows.append([says, *map(three, found), grow])
    headers = ["", *map("V = {:,}".format, sizes), "grows as"]
    table("Rows touched a word in training, by Zipf's law", headers, rows)
    sizes = (
        f"N = {FREQUENT} (hybrid; V / 4 if that is less), r = {MEMORY} (error-correcting), m = {NUMBERS} (embedding)"
    )
    print(f"{sizes}, d = {DIM}, and classes and clusters as they cost least\n")
    classes = asked["classes"]
    least = {binning: min(found) for binning, found in classes["rows"].items()}
    rows = [
        [binning, *(f"{three(each)}{'*' if each == least[binning] else ''}" for each in found)]
        for binning, found in classes["rows"].items()
    ]
    headers = ["classes", *map("C = {:,}".format, classes["numbers"])]
    table(f"The same for V = {classes['vocab_size']:,} over the number of classes; *: the fewest", headers, rows)


def print_ranks(found: Mapping[str, Mapping], vocab_size: int, dim: int, numbers: int) -> None:
    rows = [[KINDS[name].says, one["rank"], f"{one['bound']} = {one['at_most']}"] for name, one in found.items()]
    title = f"Rank of log P: V = {vocab_size}, d = {dim}, m = {numbers}"
    table(title, ["", "rank", "at most"], rows)


def print_layers(taught: Mapping[str, dict], size: Size) -> None:
    full, rows = taught.get("full"), []

    def to_full(perplexity: float | None) -> str | None:
        return f"{100 * (perplexity / full['perplexity'] - 1):+.1f} %" if full and perplexity else None

    for one in taught.values():
        perplexity, speed = one["perplexity"], one["words_per_second"]
        cells = [three(perplexity), to_full(perplexity), f"{100 * one['right']:.1f} %", one["learning_rate"]]
        part = f"{one['bytes'] / full['bytes']:.3g} ×" if full else None
        rows.append([one["says"], *cells, *map(two, speed.values()), one["bytes"], part])
        if halved := one["perplexity_halved"]:
            rows.append(["… log P halved", three(halved), to_full(halved), *[None] * 7])
    headers = ["output layer", "perplexity", "to full", "right words", "rate", "words/s, training"]
    headers += ["prediction, layer", "prediction, model", "bytes", "of full's"]
    table(f"After {size.updates:,} updates, {size.updates * size.batch:,} words", headers, rows)


def picture_of_rows(path, asked: Mapping, show: bool) -> None:
    sizes, classes = asked["vocab_sizes"], asked["classes"]
    kinds = dict(zip(BINNINGS, ({"color": SKY, **DASHED}, {"color": NAVY, **DOTTED}, {"color": BLUE}), strict=True))
    looks = {kind.says: kind.look for kind in KINDS.values()}
    looks |= {f"class-based, {binning}": look for binning, look in kinds.items()}
    own, same = KINDS["class"].says, f"class-based, {EQUAL_ROOTS}"  # the layer's own classes are of that kind, nearly
    over_v = {
        f"{says} ≈ {EQUAL_ROOTS}" if says == own else says: (sizes, rows, looks[says])
        for says, rows in asked["rows"].items()
        if says in looks and says != same
    }
    over_c = {binning: (classes["numbers"], classes["rows"][binning], look) for binning, look in kinds.items()}
    root, title = math.sqrt(classes["vocab_size"]), f"class-based, V = {classes['vocab_size']:,}"
    panels = [
        {"series": over_v, "xlabel": "V, words", "ylabel": "rows a word", "title": "each structure"},
        {"series": over_c, "xlabel": "C, classes", "ylabel": "rows a word", "title": title, "mark": (root, "√V")},
    ]
    named_at_the_end(path, "Rows touched a word; words as frequent as Zipf's law has them", panels, show)


def picture_of_perplexity(path, taught: Mapping[str, dict], size: Size, show: bool) -> None:
    series = {}
    for name, one in taught.items():
        axes = [[point[what] for point in one["curve"]] for what in ("updates", "seconds")]
        series[one["says"]] = {"x": axes, "y": [point["perplexity"] for point in one["curve"]], **KINDS[name].look}
        if halved := one["perplexity_halved"]:
            look = {"color": KINDS[name].look["color"], "marker": "D", "markersize": 9, **DOTTED}
            series["… its log P halved, at the end"] = {"x": [axis[-1:] for axis in axes], "y": [halved], **look}
    panels = [
        {"xlabel": f"updates, of {size.batch} words", "title": "the same updates", "ylabel": "perplexity, held out"},
        {"xlabel": "seconds: updates times their median", "title": "the same time, the same colours"},
    ]
    highest = 5 * min(one["perplexity"] for one in taught.values())
    title = f"A language model of {size.vocab_size:,} words with each output layer (embedding has no perplexity)"
    curves(path, title, series, panels, show, highest=highest)


# %% All of it
def parser():
    p = common_flags(__doc__, name="predictors")
    p.add_argument(
        "--full", action="store_true", help="12,000 words, three rates, three seeds, for as long as it takes"
    )
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
    names, key = [name for name in KINDS if name in args.layers], mg.Key(args.seed)
    rates = {name: args.rates or (RATES if args.full else [KINDS[name].rate]) for name in names}

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, 1, max_size=size.vocab_size - 1, limit_words=size.words, progress=progress)
    data = read_data(text, size, np.random.default_rng(args.seed))
    size = size._replace(vocab_size=data.vocab_size)
    out = output_folder(args.out)
    print(f"{text.describe()}\n{data.vocab_size:,} ids, {len(data.held_targets):,} words held out\n", flush=True)

    sizes = ZIPF[:2] if args.quick else ZIPF
    with Progress("counting rows", len(sizes) * len(KINDS), "layers") as bar:
        asked = quiz(sizes, key.fold(0), bar.advance)
    print_quiz(asked)
    ranked = (32, 12, 8) if args.quick else (64, 32, 16)  # V, d, m
    found_ranks = ranks(*ranked, key.fold(1))
    print_ranks(found_ranks, *ranked)
    picture_of_rows(out / "rows.png", asked, args.show)
    (out / "perplexity.png").unlink(missing_ok=True)  # it shows another run

    taught, hits = {}, {}

    def written() -> list[dict]:
        """The verdicts; results.json has all that is known."""
        said = verdicts(asked, found_ranks, taught, hits, size.vocab_size)
        results = {
            "environment": environment(),
            "arguments": vars(args),
            "corpus": text.describe(),
            "size": size._asdict(),
            "quiz": asked,
            "ranks": dict(zip(("vocab_size", "dim", "numbers"), ranked, strict=True)) | {"found": found_ranks},
            "layers": list(taught.values()),
            "stopped_early": len(taught) < len(names),
            "verdicts": said,
            "predict": predicted(asked, taught),
        }
        write_json(out / "results.json", results)
        return said

    written()
    with interruptible("the layer under way is dropped, those done are shown") as stop:
        school = School(data, size, key.fold(2), stop)
        updates = {name: size.updates * (len(rates[name]) + size.seeds - 1) for name in names}
        try:
            about = sum(school.about(name) * updates[name] for name in names)
            print(f"{len(names)} layers, {sum(updates.values()):,} updates: about {duration(about)}", flush=True)
            with Progress("learning", sum(updates.values()), "updates") as bar:
                school.advance = bar.advance
                for name in names:
                    taught[name], hits[name] = school.teach(name, rates[name]), school.hits[name]
        except Stopped:
            print(f"stopped early: of {len(names)} layers {len(taught)} done, and shown")

    if taught:
        print_layers(taught, size)
    said = written()
    rows = [
        [row["sentence"], row["holds"], row["measured"], ", ".join(map(three, row["numbers"])) or None] for row in said
    ]
    table("What is said, and what is found here", ["they say", "holds", "measured", "numbers"], rows)
    files = ["rows.png"]
    if with_p := {name: one for name, one in taught.items() if one["perplexity"] is not None}:
        picture_of_perplexity(out / "perplexity.png", with_p, size, args.show)
        files.append("perplexity.png")
    print(f"in {out}: {', '.join([*files, 'results.json'])}")


def predicted(asked: Mapping, taught: Mapping[str, dict]) -> dict:
    """The answers to the questions at the top; None where a layer was not asked for."""
    rows = asked["rows"]
    times = lambda says: rows[says][-1] / rows[says][-2]
    both = {"binary", "full"} <= taught.keys()
    return {
        "words": asked["vocab_sizes"][:-3:-1],
        "times_the_rows_of_class_based_softmax": times(KINDS["class"].says),
        "times_the_rows_of_hierarchical_softmax": times(KINDS["hierarchical"].says),
        "perplexity_of_the_binary_code_over_the_full_softmaxs": (
            taught["binary"]["perplexity"] / taught["full"]["perplexity"] if both else None
        ),
    }


if __name__ == "__main__":
    run_demo(main)
