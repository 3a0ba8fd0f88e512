"""Sampled softmax: who finds the truth?  A teacher whose distribution is known, and a student of each kind.

The slides, of "Importance Sampling": "this is a biased estimator (esp. when N is small)"; of "Noise Contrastive
Estimation": "set c_h = 0"; of "Simple Negative sampling": "similar to NCE, but biased when k ≠ |V| or Q is not
uniform"; of "Mini-batch Based Negative Sampling": "select the same negative samples for each minibatch"; of "Hard
Negative Mining": "not a probabilistic objective".

    python demos/sampled-softmax.py
    python demos/sampled-softmax.py --methods full ranking importance nce
    python demos/sampled-softmax.py --full

First, without any learning, the table of losses/estimators.py: five words, and the mean gradient of each loss at the
scores that it claims to find, added up over all that can be drawn. Where it is not zero the loss leads away from there.

Then there is learning. Of what a text teaches nobody knows the truth, so here a teacher makes it up, over V words and
contexts of d = 32 numbers:

    h ~ N(0, I),     P*(w | h) = softmax(W* h + log Zipf)_w,     W*_w ~ N(0, (1.5² / d) I)                     (1)

so that P* is neither flat nor certain; its entropy is printed. A student is a layer of losses/, W h + b, which can say
exactly what the teacher says (but for NCE, which wants Z(h) = 1 as well, and W h + b − log Z(h) is no W h + b). All
begin alike (W small; b such that each word is as likely as it is frequent), hear the same contexts and words in the
same order, sampled losses with noise of the same keys, and learn by Adagrad with a rate that falls to zero. Each tries
the same three rates, and the run that ends best counts. How far it is from the truth is no estimate: it is a sum over
all words, here averaged over contexts that nobody learned from,

    KL(P* ‖ P̂) = Σ_w P*(w | h) (log P*(w | h) − log P̂(w | h)), in nats.                                      (2)

In the long run, with n free parameters, the KL of the best estimate from N examples is n / 2N (half a nat a parameter,
over the examples: maximum likelihood, N large). This stands beside the KL of runs of a quarter, a half and all of the
updates, the shorter with the rate that is best for the longest. With few examples a student, who begins well, is below
it; in the end the full softmax can only come down to it, and how far above it still is, is printed.

The table says of each student its KL with the best rate, and that as a multiple of the full softmax's; log Z(h) of its
scores, mean and spread over the contexts; how often the word that it finds likeliest is the word that is said (all
there is to say of the margin loss); and the seconds of its run (on a CPU: one thread; of memory nothing is measured).
With 1,000 words only k = 64 shared and in-batch take less time than the full softmax. "Own k" is noise for each
example, else k words are shared by a batch of 128. Sampled softmax keeps noise that happens to be the target, and takes
log q from all words; "no hits" leaves such noise out, as is often done. Negative sampling's scores are off by log kq,
which is added; that done, it and NCE are one thing, as the numbers say: layers with a bias for each word differ in what
the bias means, and in nothing else. All begin with Z(h) near 1; NCE holds it there, on average, while those that
normalise let it go where it will. The noise is drawn from q ∝ count^½ (--power for another than ½).

All of this is one seed, and the rates are chosen on the contexts that judge them: differences below some percent mean
nothing.

By default V = 1,000; --full has 10,000 words and 2 million examples. With Ctrl-C the students that are done are shown.
In out/sampled-softmax/: kl.png (KL over updates, and over seconds), log-z.png and results.json. Takes one and a half to
two and a half minutes, --full about an hour (how long is said when it begins), --quick about ten seconds.

To predict before running; `predict` in results.json has the answers:
    1.  Of 1,000 words a batch of 128 looks at its targets and at 64 words of noise. How many times the KL of the full
        softmax does sampled softmax end with?
    2.  In-batch negatives are the targets of the others, so frequent words come as noise more often. Somebody forgets
        log q. All begin with the right frequencies of words: what becomes of the KL from there, with more and more
        updates?
"""

# %% What we need
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from _shared.curves import curves, intervals
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.progress import Progress, interruptible
from _shared.report import environment, table, write_json
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses import consistency, estimators
from minigrad import backend
from minigrad.backend import read, type_of_array, xp_of

DIM, BATCH = 32, 128
SHARPNESS = 1.5
RATES = (0.1, 0.2, 0.4)
MARGIN = 1.05  # what is nearer to one is no difference
HELD = 0.5  # of the full softmax's log Z: what is nearer to 0 was held there
MEASURABLE = 1.0  # seconds: of runs that are all shorter none is called faster
PIECE = 32  # updates for which contexts are drawn at once
AT_ONCE = 1 << 22  # numbers in the largest array of words' probabilities


# %% The teacher
class Teacher:
    """(1), for V words and contexts of d numbers."""

    def __init__(self, vocab_size: int, dim: int, key: mg.Key):
        self.weight = (SHARPNESS / math.sqrt(dim)) * key.normal((vocab_size, dim))  # W* (V, d)
        self.bias = xp_of(self.weight).log(backend.asarray(losses.samplers.zipf(vocab_size), "float32"))  # (V,)
        root = math.isqrt(vocab_size)
        self.block = next(size for size in range(root, 0, -1) if vocab_size % size == 0)

    def scores(self, hidden: type_of_array) -> type_of_array:
        """W* h + log Zipf: (n, d) -> (n, V)."""
        return hidden @ self.weight.T + self.bias

    def log_prob(self, hidden: type_of_array) -> type_of_array:
        """log P*(w | h): (n, d) -> (n, V)."""
        scores = self.scores(hidden)
        return scores - mg.logsumexp(scores, axis=1, keepdims=True)

    def says(self, hidden: type_of_array, key: mg.Key) -> type_of_array:
        """A word for each context, drawn from P*: (n, d) -> (n,). First one of √V blocks of words, then the word."""
        scores = self.scores(hidden)
        xp, n = xp_of(scores), len(scores)
        weights = xp.exp(scores - scores.max(axis=1, keepdims=True)).reshape(n, -1, self.block)
        u = key.uniform((2, n), "float64")
        block = drawn_from(weights.sum(axis=2, dtype="float64"), u[0])
        return block * self.block + drawn_from(weights[xp.arange(n), block].astype("float64"), u[1])


def drawn_from(weights: type_of_array, u: type_of_array) -> type_of_array:
    """Of each row of weights (n, m) the first place at which they add up to more than the part u (n,) of their sum."""
    xp = xp_of(weights)
    sums = xp.cumsum(weights, axis=1)  # the distribution function, but for the sum
    return xp.minimum((sums <= (u * sums[:, -1])[:, None]).sum(axis=1), weights.shape[1] - 1)


def chunks(n: int, vocab_size: int) -> Iterator[slice]:
    """n contexts, so many at a time that what is known of all words for them isn't too large."""
    step = max(1, AT_ONCE // vocab_size)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


# %% The lesson: the same for all students
class Lesson:
    """Batches of contexts, and the words the teacher says after them. Contexts are drawn again when they are needed."""

    def __init__(self, teacher: Teacher, updates: int, batch: int, key: mg.Key, advance: Callable[[int], object]):
        self.dim, self.batch, self.updates, self.key = teacher.weight.shape[1], batch, updates, key
        vocab_size, said = len(teacher.weight), []
        for first in range(0, updates, PIECE):
            hidden = self.contexts(first).reshape(-1, self.dim)
            for i, here in enumerate(chunks(len(hidden), vocab_size)):
                said.append(teacher.says(hidden[here], key.fold(1, first, i)))
            advance(min(PIECE, updates - first))
        xp = xp_of(teacher.weight)
        self.words = xp.concatenate(said).reshape(-1, batch)  # (updates, B)
        self.counts = xp.bincount(self.words.ravel(), minlength=vocab_size) + 1.0  # 1: every word can be drawn

    def contexts(self, first: int) -> type_of_array:
        """Those of the PIECE updates from `first` on, fewer at the end: (n, B, d)."""
        return self.key.fold(0, first).normal((min(PIECE, self.updates - first), self.batch, self.dim))


def mean_and_spread(values: type_of_array) -> tuple[float, float]:
    """The mean, and the standard deviation."""
    values = values.astype("float64")
    return float(read(values.mean())), float(read(values.std()))


class Exam:
    """Contexts of which nobody learned, and what the teacher says of them."""

    def __init__(self, teacher: Teacher, contexts: int, key: mg.Key):
        self.hidden = key.normal((contexts, teacher.weight.shape[1]))
        xp, here = xp_of(self.hidden), list(chunks(contexts, len(teacher.weight)))
        self.log_p = xp.concatenate([teacher.log_prob(self.hidden[some]) for some in here])  # (n, V)
        log_z = xp.concatenate([mg.logsumexp(teacher.scores(self.hidden[some]), axis=1) for some in here])
        mean, spread = mean_and_spread(log_z)
        of_zipf = float(read(mg.logsumexp(teacher.bias)))  # Zipf's odds aren't divided by their sum
        self.log_z = (mean - of_zipf, spread)  # of the teacher's scores, where they begin as those of a student do

    def entropy(self) -> float:
        """Of P*, the mean over the contexts, in nats."""
        return -float(read((xp_of(self.log_p).exp(self.log_p) * self.log_p).sum(axis=1).mean()))

    def best(self) -> float:
        """How often the likeliest word is said."""
        return float(read(xp_of(self.log_p).exp(self.log_p.max(axis=1)).mean()))


# %% The students: one of each kind. few and many: k, noise words that a batch shares unless it says "of its own"
class Size(NamedTuple):
    vocab_size: int
    updates: int
    few: int
    many: int
    contexts: int  # in the exam
    power: float = 0.5  # noise is drawn from q ∝ count^power


SIZES = {
    "quick": Size(200, 128, 8, 64, 200),
    "default": Size(1_000, 2_048, 64, 512, 500),
    "full": Size(10_000, 16_384, 64, 512, 1_000),
}


class Kind(NamedTuple):
    says: str
    layer: type
    options: dict[str, object]  # of the layer; "few" and "many" stand for a number
    look: dict[str, object]  # of its curve


BLACK, BLUE, RED, GREEN, PINK, ORANGE = "#000000", "#0072B2", "#D55E00", "#009E73", "#A4468A", "#B07800"
DASHED, DOTTED, BOTH = {"linestyle": "--"}, {"linestyle": ":"}, {"linestyle": "-."}
MANY, FEW, OWN = {"k": "many", "shared": True}, {"k": "few", "shared": True}, {"k": "few"}
MASKED = {**FEW, "mask_hits": True}
KINDS = {
    "full": Kind("full softmax", losses.FullSoftmax, {}, {"color": BLACK, "linewidth": 5}),
    "ranking": Kind("sampled softmax, {many}", losses.SampledSoftmax, MANY, {"color": BLUE}),
    "ranking-few": Kind("sampled softmax, {few}", losses.SampledSoftmax, FEW, {"color": BLUE, **DASHED}),
    "ranking-own": Kind("sampled softmax, own {few}", losses.SampledSoftmax, OWN, {"color": BLUE, **DOTTED}),
    "masked": Kind("sampled, {few}, no hits", losses.SampledSoftmax, MASKED, {"color": BLUE, **BOTH}),
    "importance": Kind("importance sampling, {many}", losses.ImportanceSampling, MANY, {"color": RED}),
    "importance-few": Kind("importance sampling, {few}", losses.ImportanceSampling, FEW, {"color": RED, **DASHED}),
    "nce": Kind("NCE, {many}", losses.NCE, MANY, {"color": GREEN, "linewidth": 6, "alpha": 0.6}),
    "negative": Kind("negative sampling, {many}", losses.NegativeSampling, MANY, {"color": PINK, **DASHED}),
    "in-batch": Kind("in-batch softmax", losses.InBatchSoftmax, {}, {"color": ORANGE}),
    "in-batch-uncorrected": Kind(
        "in-batch without log q", losses.InBatchSoftmax, {"correct": False}, {"color": ORANGE, **DASHED}
    ),
    "hard": Kind("hard negatives, margin loss", losses.HardNegatives, {}, {}),
}
LADDER = ("full", "ranking", "ranking-few")  # whose KL is looked at for each doubling of the updates


def says(name: str, size: Size) -> str:
    return KINDS[name].says.format(few=f"k = {size.few}", many=f"k = {size.many}")


def student(name: str, size: Size, lesson: Lesson, key: mg.Key) -> losses.layer.OutputLayer:
    """A layer of this kind that knows how often each word occurs, whatever the context, and nothing else."""
    options = dict(KINDS[name].options)
    if "k" in options:
        options |= {"k": size.few if options["k"] == "few" else size.many, "power": size.power}
    layer = KINDS[name].layer(size.vocab_size, lesson.dim, counts=lesson.counts, key=key, **options)
    nowhere = mg.tensor(xp_of(lesson.counts).zeros((1, lesson.dim), "float32"))
    with mg.no_grad():
        taken_for_p = (layer.scores(nowhere) - layer.raw_scores(nowhere)).data[0]  # log(k q) of negative sampling, or 0
    unigram = xp_of(lesson.counts).log(lesson.counts / lesson.counts.sum()).astype("float32")
    layer.bias = mg.param(unigram - taken_for_p)
    return layer


# %% What a student has learned
class Marks(NamedTuple):
    kl: float | None  # (2); None of a student that has no distribution
    log_z: float  # of its scores, of negative sampling with log kq: the mean over the contexts
    log_z_spread: float  # and the standard deviation
    right: float  # how often the word it thinks likeliest is the word the teacher says
    raw_kl: float | None  # (2), if the scores as they are, without log kq, are taken for log P
    raw_log_z: float
    raw_log_z_spread: float


def examined(layer: losses.layer.OutputLayer, exam: Exam) -> Marks:
    found, n = [], len(exam.hidden)
    with mg.no_grad(), backend.quiet():
        for here in chunks(n, layer.vocab_size):
            hidden, log_p = mg.tensor(exam.hidden[here]), exam.log_p[here]
            scores, raw = layer.scores(hidden).data, layer.raw_scores(hidden).data  # (n, V)
            xp, p = xp_of(log_p), xp_of(log_p).exp(log_p)
            log_z, raw_log_z = (mg.logsumexp(each, axis=1, keepdims=True) for each in (scores, raw))
            kl = (p * (log_p - scores + log_z)).sum(axis=1)  # (2)
            raw_kl = (p * (log_p - raw + raw_log_z)).sum(axis=1)
            right = xp.take_along_axis(p, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
            found.append(xp.stack([kl, log_z[:, 0], right, raw_kl, raw_log_z[:, 0]]))
        kl, log_z, right, raw_kl, raw_log_z = map(mean_and_spread, xp.concatenate(found, axis=1))
    marks = Marks(kl[0], *log_z, right[0], raw_kl[0], *raw_log_z)
    if not all(map(math.isfinite, marks)):
        raise FloatingPointError("the student's scores are not finite")
    return marks._replace(kl=None, raw_kl=None) if isinstance(layer, losses.HardNegatives) else marks


# %% Learning
class Point(NamedTuple):
    updates: int
    seconds: float  # of learning alone
    marks: Marks


class Stopped(Exception):
    """Ctrl-C was heard: what is under way is dropped, what is done is kept."""


class School:
    """Where students learn, each from the same lesson, by Adagrad with a rate that falls to zero along a line.

    What Adagrad adds to its √s is the weight of one example in a batch: so a gradient that is far smaller, such as that
    of a rare word which was not said, isn't blown up to the size of one that was.
    """

    def __init__(self, lesson: Lesson, exam: Exam, size: Size, key: mg.Key, advance: Callable[[int], object], stop):
        self.lesson, self.exam, self.size, self.key, self.advance, self.stop = lesson, exam, size, key, advance, stop

    def learn(self, name: str, rate: float, updates: int, at: Sequence[int] = ()) -> list[Point]:
        """What the student knows after the numbers of updates `at`, and at the end; FloatingPointError: too fast."""
        layer = student(name, self.size, self.lesson, self.key.fold(0))
        optimiser = mg.optim.Adagrad(layer.parameters(), lr=rate, eps=1.0 / self.lesson.batch)
        points, seconds = [Point(0, 0.0, examined(layer, self.exam))] if at else [], 0.0
        for first in range(0, updates, PIECE):
            hidden, words = self.lesson.contexts(first), self.lesson.words[first : min(first + PIECE, updates)]
            backend.synchronize()
            begin = time.perf_counter()
            for i in range(len(words)):
                optimiser.lr = rate * (1.0 - (first + i) / updates)
                with backend.quiet():
                    layer.loss(mg.tensor(hidden[i]), words[i], key=self.key.fold(1, first + i)).backward()
                    optimiser.step()
                optimiser.zero_grad()
            backend.synchronize()
            seconds += time.perf_counter() - begin
            if (done := first + len(words)) in at or done == updates:
                points.append(Point(done, seconds, examined(layer, self.exam)))
            self.advance(len(words))
            if self.stop.requested:
                raise Stopped
        return points

    def teach(self, name: str) -> dict:
        """All that there is to tell of one student: it learns with each rate, and the one that ends best counts."""
        updates = self.size.updates
        at, curves_of = [PIECE * 2**i for i in range(20) if PIECE * 2**i < updates], {}
        for rate in RATES:
            try:
                curves_of[rate] = self.learn(name, rate, updates, at)
            except FloatingPointError:
                curves_of[rate] = None
        rate = best_rate({rate: curve[-1].marks for rate, curve in curves_of.items() if curve})
        curve = curves_of[rate]
        shorter = [self.learn(name, rate, updates // part)[-1] for part in (4, 2)] if name in LADDER else []
        return {
            "name": name,
            "says": says(name, self.size),
            "learning_rate": rate,
            "tried": {tried: curve and curve[-1].marks._asdict() for tried, curve in curves_of.items()},
            "curve": [told(point) for point in curve],
            "runs": [told(point) for point in (*shorter, curve[-1])],
            **told(curve[-1]),
        }

    def seconds(self, name: str) -> float:
        """Of one update, from a few; kernels are compiled now, or read from disk."""
        self.learn(name, RATES[0], 2)
        return self.learn(name, RATES[0], 8)[-1].seconds / 8


def updates_of(name: str, updates: int) -> int:
    """How many updates `teach` does."""
    return len(RATES) * updates + (updates // 4 + updates // 2 if name in LADDER else 0)


def best_rate(found: dict[float, Marks]) -> float:
    """By KL, or, of a student that has none, by how often it is right."""
    if not found:
        raise DemoError(f"with every learning rate of {RATES} the scores grow beyond all bounds")
    return min(found, key=lambda rate: -found[rate].right if found[rate].kl is None else found[rate].kl)


def told(point: Point) -> dict:
    return {"updates": point.updates, "seconds": point.seconds, **point.marks._asdict()}


# %% What the numbers say
ENUMERATED = "enumerated"  # no student: the mean gradients of importance sampling


class Claim(NamedTuple):
    sentence: str
    students: tuple[str, ...]  # whose numbers it needs, as `numbers` takes them, and ENUMERATED
    measured: str
    numbers: Callable[..., list[float]]
    holds: Callable[..., bool | None]  # of the numbers; None: there is nothing to judge


def away(one: dict) -> float:
    """√ of the mean of (log Z)², over the contexts: how far Z(h) is from one."""
    return math.hypot(one["log_z"], one["log_z_spread"])


def faster(these: Sequence[float], than: float) -> bool | None:
    """Whether all of these seconds are fewer; None where none is long enough for clocks to tell."""
    return None if max(*these, than) < MEASURABLE else max(these) * MARGIN < than


CLAIMS = [
    Claim(
        "IS: loss and gradient are biased (Ẑ isn't) …",
        ("importance", ENUMERATED),
        "mean gradient (above): {ks}",
        lambda _, gradients: list(gradients.values()),
        lambda *gradients: min(gradients) > consistency.ZERO,
    ),
    Claim(
        "… “esp. when N is small”",
        ("importance-few", "ranking-few", "importance", "ranking"),
        "KL / sampled's: {few}, {many}",
        lambda few, like_few, many, like_many: [few["kl"] / like_few["kl"], many["kl"] / like_many["kl"]],
        lambda few, many: few > MARGIN and few > many,
    ),
    Claim(
        "NCE: “set c_h = 0”, so Z(h) is 1 on average",
        ("nce", "full"),
        "rms log Z: NCE, full softmax",
        lambda nce, full: [away(nce), away(full)],
        lambda nce, full: nce < HELD * full,
    ),
    Claim(
        "negative sampling: “similar to NCE” …",
        ("negative", "nce"),
        "KL with log kq added / NCE's",
        lambda negative, nce: [negative["kl"] / nce["kl"]],
        lambda times: 1 / MARGIN < times < MARGIN,
    ),
    Claim(
        "… “biased when k ≠ |V| or Q is not uniform”",
        ("negative",),
        "KL of its raw scores / with log kq",
        lambda negative: [negative["raw_kl"] / negative["kl"]],
        lambda times: times > MARGIN,
    ),
    Claim(
        "“select the same negative samples”: faster",
        ("ranking-own", "ranking-few"),
        "seconds: own, same; KL: same / own",
        lambda own, same: [own["seconds"], same["seconds"], same["kl"] / own["kl"]],
        lambda own, same, kls: faster([same], own),
    ),
    Claim(
        "hard: “not a probabilistic objective”",
        ("hard", "full"),
        "no KL; right words / full's",
        lambda hard, full: [hard["right"] / full["right"]],
        lambda times: None,
    ),
    Claim(
        "(no slide) in-batch negatives need log q",
        ("in-batch-uncorrected", "in-batch"),
        "KL without, with, at the beginning",
        lambda without, corrected: [without["kl"], corrected["kl"], began(corrected)],
        lambda without, corrected, beginning: without > MARGIN * corrected,
    ),
    Claim(
        "(no slide) sampled, {many}: KL within 5 %",
        ("ranking", "full", "ranking-few"),
        "KL / full's: {many}, {few}",
        lambda many, full, few: [many["kl"] / full["kl"], few["kl"] / full["kl"]],
        lambda many, few: many <= MARGIN,
    ),
    Claim(
        "(no slide) {few}, in-batch: faster than full",
        ("full", "ranking-few", "in-batch"),
        "seconds: full; {few}, in-batch",
        lambda *all_of_them: [one["seconds"] for one in all_of_them],
        lambda full, few, in_batch: faster([few, in_batch], full),
    ),
]


def verdicts(taught: dict[str, dict], size: Size, gradients: dict[int, float]) -> list[dict]:
    """The slides, sentence by sentence, whose students were asked for: whether it holds here, and the numbers.

    gradients: k -> the mean gradient of importance sampling, of the enumeration; the first k and the last are told.
    """
    ends = {k: gradients[k] for k in (min(gradients), max(gradients))}
    words = {"few": f"k = {size.few}", "many": f"k = {size.many}", "ks": ", ".join(f"k = {k}" for k in ends)}
    known, told = {**taught, ENUMERATED: ends}, []
    for claim in CLAIMS:
        if known.keys() >= set(claim.students):
            numbers = claim.numbers(*(known[name] for name in claim.students))
            said = {"sentence": claim.sentence.format(**words), "measured": claim.measured.format(**words)}
            told.append(said | {"numbers": numbers, "holds": claim.holds(*numbers)})
    return told


def began(one: dict) -> float | None:
    """Its KL before it learned."""
    return one["curve"][0]["kl"]


def ratio(taught: dict[str, dict], name: str, other: str) -> float | None:
    """The KL of one student over that of another; None if one of them was not asked for."""
    return taught[name]["kl"] / taught[other]["kl"] if taught.keys() >= {name, other} else None


def times_its_first(taught: dict[str, dict], name: str) -> float | None:
    """The KL of a student over that with which it began; None if it was not asked for."""
    return taught[name]["kl"] / began(taught[name]) if name in taught else None


def floor(size: Size, updates: int) -> float:
    """What the best of estimators is left with, in the long run: half the free parameters over the examples."""
    return (size.vocab_size - 1) * (DIM + 1) / (2 * updates * BATCH)


# %% Tables and pictures
def print_consistency(checked: estimators.Table) -> None:
    print(
        "What does each loss learn from all there is? Its mean gradient at the scores that it claims to find, added up"
    )
    print("over all outcomes (–: there are no k different words).")
    print(f"{checked}\n")


def three(number: float | None) -> str | None:
    """For people: three digits."""
    if number is None:
        return None
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def print_students(taught: dict[str, dict], exam: Exam) -> None:
    headers = ["student", "KL", "/ full's", "rate", "log Z(h)", "spread", "right words", "seconds"]
    full, rows = taught.get("full", {}).get("kl"), []

    def add(name, kl, log_z, spread, right=None, rate=None, seconds=None):
        times = kl / full if full and kl is not None else None
        rows.append(
            [name, three(kl), three(times), rate, f"{log_z:.2f}", f"{spread:.2f}", three(right), three(seconds)]
        )

    first, on_the_edge = next(iter(taught.values())), False
    begin = next((one for one in taught.values() if one["kl"] is not None), first)["curve"][0]
    add("(the teacher)", 0.0 if begin["kl"] is not None else None, *exam.log_z, exam.best())
    add("(where all begin)", begin["kl"], begin["log_z"], begin["log_z_spread"], begin["right"])
    for one in taught.values():
        edge = one["learning_rate"] in (min(RATES), max(RATES))
        on_the_edge |= edge
        rate = f"{one['learning_rate']}{'*' if edge else ''}"
        add(one["says"], one["kl"], one["log_z"], one["log_z_spread"], one["right"], rate, one["seconds"])
        if one["name"] == "negative":
            add("… taken for log P", one["raw_kl"], one["raw_log_z"], one["raw_log_z_spread"], rate=rate)
    used = [i for i in range(len(headers)) if any(row[i] is not None for row in rows)]
    table(f"After {first['updates']:,} updates", [headers[i] for i in used], [[row[i] for i in used] for row in rows])
    if on_the_edge:
        tried = ", ".join(map(str, RATES))
        print(f"*: at the edge of the rates that were tried ({tried}); beyond it the student may do better still")
    for one in worse_than_at_first(taught):
        print(f"{one['says']} ends worse than it began: its KL goes from {three(began(one))} to {three(one['kl'])}")
    print()


def worse_than_at_first(taught: dict[str, dict]) -> list[dict]:
    return [one for one in taught.values() if one["kl"] is not None and one["kl"] > began(one)]


def print_ladder(taught: dict[str, dict], size: Size) -> None:
    names = [name for name in LADDER if name in taught]
    headers = ["updates", "parameters / 2 examples", *(taught[name]["says"] for name in names)]
    runs = [[run["kl"] for run in taught[name]["runs"]] for name in names]
    updates = [run["updates"] for run in taught[names[0]]["runs"]] if names else []
    rows = [[n, *map(three, (floor(size, n), *kls))] for n, *kls in zip(updates, *runs, strict=True)]
    if rows:
        table("KL of runs twice as long as the one before, each with a rate that falls to zero", headers, rows)
        print("the shorter runs take the rate that is best for the longest")
    if "full" in taught:
        print(f"in the end the full softmax is {above(taught['full']['kl'], size)} parameters / 2 examples\n")


def above(kl: float, size: Size) -> str:
    percent = round(100 * (kl / floor(size, size.updates) - 1))
    return f"{abs(percent)} % {'above' if percent >= 0 else 'below'}"


def pictures(out, taught: dict[str, dict], exam: Exam, size: Size, show: bool) -> list[str]:
    """Draw what there is to draw; an older picture that is not drawn again goes, for it shows another run."""
    for name in ("kl.png", "log-z.png"):
        (out / name).unlink(missing_ok=True)
    with_p = {name: one for name, one in taught.items() if one["kl"] is not None}
    if not with_p:
        return []
    series, full = {}, taught.get("full", {}).get("kl")
    for name, one in with_p.items():
        curve = one["curve"][1:]  # a logarithmic axis has no 0
        axes = [[point["updates"] for point in curve], [point["seconds"] for point in curve]]
        says = f"{one['kl'] / full:.2f}×  {one['says']}" if full else one["says"]
        series[says] = {"x": axes, "y": [point["kl"] for point in curve], **KINDS[name].look}
    panels = [
        {"xlabel": f"updates, of {BATCH} examples", "title": "the same updates", "ylabel": "KL(P* ‖ P̂), nats"},
        {"xlabel": "seconds of learning", "title": "the same time, the same colours"},
    ]
    title = f"How far from the truth: {size.vocab_size:,} words, d = {DIM}"
    first = next(iter(with_p.values()))
    curves(out / "kl.png", title, series, panels, show, level=(began(first), "where all begin"))
    begin = first["curve"][0]
    rows = [("(the teacher)", *exam.log_z), ("(where all begin)", begin["log_z"], begin["log_z_spread"])]
    rows += [(one["says"], one["log_z"], one["log_z_spread"]) for one in with_p.values()]
    xlabel = "log Z(h), mean and standard deviation over the contexts"
    intervals(out / "log-z.png", "log Z(h) of the scores that were learned", rows, xlabel, show)
    return ["kl.png", "log-z.png"]


# %% All of it
def students(n: int) -> str:
    return "1 student" if n == 1 else f"{n} students"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def parser():
    p = common_flags(__doc__, name="sampled-softmax", corpus=False)
    p.add_argument("--full", action="store_true", help="10,000 words, and as long as it takes")
    p.add_argument("--power", type=float, default=0.5, help="noise is drawn from q ∝ count^power (default: 0.5)")
    p.add_argument("--methods", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    return p


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    if args.quick and args.full:
        raise DemoError("--quick and --full: one of the two")
    if not 0 <= args.power < math.inf:
        raise DemoError(f"--power must be a finite number of 0 or more, got {args.power}")
    choose_device(args.device)
    size = SIZES["quick" if args.quick else "full" if args.full else "default"]._replace(power=args.power)
    out, key = output_folder(args.out), mg.Key(args.seed)
    names = [name for name in KINDS if name in args.methods]

    checked = estimators.table(k=(1, 2) if args.quick else consistency.K)
    print_consistency(checked)
    gradients = next(found.sizes for estimator, found in checked.rows if estimator.name == "importance sampling")

    teacher = Teacher(size.vocab_size, DIM, key.fold(0))
    exam = Exam(teacher, size.contexts, key.fold(1))
    with Progress("the teacher speaks", size.updates * BATCH) as bar:
        lesson = Lesson(teacher, size.updates, BATCH, key.fold(2), lambda n: bar.advance(n * BATCH))
    entropy, taught = exam.entropy(), {}
    print(
        f"the teacher: {size.vocab_size:,} words, d = {DIM}; its entropy is {entropy:.2f} nats, of log V = "
        f"{math.log(size.vocab_size):.2f} at most; the lesson: {lesson.words.size:,} words"
    )
    with interruptible("the student under way is dropped, those done are shown") as stop:
        school = School(lesson, exam, size, key.fold(3), lambda n: None, stop)
        updates = {name: updates_of(name, size.updates) for name in names}
        try:
            about = sum(school.seconds(name) * updates[name] for name in names)
            print(f"{students(len(names))}, {sum(updates.values()):,} updates: about {duration(about)}", flush=True)
            with Progress("learning", sum(updates.values()), "updates") as bar:
                school.advance = bar.advance
                for name in names:
                    taught[name] = school.teach(name)
        except Stopped:
            if not taught:
                raise DemoError("stopped before the first student was done: there is nothing to show") from None
            print(f"stopped early: of {students(len(names))} {len(taught)} done, and shown")

    print_students(taught, exam)
    print_ladder(taught, size)
    said = verdicts(taught, size, gradients)
    rows = [[row["sentence"], row["holds"], row["measured"], ", ".join(map(three, row["numbers"]))] for row in said]
    if rows:
        table("The slides, as learned here", ["they say", "holds", "measured", "numbers"], rows)
    files = pictures(out, taught, exam, size, args.show)
    write_json(
        out / "results.json",
        {
            "environment": environment(),
            "arguments": vars(args),
            "size": size._asdict(),
            "consistency": [
                {"estimator": e.name, "claim": e.claim, "gradient": found.sizes} for e, found in checked.rows
            ],
            "entropy": entropy,
            "teacher": {"log_z": exam.log_z[0], "log_z_spread": exam.log_z[1], "right": exam.best()},
            "students": list(taught.values()),
            "stopped_early": len(taught) < len(names),
            "verdicts": said,
            "predict": {
                "kl_of_few_shared_noise_words_over_that_of_the_full_softmax": ratio(taught, "ranking-few", "full"),
                "kl_of_in_batch_negatives_without_log_q_over_that_with_it": ratio(
                    taught, "in-batch-uncorrected", "in-batch"
                ),
                "kl_of_in_batch_negatives_without_log_q_over_that_at_the_beginning": times_its_first(
                    taught, "in-batch-uncorrected"
                ),
            },
        },
    )
    print(f"in {out}: {', '.join([*files, 'results.json'])}")


if __name__ == "__main__":
    run_demo(main)
