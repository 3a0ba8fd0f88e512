"""Words as bits: the slides' "Let's try it out!" on binary codes, and what the two improvements are worth.

The slides' claims: "choose all bits in a single prediction", 01110 → word 14, which is "simpler to implement and fast
on GPU"; and "two improvements to binary code prediction", a softmax for the frequent words beside the code (hybrid),
and a longer code, which "absorbs bit errors".

    python demos/wordemb-binary-code.py
    python demos/wordemb-binary-code.py --task skipgram --words 2000000
    python demos/wordemb-binary-code.py --corpus text.txt --min-count 2
    python demos/wordemb-binary-code.py --full

The words are numbered by how often they occur (the first table shows some of the ngram model's, with their bits). Then
two models learn from a text, each with seven output layers in the place of one another, of losses/softmax.py and
losses/structured/:

    softmax                 a row of weights for each of the V words
    binary                  a row for each of the ⌈log₂ V⌉ bits of a word's number
    binary-EC               a row for each bit of an error-correcting code of it, of memory 6
    hybrid-N, hybrid-N-EC   a softmax for the N most frequent words and "other", bits for all others; N = V/128 and V/32

(The names are those of Oda et al., ACL 2017, whose N counts "other".) The models:

    skipgram    the slide's, and word2vec's: from a word's vector, each word that stands at most two places from it
    ngram       from the vectors of three words, through a hidden layer, the word that comes next, or the sentence's end

One word says little of its neighbours: by default, who always says the most frequent word is right 7 times of a
hundred, and the softmax 9; what skip-gram's vectors are good for is not in that number. The layers differ in the second
model, which has more to go by. All learn the same words in the same order, in turns of a few updates, by Adagrad with a
rate that falls to zero. So the words/s (of the whole model, not of the output layer alone; medians) were measured side
by side: on one thread of a CPU, where the slide says "fast on GPU"; for that, --device gpu. The first table of each
model has, of words in sentences that were held out,

    bits            how many have the right sign: of a hybrid, the bits of words that are not among its N. These are
                    other words for each N, so do not compare layers by this column
    words           how often the best word is the one that stands there
    rare            the same, of words that are not among the V/32 most frequent
    softmax first   the same as "words", for a hybrid that looks at bits only where "other" is the best of its softmax,
                    as the authors' program does. Here the best word is that of the greatest probability, and a rare
                    one's is P(other) P(its bits): where "other" is likely, but no rare word is, a frequent one is best

and the second says which of two is better: the difference, and its standard error over words (of --full, over words and
seeds; words of one text are taken for independent, which they are not quite, and the pairs of skip-gram less so). Where
it is less than two of these, holds is "–". The third is of codes without a softmax:

    by signs alone          words right if only the signs of the bits are looked at, and not how sure they are
    if independent          words right if each bit were wrong as often as it is, but independently of all others. It
                            isn't so: what a model knows, it knows with all bits
    right with wrong bits   how many of the words that are right have some; and most of them, the most that one had

What is it that errors do? That needs no learning: the last part takes true codes of words, turns k of the bits round,
or each with a probability, and looks for the nearest word. Up to t errors no word is lost, says
losses/structured/error_correcting.py, (1). That is a promise; beyond it luck helps, and in a model bits that are unsure
count less, so that a right word may have had more than t wrong bits. In the picture's dashed line the bits are ±1 and
normal noise, and so it is known how sure they are.

In out/wordemb-binary-code/: words.png (words right, over the size of the output layer), errors.png, results.json.
Takes a minute and a half; --full has more words and three seeds, and says how long it will take; --quick takes under
ten seconds. Ctrl-C stops early, and shows what was learned until then.

Before you run it: of the ngram model's bits, 13 a word, three of four are right. How many words are? And with 38 bits,
of which seven of ten are right? ("errors" in results.json has the answers.)
"""

# %% What we need
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist, median

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.plots import COLOURS, lines, save_figure
from _shared.progress import Progress, counted, interruptible
from _shared.report import environment, table, write_json
from _shared.skipgram_pairs import skipgram_pairs
from _shared.text import Text, read_text
from _shared.vocabulary import Tokens
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses.structured.binary_code import PlainCode
from losses.structured.codes import Codebook
from losses.structured.error_correcting import ConvolutionalCode
from minigrad import backend
from minigrad.backend import type_of_array, xp_of

TASKS = ("skipgram", "ngram")
BEFORE, WINDOW = 3, 2  # words before the next one; how far a skip-gram's neighbours stand
BATCH, RATE = 128, 0.1
SIZES = {  # words that each layer learns
    "quick": {"skipgram": 4_000, "ngram": 4_000},
    "default": {"skipgram": 150_000, "ngram": 800_000},
    "full": {"skipgram": 500_000, "ngram": 2_000_000},
}
HELD_OUT = 10  # every so many sentences one that nobody learns
TURN = 16  # updates of one layer before it is another's turn
AT_MOST = 50_000  # held-out words, spread over all
AT_ONCE = 256  # held-out words that are predicted at once
MEMORY = 6  # of the code that is learned
MEMORIES = (2, 3, 4, 5, 6)
NUMBERS = (0, 1, 2, 14, 100, 1000)  # of words that are shown
SEEDS = 3  # of --full
MOST_ERRORS = 12


# %% The text: what is learned, and what is held out
@dataclass
class Data:
    """Words, each with what it is to be guessed from."""

    contexts: np.ndarray  # (n, 1) or (n, BEFORE)
    targets: np.ndarray  # (n,)
    held_out: tuple[np.ndarray, np.ndarray]  # contexts and targets
    words: list[str]  # (V,)

    def __post_init__(self):
        self.by_frequency = np.argsort(-self.counts(), kind="stable")  # (V,) rank -> id
        self.rank = np.argsort(self.by_frequency)  # (V,) id -> rank

    @classmethod
    def of(cls, text: Text, task: str) -> "Data":
        ids, sentence, words = text.tokens.ids, text.tokens.sentence, text.vocabulary.words
        every = min(HELD_OUT, int(sentence[-1]) + 1)
        out = sentence % every == every - 1
        parts = [Tokens(ids[~out], sentence[~out]), Tokens(ids[out], sentence[out])]
        if task == "ngram":
            words = [*words, "|"]  # the boundary between two sentences, the last id
            learned, held_out = (ngrams(part, BEFORE, len(words) - 1) for part in parts)
        else:
            learned, held_out = ((c[:, None], t) for c, t in (skipgram_pairs(part, WINDOW) for part in parts))
        if not len(learned[1]) or not len(held_out[1]):
            expected = "expected two sentences or more, one a line, and words beside others in them"
            raise DemoError(f"{text.name}: there is nothing to learn: {expected}")
        spread = slice(None, None, -(-len(held_out[1]) // AT_MOST))
        return cls(*learned, (held_out[0][spread], held_out[1][spread]), words)

    def counts(self) -> np.ndarray:
        """How often each word is a target; and once more, for none is impossible."""
        return np.bincount(self.targets, minlength=len(self.words)) + 1

    def batches(self, key: mg.Key) -> Iterator[tuple[type_of_array, type_of_array]]:
        """Without end, in random order; after the last word comes the first again. On the device."""
        order = mg.to_cpu(key.permutation(len(self.targets)))
        first = 0
        while True:
            here = order[np.arange(first, first + BATCH) % len(order)]
            yield backend.asarray(self.contexts[here]), backend.asarray(self.targets[here])
            first += BATCH


# %% The layers, each in the place of the others
def layers(vocab_size: int) -> dict[str, partial]:
    """Name -> what makes it, when it is told dim, counts and key."""
    code = partial(ConvolutionalCode, memory=MEMORY)
    found = {
        "softmax": partial(losses.FullSoftmax, vocab_size),
        "binary": partial(losses.BinaryCode, vocab_size),
        "binary-EC": partial(losses.ErrorCorrectingCode, vocab_size, memory=MEMORY),
    }
    for n in frequent(vocab_size):
        found[f"hybrid-{n}"] = partial(losses.HybridCode, vocab_size, num_frequent=n)
        found[f"hybrid-{n}-EC"] = partial(losses.HybridCode, vocab_size, num_frequent=n, codebook=code)
    return found


def frequent(vocab_size: int) -> list[int]:
    """The N of the hybrids, few and many; of a very small vocabulary the same, and then it is one."""
    return sorted({max(1, vocab_size // part) for part in (128, 32)})


# %% The model: vectors of words, of the ngram a hidden layer, and one of the output layers
@dataclass
class Model:
    vectors: mg.Tensor  # (V, d)
    hidden: mg.nn.Linear | None  # BEFORE d -> d
    layer: losses.layer.OutputLayer
    optimiser: mg.optim.Optimizer = field(init=False)
    learning: list[float] = field(default_factory=list)  # seconds a word, of each turn
    predicting: list[float] = field(default_factory=list)

    @classmethod
    def new(cls, make: partial, task: str, data: Data, dim: int, key: mg.Key) -> "Model":
        vectors = mg.param(0.1 * key.fold(0).normal((len(data.words), dim)))
        hidden = mg.nn.Linear(BEFORE * dim, dim, key=key.fold(1)) if task == "ngram" else None
        model = cls(vectors, hidden, make(dim, counts=backend.asarray(data.counts()), key=key.fold(2)))
        rest = [] if hidden is None else [hidden.weight, hidden.bias]
        model.optimiser = mg.optim.Adagrad([vectors, *rest, *model.layer.parameters()], lr=RATE)
        return model

    def read(self, contexts: type_of_array) -> mg.Tensor:
        """h for contexts (B, 1) or (B, BEFORE): (B, d)."""
        x = mg.take(self.vectors, contexts).reshape(len(contexts), -1)
        return x if self.hidden is None else mg.tanh(self.hidden(x))

    def learn(self, batches: Sequence[tuple[type_of_array, type_of_array]], rates: Sequence[float]) -> None:
        """An update for each batch, with a rate each."""
        backend.synchronize()
        begin = time.perf_counter()
        for (contexts, targets), rate in zip(batches, rates, strict=True):
            self.optimiser.lr = rate
            self.layer.loss(self.read(contexts), targets).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
        backend.synchronize()
        self.learning.append((time.perf_counter() - begin) / (len(batches) * BATCH))

    def predict(self, contexts: type_of_array) -> type_of_array:
        """The best word for each context, (B,)."""
        backend.synchronize()
        begin = time.perf_counter()
        with mg.no_grad():
            best = self.layer.topk(self.read(contexts), 1)[0][:, 0]
        backend.synchronize()
        self.predicting.append((time.perf_counter() - begin) / len(contexts))
        return best


# %% Learning, in turns
def school(models: dict[str, Model], data: Data, updates: int, key: mg.Key, bar: Progress, stop) -> int:
    """All models learn the same batches. How many updates that were: `updates`, or fewer if it was stopped."""
    batches, done = data.batches(key), 0
    while done < updates and not (done and stop.requested):
        turn = [next(batches) for _ in range(min(TURN, updates - done))]
        rates = [RATE * (1.0 - (done + i) / updates) for i in range(len(turn))]
        for model in models.values():
            model.learn(turn, rates)
            bar.advance(len(turn) * BATCH)
        done += len(turn)
    return done


def seconds_of(models: dict[str, Model], data: Data, updates: int, key: mg.Key) -> float:
    """How long all will take, from a few updates and predictions of models that are not needed any more."""
    batches, held_out = data.batches(key), backend.asarray(data.held_out[0][:AT_ONCE])
    total = 0.0
    for model in models.values():
        for _ in range(2):  # kernels are compiled, or read from disk, in the first turn
            model.learn([next(batches) for _ in range(TURN // 2)], [RATE] * (TURN // 2))
            model.predict(held_out)
        total += model.learning[-1] * updates * BATCH + model.predicting[-1] * len(data.held_out[0])
    return total


# %% What was learned
@dataclass
class Marks:
    """What one layer says of the held-out words, in their order. A word has bits here unless a softmax has it."""

    words: np.ndarray  # (n,) the best words
    has_bits: np.ndarray  # (n,) booleans: whether the word that stands there has bits
    wrong_bits: np.ndarray  # (n of these, bits) booleans
    by_signs: np.ndarray | None = None  # (n,) the words of a code, if all bits were equally sure
    softmax_first: np.ndarray | None = None  # (n,) the words of a hybrid, if bits come second


def examined(models: dict[str, Model], data: Data) -> dict[str, Marks]:
    """All models predict the same words, in turns."""
    found = {name: [] for name in models}
    for first in range(0, len(data.held_out[1]), AT_ONCE):
        contexts, targets = (backend.asarray(part[first : first + AT_ONCE]) for part in data.held_out)
        for name, model in models.items():
            best = model.predict(contexts)
            with mg.no_grad():
                found[name].append({"words": best, **said_of_bits(model.layer, model.read(contexts), targets)})
    return {
        name: Marks(**{what: np.concatenate([mg.to_cpu(part[what]) for part in parts]) for what in parts[0]})
        for name, parts in found.items()
    }


def said_of_bits(layer: losses.layer.OutputLayer, hidden: mg.Tensor, targets: type_of_array) -> dict:
    """All of `Marks` but the best words."""
    xp = xp_of(targets)
    if isinstance(layer, losses.FullSoftmax):
        return {"has_bits": xp.zeros(len(targets), bool), "wrong_bits": xp.zeros((0, 0), bool)}
    z, other = layer.bit_scores(hidden).data, {}  # (B, n)
    if isinstance(layer, losses.HybridCode):
        N, numbers = layer.num_frequent, layer.ranks[targets] - layer.num_frequent  # below 0: a softmax has it
        place = layer.word_scores(hidden).data.argmax(axis=1)
        other["softmax_first"] = layer.words[xp.where(place < N, place, N + layer.codebook.best(z, 1)[0][:, 0])]
    else:
        numbers = layer.numbers[targets]
        other["by_signs"] = layer.words[layer.codebook.best(xp.where(z > 0, 1.0, -1.0).astype(z.dtype), 1)[0][:, 0]]
    has_bits = numbers >= 0
    bits = layer.codebook.bits(numbers[has_bits])
    return {"has_bits": has_bits, "wrong_bits": (z[has_bits] > 0) != (bits == 1), **other}


@dataclass
class Pupil:
    """One layer after all seeds."""

    name: str
    models: list[Model]
    marks: list[Marks]

    def right(self, data: Data) -> np.ndarray:
        """(seeds, n) booleans: where the best word is the one that stands there."""
        return np.array([marks.words == data.held_out[1] for marks in self.marks])

    def report(self, data: Data) -> dict:
        layer, right, targets = self.models[0].layer, self.right(data), data.held_out[1]
        rare = data.rank[targets] >= frequent(len(data.words))[-1]
        wrong = np.concatenate([marks.wrong_bits for marks in self.marks])
        paper = [marks.softmax_first == targets for marks in self.marks if marks.softmax_first is not None]
        return {
            "name": self.name,
            "rows": sum(len(p) for p in layer.parameters() if p.ndim == 2),
            "bytes": sum(p.data.nbytes for p in layer.parameters()),
            "bits": wrong.shape[1] or None,
            "bits_right": 1.0 - wrong.mean() if wrong.size else None,
            "words_right": right.mean(),
            "words_right_of_each_seed": right.mean(axis=1),
            "rare_words_right": right[:, rare].mean() if rare.any() else None,
            "words_right_softmax_first": np.mean(paper) if paper else None,
            "words_per_second_learning": 1.0 / median(t for model in self.models for t in model.learning),
            "words_per_second_predicting": 1.0 / median(t for model in self.models for t in model.predicting),
        }


# %% Which is better?
def claims(vocab_size: int) -> list[tuple[str, str]]:
    """(this, is not as good as that): of the slide, two improvements; and of the paper, that both together are best."""
    found = [("binary", "binary-EC")]
    for n in frequent(vocab_size):
        found += [("binary", f"hybrid-{n}"), (f"hybrid-{n}", f"hybrid-{n}-EC"), ("binary-EC", f"hybrid-{n}-EC")]
        found += [(f"hybrid-{n}-EC", "softmax")]
    return found


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How much more often the other is right, both (seeds, n) booleans, and the standard error, over words and seeds.

    The words are the same, so it is the differences that vary, and not what is hard for both.
    """
    apart = other.astype(float) - one
    of_seeds = apart.mean(axis=1)
    error = apart.mean(axis=0).var() / apart.shape[1]
    if len(of_seeds) > 1:
        error += of_seeds.var(ddof=1) / len(of_seeds)
    return float(of_seeds.mean()), math.sqrt(error)


def verdict(apart: float, error: float) -> bool | None:
    """Whether the other is better; None: too near to tell."""
    return None if abs(apart) <= 2 * error else apart > 0


def compared(pupils: dict[str, Pupil], data: Data) -> list[dict]:
    right = {name: pupil.right(data) for name, pupil in pupils.items()}
    found = []
    for one, other in claims(len(data.words)):
        apart, error = difference(right[one], right[other])
        found.append({"one": one, "other": other, "difference": apart, "standard_error": error})
        found[-1]["other_is_better"] = verdict(apart, error)
    return found


def recovered(words_right: dict[str, float]) -> dict[str, float | None]:
    """Of what the softmax is better than the binary code, how much each of the others has; None if it is no better."""
    gap = words_right["softmax"] - words_right["binary"]
    others = {name: right for name, right in words_right.items() if name not in ("softmax", "binary")}
    return {name: (right - words_right["binary"]) / gap if gap > 0 else None for name, right in others.items()}


# %% What errors do: to the codes of words, without any learning
def codebooks(num_words: int) -> dict[str, Codebook]:
    found: dict[str, Codebook] = {"plain bits": PlainCode(num_words)}
    return found | {f"memory {r}": ConvolutionalCode(num_words, memory=r) for r in MEMORIES}


def corrects(codebook: Codebook) -> int:
    return getattr(codebook, "corrects", 0)


def found_again(codebook: Codebook, numbers: type_of_array, wrong: type_of_array) -> type_of_array:
    """Whether each word (n,) is the nearest to its bits, of which those `wrong` (n, bits) are turned round."""
    xp = xp_of(wrong)
    scores = xp.where((codebook.bits(numbers) == 1) != wrong, 1.0, -1.0).astype("float32")
    return codebook.best(scores, 1)[0][:, 0] == numbers


def after_errors(codebook: Codebook, k: int, n: int, key: mg.Key) -> float:
    """How many of n words, drawn at random, are found again after k wrong bits, at random places."""
    numbers = key.fold(0).integers(0, codebook.num_words, n)
    places = key.fold(1).uniform((n, codebook.num_bits)).argsort(axis=1)  # in each row a permutation
    return float(backend.read(found_again(codebook, numbers, places < k).mean()))


def at_rate(codebook: Codebook, rate: float, n: int, key: mg.Key) -> float:
    """The same, where each bit is wrong with a probability, independently of the others."""
    numbers = key.fold(0).integers(0, codebook.num_words, n)
    wrong = key.fold(1).uniform((n, codebook.num_bits)) < rate
    return float(backend.read(found_again(codebook, numbers, wrong).mean()))


def in_noise(codebook: Codebook, rate: float, n: int, key: mg.Key) -> float:
    """The same, where it is known how sure a bit is: ±1 and normal noise, so strong that the rate of signs is wrong."""
    numbers = key.fold(0).integers(0, codebook.num_words, n)
    strength = 1.0 / NormalDist().inv_cdf(1.0 - rate) if rate else 0.0
    noise = strength * key.fold(1).normal((n, codebook.num_bits))
    scores = 2.0 * codebook.bits(numbers).astype("float32") - 1.0 + noise
    return float(backend.read((codebook.best(scores, 1)[0][:, 0] == numbers).mean()))


def if_independent(codebook: Codebook, numbers: type_of_array, wrong_bits: np.ndarray, key: mg.Key) -> float:
    """How many of these words would be found if each bit were wrong as often as it is, but independently of others."""
    rates = backend.asarray(wrong_bits.mean(axis=0), "float32")
    wrong = key.uniform((len(numbers), codebook.num_bits)) < rates
    return float(backend.read(found_again(codebook, numbers, wrong).mean()))


def injected(num_words: int, n: int, key: mg.Key, advance) -> dict:
    """All curves: name -> words found again, after k errors, and at each rate; and those in noise."""
    ks, rates = list(range(MOST_ERRORS + 1)), [i / 50 for i in range(16)]
    found = {"ks": ks, "rates": rates, "of_errors": {}, "of_rates": {}}
    books = codebooks(num_words)
    for i, (name, book) in enumerate(books.items()):
        here = key.fold(i)
        possible = [k for k in ks if k <= book.num_bits]
        found["of_errors"][name] = [after_errors(book, k, n, here.fold(0, k)) for k in possible]
        found["of_rates"][name] = [at_rate(book, rate, n, here.fold(1, j)) for j, rate in enumerate(rates)]
        advance(1)
    name, book = list(books.items())[-1]
    found["in_noise"] = {name: [in_noise(book, rate, n, key.fold(99, j)) for j, rate in enumerate(rates)]}
    advance(1)
    found["codes"] = {
        name: {"bits": book.num_bits, "distance": getattr(book, "distance", 1), "corrects": corrects(book)}
        for name, book in books.items()
    }
    return found


def errors_of(pupils: dict[str, Pupil], data: Data, key: mg.Key) -> list[dict]:
    """Of the layers whose words all have bits: what their errors are like. Of the first seed."""
    found = []
    for name in ("binary", "binary-EC"):
        layer, marks = pupils[name].models[0].layer, pupils[name].marks[0]
        right = marks.words == data.held_out[1]
        numbers = layer.numbers[backend.asarray(data.held_out[1])]
        how_many = marks.wrong_bits.sum(axis=1)
        found.append(
            {
                "name": name,
                "bits": layer.codebook.num_bits,
                "bits_right": 1.0 - marks.wrong_bits.mean(),
                "words_right": right.mean(),
                "by_signs": (marks.by_signs == data.held_out[1]).mean(),
                "if_independent": if_independent(layer.codebook, numbers, marks.wrong_bits, key),
                "of_right_words_with_wrong_bits": (how_many[right] > 0).mean() if right.any() else None,
                "most_wrong_bits_of_a_right_word": how_many[right].max() if right.any() else None,
            }
        )
    return found


# %% Tables and pictures
def percent(part: float | None, digits: int = 1) -> str | None:
    return None if part is None else f"{100 * part:.{digits}f} %"


def as_text(bits: type_of_array) -> str:
    return "".join(map(str, mg.to_cpu(bits).tolist()))


def print_codes(task: str, data: Data) -> list[dict]:
    """Some words, frequent and rare, with their bits."""
    V = len(data.words)
    books = [PlainCode(V), ConvolutionalCode(V, memory=2), ConvolutionalCode(V, memory=MEMORY)]
    found = []
    for number in sorted({n for n in (*NUMBERS, V - 1) if n < V}):
        bits, *codes = (as_text(book.bits(backend.asarray([number]))[0]) for book in books)
        word = data.words[data.by_frequency[number]]
        found.append({"word": word, "number": number, "bits": bits, "memory 2": codes[0], f"memory {MEMORY}": codes[1]})
    headers = ["word", "number", "bits", "code of memory 2", f"code of memory {MEMORY}"]
    table(f"{task}: {V:,} words, numbered by frequency", headers, [list(row.values()) for row in found])
    says = ["| is the boundary between sentences"] if task == "ngram" else []
    says += ["<unk> is all rarer words together"] if any(row["word"] == "<unk>" for row in found) else []
    if V > 14:
        says.append(f"14 = 8 + 4 + 2: with five bits 01110, as on the slide; here {books[0].num_bits} are needed")
    print("".join(f"{line}\n" for line in says))
    return found


def print_marks(task: str, reports: list[dict], words: int, always: float) -> None:
    first = reports[0]
    rows = [
        [
            one["name"],
            one["rows"],
            f"{one['bytes'] / 1024:,.1f}",
            percent(one["bits_right"]),
            percent(one["words_right"]),
            percent(one["rare_words_right"]),
            percent(one["words_right_softmax_first"]),
            *(
                said
                for when in ("learning", "predicting")
                for said in (
                    round(one[f"words_per_second_{when}"]),
                    f"{one[f'words_per_second_{when}'] / first[f'words_per_second_{when}']:.1f}×",
                )
            ),
        ]
        for one in reports
    ]
    headers = ["output layer", "rows", "KiB", "bits, of\ncoded words", "words", "rare", "softmax\nfirst"]
    headers += ["learned/s", "", "predicted/s", ""]
    table(f"{task}: what is right of held-out text, after {words:,} words", headers, rows)
    print(f"who always says the most frequent word is right {percent(always)} of the time\n")


def print_compared(comparisons: list[dict], words_right: dict[str, float], shares: dict[str, float | None]) -> None:
    rows = [
        [
            f"{one['one']} < {one['other']}",
            f"{percent(words_right[one['one']])}, {percent(words_right[one['other']])}",
            f"{100 * one['difference']:+.2f} ± {100 * one['standard_error']:.2f}".replace("-", "−"),
            one["other_is_better"],
        ]
        for one in comparisons
    ]
    table("Which is better?", ["claim", "words right", "difference", "holds"], rows)
    if None not in shares.values():
        said = ", ".join(f"{name} {percent(share, 0)}" for name, share in shares.items())
        print(f"of the softmax's lead over binary they have\n{said}\n")


def print_errors(task: str, found: list[dict]) -> None:
    rows = [
        [
            one["name"],
            one["bits"],
            percent(one["bits_right"]),
            percent(one["words_right"]),
            percent(one["by_signs"]),
            percent(one["if_independent"]),
            percent(one["of_right_words_with_wrong_bits"]),
            one["most_wrong_bits_of_a_right_word"],
        ]
        for one in found
    ]
    headers = ["output layer", "bits", "right", "words right", "by signs alone", "if independent"]
    headers += ["right with wrong bits", "most of them"]
    table(f"{task}: words that are right, and bits that are not", headers, rows)


def print_injected(found: dict, n: int) -> None:
    rows = []
    for name, code in found["codes"].items():
        curve, t = found["of_errors"][name], code["corrects"]
        after = [percent(curve[k]) if k < len(curve) else None for k in (t, t + 1, t + 2)]
        rows.append([name, code["bits"], code["distance"], t, *after])
    headers = ["code", "bits", "any two differ in, at least", "corrects t"]
    headers += ["right after t errors", "after t + 1", "after t + 2"]
    table(f"What errors do to codes: words found again, of {n:,}", headers, rows)
    print("plain bits: a number of V or more is no word's and goes to the nearest word, at times the right one\n")


def draw_words(path, reports: dict[str, list[dict]], always: dict[str, float], show: bool) -> None:
    """Words right over the size of the output layer: plain bits, longer codes, and the softmax; a panel a model."""
    figure = FigureCanvasAgg(Figure(figsize=(16, 9), dpi=100)).figure
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    figure.suptitle("Two improvements to binary code prediction", fontsize=22)
    panels = figure.subplots(1, max(1, len(reports)), squeeze=False)[0]
    for axes, (task, found) in zip(panels, reports.items(), strict=False):  # of no model, for Ctrl-C, an empty one
        bits = [one for one in found if one["name"] != "softmax"]
        kinds = [
            ("plain bits: alone, then in hybrids", [one for one in bits if not one["name"].endswith("-EC")], "o", 1),
            ("error-correcting bits: the same", [one for one in bits if one["name"].endswith("-EC")], "D", -1),
            ("softmax", [one for one in found if one["name"] == "softmax"], "s", 1),
        ]
        for colour, (says, kind, marker, side) in zip(COLOURS, kinds, strict=False):
            size, right = [one["bytes"] / 1024 for one in kind], [100 * one["words_right"] for one in kind]
            look = {"marker": marker, "markersize": 12, "markerfacecolor": "white", "markeredgewidth": 2.5}
            axes.plot(size, right, color=colour, linewidth=1.5, label=says, **look)
            at = {"xytext": (3 * side, 17 * side), "textcoords": "offset points", "va": "center"}  # left above, or
            at |= {"ha": "right" if side > 0 else "left", "fontsize": 14, "color": colour}  # right below, of the dot
            for one, x, y in zip(kind, size, right, strict=True):
                box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0}
                axes.annotate(name_of_dot(one["name"]), (x, y), bbox=box, **at)
        dotted = {"color": "gray", "linestyle": ":", "linewidth": 2.5, "zorder": 1}
        axes.axhline(100 * always[task], label="always the most frequent word", **dotted)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)  # room for the names
        axes.set_title(task, fontsize=18)
        axes.set_xlabel("size of the output layer, KiB", fontsize=16)
        axes.set_ylabel("held-out words right, %", fontsize=16)
        axes.tick_params(labelsize=14)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    style = {"loc": "outside lower center", "ncols": 4, "handlelength": 4, "fontsize": 14, "frameon": False}
    figure.legend(handles, labels, **style)
    save_figure(figure, path, show)


def name_of_dot(layer: str) -> str:
    """Of a hybrid its N; which kind of bits there are the colour says."""
    return f"N = {layer.split('-')[1]}" if layer.startswith("hybrid") else layer if layer == "softmax" else "alone"


def draw_errors(path, found: dict, num_words: int, show: bool) -> None:
    ylabel, codes = "words found again, %", found["codes"]
    hundred = lambda curve: [100 * part for part in curve]
    of_errors = {
        f"{name}, corrects {codes[name]['corrects']}": (found["ks"][: len(curve)], hundred(curve))
        for name, curve in found["of_errors"].items()
    }
    of_rates = {name: (hundred(found["rates"]), hundred(curve)) for name, curve in found["of_rates"].items()}
    dashed = {"color": COLOURS[len(codes) - 1], "linestyle": "--", "marker": ""}
    noise = {
        f"{name}, told how sure each bit is": (hundred(found["rates"]), hundred(curve), dashed)
        for name, curve in found["in_noise"].items()
    }
    exactly = {"series": of_errors, "title": "exactly k bits wrong", "xlabel": "k, wrong bits of a word"}
    each = {"series": of_rates | noise, "title": "each bit wrong with probability p", "xlabel": "p, %"}
    title = f"What errors do to the codes of {num_words:,} words"
    lines(path, title, [panel | {"ylabel": ylabel} for panel in (exactly, each)], show)


# %% All of it
def parser():
    p = common_flags(__doc__, name="wordemb-binary-code")
    p.add_argument("--task", choices=TASKS, help="one of the two models (default: both)")
    p.add_argument("--full", action="store_true", help=f"more words, and {SEEDS} seeds")
    p.add_argument(
        "--words",
        type=int,
        help=f"that each layer learns, in whole batches of {BATCH} (default: skipgram 150,000, ngram 800,000)",
    )
    p.add_argument(
        "--dim", type=int, help="numbers in a word's vector, and in the hidden layer (default: 64, --quick: 16)"
    )
    p.add_argument("--min-count", type=int, help="rarer words become <unk> (default: 5, --quick: 3)")
    return p


def learned(task: str, data: Data, words: int, seeds: int, args, stop) -> tuple[dict[str, Pupil], int]:
    """All layers after so many words, once for each seed; and how many words that were."""
    updates, make, key = -(-words // BATCH), layers(len(data.words)), mg.Key(args.seed).fold(TASKS.index(task))
    new = lambda seed: {name: Model.new(each, task, data, args.dim, key.fold(0, seed)) for name, each in make.items()}
    pupils, done = {name: Pupil(name, [], []) for name in make}, 0
    about = seeds * seconds_of(new(0), data, updates, key.fold(2))
    times = "" if seeds == 1 else f", {seeds} times"
    print(f"{task}: {len(make)} layers, {updates * BATCH:,} words each{times}: about {duration(about)}", flush=True)
    for seed in range(seeds):
        models = new(seed)
        with Progress(f"{task}, learning", updates * BATCH * len(models)) as bar:
            learned_now = school(models, data, updates, key.fold(1, seed), bar, stop)
        if seed and learned_now < updates:
            break  # a run that was not ended is no match for those before
        done = learned_now
        for name, marks in examined(models, data).items():
            pupils[name].models.append(models[name])
            pupils[name].marks.append(marks)
        if stop.requested:
            break
    return pupils, done * BATCH


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.quick and args.full:
        raise DemoError("--quick and --full: one of the two")
    for name in ("words", "dim", "min_count"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise DemoError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    args.dim = args.dim or (16 if args.quick else 64)
    args.min_count = args.min_count or (3 if args.quick else 5)
    choose_device(args.device)
    out, key = output_folder(args.out), mg.Key(args.seed)

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        text = read_text(args.corpus, args.min_count, limit_words=20_000 if args.quick else None, progress=progress)
    print(text.describe())
    tasks = TASKS if args.task is None else (args.task,)
    datas = {task: Data.of(text, task) for task in tasks}
    results = {"environment": environment(), "corpus": text.describe(), "arguments": vars(args), "tasks": {}}
    results["codes"] = print_codes(tasks[-1], datas[tasks[-1]])

    with interruptible("what was learned until now is shown") as stop:
        for task, data in datas.items():
            if stop.requested:
                break
            words = args.words or SIZES["quick" if args.quick else "full" if args.full else "default"][task]
            with backend.quiet():
                pupils, done = learned(task, data, words, SEEDS if args.full else 1, args, stop)
            always = float((data.rank[data.held_out[1]] == 0).mean())
            reports = [pupil.report(data) for pupil in pupils.values()]
            words_right = {one["name"]: one["words_right"] for one in reports}
            comparisons, shares = compared(pupils, data), recovered(words_right)
            errors = errors_of(pupils, data, key.fold(3))
            print_marks(task, reports, done, always)
            print_compared(comparisons, words_right, shares)
            print_errors(task, errors)
            results["tasks"][task] = {
                "vocab_size": len(data.words),
                "words": done,
                "seeds": len(pupils["softmax"].marks),
                "held_out": len(data.held_out[1]),
                "most_frequent_word_right": always,
                "layers": reports,
                "comparisons": comparisons,
                "recovered": shares,
                "errors": errors,
            }
    results["stopped_early"] = stop.requested

    num_words, n = len(datas[tasks[-1]].words), 200 if args.quick else 2_000
    with Progress("turning bits round", len(MEMORIES) + 2, "codes") as bar:
        results["injected"] = injected(num_words, n, key.fold(4), bar.advance)
    print_injected(results["injected"], n)
    told = results["tasks"]
    shown = {task: found["layers"] for task, found in told.items()}
    draw_words(
        out / "words.png", shown, {task: found["most_frequent_word_right"] for task, found in told.items()}, args.show
    )
    draw_errors(out / "errors.png", results["injected"], num_words, args.show)
    write_json(out / "results.json", results)
    print(f"in {out}: words.png, errors.png, results.json")


if __name__ == "__main__":
    run_demo(main)
