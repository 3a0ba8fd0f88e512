"""The softmax to look at, and what is left of its denominator when only N of the V words are looked at.

The slides: "Computation Across Large Vocabularies", "A Visual Example of the Softmax", "Negative sampling: calculate
the denominator over a subset", "Softmax", "Importance Sampling". They say: the sum over all words, Z, is expensive;
draw some words from a distribution q and weight them by 1/q to approximate it; "this is a biased estimator (esp. when N
is small)".

    python demos/softmax-visual.py
    python demos/softmax-visual.py --context "the number"
    python demos/softmax-visual.py --corpus text.txt --vocab 2000

First a small language model is learned from the text: two words make a context h, s = W h + b are the scores of the V
words that may come next, P(w | h) = e^s_w / Z, all computed exactly. Three contexts are looked at: of the 200 most
frequent ones those where P has the least entropy, the median, and the greatest. The pictures:

    softmax.png        the slide's, with this model's numbers, for the median context
    denominators.png   there, Ẑ = Σ_j e^s_j / c_j from N words that are drawn, c_j being how often j was to be expected
                       among them: N q(j), if the words are independent. Four such q; and two ways to draw distinct
                       words, Gumbel top-k, and `Unique`, TensorFlow's. Nine of ten runs lie in the shade
    convergence.png    the same: how far off log Ẑ is on average, and how far Ẑ is in a single run (of distinct words
                       from N = 2 on: with a single word, the variance of Gumbel's is infinite)
    losses.png         −log P(t | h), t the likeliest word, in the first context and in the last, as it is seen by
                         importance sampling    log Ẑ − s_t: below zero when Ẑ comes out smaller than e^s_t
                         target in the sum      t is counted once, for certain, and no other time: never below zero
                         sampled softmax        which of the N + 1 is the target?  With independent words that is
                                                another number, log(1 + N q(t) / P(t | h)) where Ẑ is good
                         distinct words         the same question; too low on average, and right when N nears V

What is biased is not Ẑ: its mean is Z at every N, for independent words and for Gumbel's. Its logarithm is, hence the
loss. For independent words, with ρ = Σ_w P(w | h)² / q(w), which is 1 for q = P and greater for every other q,

    sd of Ẑ/Z = √((ρ − 1) / N),     mean of log Ẑ − log Z ≈ −(ρ − 1) / 2N  if N is well above ρ.

Both stand in the tables beside what was measured, with the effective sample size, ESS = (Σ_j w_j)² / Σ_j w_j² for
w_j = e^s_j / c_j. It nears N / ρ, but is no more than the sample knows: one that missed what is likely believes itself
far better than it is. (From N = ρ on, part of the chance in log Ẑ can be told from Ẑ, whose mean is known, and is taken
off: a control variate. The mean of `Unique` is not known.) NCE is in no picture of a denominator: it takes Z to be 1
and learns scores for which that is nearly so. A table has the log Z that the exact softmax has learned, which is free
to be anything.

In out/softmax-visual/: the pictures and results.json. Takes half a minute, --quick under ten seconds.

To predict before running; `predict` in results.json has the answers:
    1.  For the median context, how many words drawn uniformly do what 100 do that are drawn by frequency?
    2.  In the context that is most certain of its next word, t: in which part of the runs does importance sampling,
        with 16 words drawn by frequency, find −log P(t | h) below zero, a probability above one?
"""

# %% What we need
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from _shared.errors import DemoError
from _shared.flags import choose_device, common_flags, output_folder, run_demo
from _shared.ngrams import ngrams
from _shared.plots import bands, blocks, lines
from _shared.progress import Progress, counted
from _shared.report import environment, table, write_json
from _shared.text import Text, read_text
from threadpoolctl import threadpool_limits

import losses
import minigrad as mg
from losses.sampled.importance import effective_sample_size, importance_sampling
from losses.sampled.ranking import sampled_softmax
from losses.samplers import GumbelTopK, LogUniform, Sampler, Uniform, Unigram, Unique
from minigrad.backend import read, type_of_array, xp_of

BEFORE = 2  # words that make a context
SHOWN = 12  # words in the picture of the softmax
FREQUENT = 200  # contexts among which three are chosen
LARGEST = 2048  # words drawn for one estimate
BAND = (0.05, 0.95)  # of the runs
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # told apart by the colour-blind
MARKERS = "osD^vX"


# %% The text: each word, and each end of a sentence, with the two words before it
class Data:
    """contexts (n, 2), targets (n,): ids in order of frequency, as log-uniform noise supposes. counts, words: of V."""

    def __init__(self, text: Text):
        boundary = len(text.vocabulary)
        contexts, targets = ngrams(text.tokens, BEFORE, boundary)
        counts = np.bincount(targets, minlength=boundary + 1)
        order = np.argsort(-counts, kind="stable")
        rank = np.argsort(order)
        self.contexts, self.targets = rank[contexts], rank[targets]
        self.counts = np.maximum(counts[order], 1)  # what could not be drawn would be missing in Ẑ
        self.words = [[*text.vocabulary.words, "<end>"][i] for i in order]
        self.no_words = rank[[0, boundary]]  # <unk>, and where a sentence ends or begins

    def frequent_contexts(self, most: int) -> np.ndarray:
        """(n, 2), n <= most: those that occur most often, of words only."""
        found, times = np.unique(self.contexts, axis=0, return_counts=True)
        of_words = ~np.isin(found, self.no_words).any(axis=1)
        found, times = found[of_words], times[of_words]
        if not len(found):
            raise DemoError("there are no two words in a row in this text that are in the vocabulary")
        return found[np.argsort(-times, kind="stable")[:most]]

    def context(self, said: str) -> np.ndarray:
        """The ids of a context in words, (2,)."""
        ids = {word: i for i, word in enumerate(self.words)}
        if len(words := said.lower().split()) != BEFORE or not all(word in ids for word in words):
            raise DemoError(f"--context must be {BEFORE} words of the vocabulary, got {said!r}; try a larger --vocab?")
        return np.array([ids[word] for word in words])

    def in_words(self, context: np.ndarray) -> str:
        return " ".join(self.words[i] for i in context)


# %% The model: two words, a layer, the exact softmax
class LanguageModel(mg.nn.Module):
    def __init__(self, vocab_size: int, dim: int, key: mg.Key):
        self.embedding = mg.nn.Embedding(vocab_size, dim, key=key.fold(0))
        self.hidden = mg.nn.Linear(BEFORE * dim, dim, key=key.fold(1))
        self.output = losses.FullSoftmax(vocab_size, dim, key=key.fold(2))
        self.optimiser = mg.optim.Adagrad([*self.parameters(), *self.output.parameters()], lr=0.3)

    def forward(self, contexts) -> mg.Tensor:
        """h: contexts (B, 2) -> (B, d)."""
        return mg.tanh(self.hidden(mg.reshape(self.embedding(contexts), (len(contexts), -1))))

    def learn(self, contexts, targets) -> float:
        loss = self.output.loss(self(contexts), targets)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()


def train(data: Data, dim: int, words: int, key: mg.Key, batch: int = 256) -> tuple[LanguageModel, float]:
    """The model, and the perplexity of the last tenth of the words: each is guessed before it is learned."""
    model = LanguageModel(len(data.words), dim, key.fold(0))
    order = mg.to_cpu(key.fold(1).permutation(len(data.targets)))[:words]
    said = []
    with Progress("training", len(order)) as bar:
        for begin in range(0, len(order), batch):
            here = order[begin : begin + batch]
            said.append(model.learn(data.contexts[here], data.targets[here]))
            bar.advance(len(here), loss=said[-1])
    return model, math.exp(np.mean(said[-math.ceil(len(said) / 10) :]))


def exact(model: LanguageModel, contexts: np.ndarray) -> tuple[type_of_array, type_of_array]:
    """Scores s (C, V) of all words, float64, and log Z (C,)."""
    with mg.no_grad():
        scores = model.output.raw_scores(model(contexts)).data.astype("float64")
    return scores, mg.logsumexp(scores, axis=1)


def chosen(data: Data, model: LanguageModel) -> np.ndarray:
    """Three of the frequent contexts, (3, 2): where P(w | h) has the least entropy, the median, the greatest."""
    contexts = data.frequent_contexts(FREQUENT)
    scores, log_z = exact(model, contexts)
    log_p = scores - log_z[:, None]
    entropy = mg.to_cpu(-(xp_of(log_p).exp(log_p) * log_p).sum(axis=1))
    order = np.argsort(entropy, kind="stable")
    return contexts[order[[0, len(order) // 2, -1]]]


def described(data: Data, ids: np.ndarray, log_p: type_of_array, log_z: type_of_array) -> tuple[list[dict], list[int]]:
    """Of each context what there is to tell; and its likeliest word, the target whose loss is looked at."""
    best = np.argsort(-(p := mg.to_cpu(xp_of(log_p).exp(log_p))), axis=1, kind="stable")[:, :5]  # (C, 5)
    told = []
    for c, context in enumerate(ids):
        likeliest = {data.words[w]: float(p[c, w]) for w in best[c]}
        entropy = float(read(-(xp_of(log_p).exp(log_p[c]) * log_p[c]).sum()))
        words = {"words": data.in_words(context), "likeliest": likeliest}
        told.append(words | {"entropy": entropy, "log_z": float(read(log_z[c]))})
    return told, best[:, 0].tolist()


# %% The noise
def methods(data: Data) -> dict[str, Sampler]:
    vocab_size = len(data.words)
    return {
        "uniform": Uniform(vocab_size),
        "unigram": Unigram(data.counts, power=1.0),
        "unigram, power ¾": Unigram(data.counts, power=0.75),
        "log-uniform": LogUniform(vocab_size),
        "Gumbel top-k, unigram": GumbelTopK(data.counts),
        "Unique, log-uniform": Unique(LogUniform(vocab_size)),
    }


def rho(log_p: type_of_array, sampler: Sampler) -> float:
    """ρ = Σ_w P(w)² / q(w), the mean of P/q over P."""
    xp = xp_of(log_p)
    return float(read(xp.exp(2 * log_p - sampler.log_prob(xp.arange(len(log_p)))).sum()))


# %% Z from N words
def without_chance(log_ratio: type_of_array) -> type_of_array:
    """Numbers with the mean of log(Ẑ/Z), (runs,), and a smaller variance: the mean of Ẑ/Z must be known to be 1.

    A control variate: log x − β (x − 1), where β is the slope of log x against x. It takes runs that have met all that
    matters, for what they have not met isn't chance to them: Ẑ/Z should be within one or so of 1.
    """
    off = xp_of(log_ratio).exp(log_ratio) - 1
    return log_ratio - off * ((off - off.mean()) * log_ratio).mean() / max(float(read(off.var())), 1e-300)


def summary(values: type_of_array) -> dict[str, float]:
    """Mean, its standard error, standard deviation and a band, of values (runs,)."""
    xp, runs = xp_of(values), len(values)
    ordered = xp.sort(values)
    low, high = (ordered[round(part * (runs - 1))] for part in BAND)
    mean, sd, low, high = mg.to_cpu(xp.stack([values.mean(), values.std(ddof=1), low, high])).tolist()
    return {"mean": mean, "standard_error": sd / math.sqrt(runs), "sd": sd, "low": low, "high": high}


def denominators(log_p, samplers: Mapping[str, Sampler], sizes, budget: int, key: mg.Key, advance: Callable) -> list:
    """For each method, N and context: what is known of Ẑ/Z, of log Ẑ − log Z, and of its bias. log_p (C, V)."""
    xp, found = xp_of(log_p), []
    for i, (name, sampler) in enumerate(samplers.items()):
        rhos = [rho(each, sampler) for each in log_p]
        for N in sizes:
            runs = runs_of(sampler, N, budget)
            ids, seen = sampler.draw(key.fold(i, N), (runs, N))
            log_count = sampler.log_expected_count(ids, N, seen)  # (runs, N)
            for c, log_p_here in enumerate(log_p):
                log_weights = log_p_here[ids] - log_count
                log_ratio = mg.logsumexp(log_weights, axis=1)  # log(Ẑ/Z), as P is e^s / Z
                told = {"context": c, "method": name, "N": N, "runs": runs}
                told["ratio"], told["log"] = summary(xp.exp(log_ratio)), summary(log_ratio)
                mean_is_known = not isinstance(sampler, Unique)
                told["bias"] = summary(without_chance(log_ratio)) if mean_is_known and N >= rhos[c] else told["log"]
                ess = float(read(effective_sample_size(log_weights).mean()))
                of_independent = {"rho": rhos[c], "effective_sample_size": ess}
                found.append(told | (of_independent if sampler.replacement else dict.fromkeys(of_independent)))
            advance()
    return found


def runs_of(sampler: Sampler, N: int, budget: int) -> int:
    """As many as the budget of draws has room for: Gumbel's looks at all words, and `Unique` tries, and sorts, more."""
    looked_at = sampler.vocab_size if isinstance(sampler, GumbelTopK) else N if sampler.replacement else 8 * N
    return max(128, min(1 << 14, budget // looked_at))


# %% The loss from N words
class Estimator(NamedTuple):
    """loss: (runs,) of s_t (runs,), s_n (runs, N), the log expected counts of both, and hits: which noise is t."""

    sampler: Sampler
    loss: Callable
    of_its_own: bool = False  # estimates log(1 + N q(t) / P(t | h)) instead


def estimators(data: Data) -> dict[str, Estimator]:
    independent, distinct = Unigram(data.counts, power=1.0), GumbelTopK(data.counts)

    def importance(s_t, s_n, count_t, count_n, hits):
        return importance_sampling(s_t, s_n, log_count_noise=count_n)[0]

    def target_in_the_sum(s_t, s_n, count_t, count_n, hits):
        """A target that is there for certain, log 1 = 0, and is not noise: log(e^s_t + Σ_{j ≠ t} e^s_j / c_j) − s_t."""
        return sampled_softmax(s_t, s_n, log_count_target=0.0 * s_t, log_count_noise=count_n, hits=hits)[0]

    def ranking(s_t, s_n, count_t, count_n, hits):
        """Hits stay, as in `losses.SampledSoftmax` with independent draws."""
        return sampled_softmax(s_t, s_n, log_count_target=count_t, log_count_noise=count_n)[0]

    def ranking_distinct(s_t, s_n, count_t, count_n, hits):
        return sampled_softmax(s_t, s_n, log_count_target=count_t, log_count_noise=count_n, hits=hits)[0]

    return {
        "importance sampling": Estimator(independent, importance),
        "importance sampling, target in the sum": Estimator(independent, target_in_the_sum),
        "sampled softmax, independent words": Estimator(independent, ranking, of_its_own=True),
        "sampled softmax, distinct words": Estimator(distinct, ranking_distinct),
    }


def losses_seen(scores, log_z, targets, ways: Mapping, sizes, budget: int, key: mg.Key, advance: Callable) -> list:
    """For each context with its target, estimator and N: what is known of the loss. scores (C, V), log_z (C,)."""
    xp, found = xp_of(scores), []
    for name, (sampler, loss, of_its_own) in ways.items():
        for N in sizes:
            runs = runs_of(sampler, N, budget)
            ids, seen = sampler.draw(key.fold(N), (runs, N))  # the same for all that draw from this sampler
            log_count = sampler.log_expected_count(ids, N, seen)
            for c, target in enumerate(targets):
                each = xp.full(runs, target)  # the target of each run
                log_count_target = sampler.log_expected_count(each, N, seen)
                values = loss(scores[c][each], scores[c][ids], log_count_target, log_count, ids == target)
                true = float(read(log_z[c] - scores[c, target]))
                told = {"context": c, "estimator": name, "N": N, "runs": runs, "true": true} | summary(values)
                told["below_zero"] = float(read((values < 0).mean()))
                q_over_p = math.exp(float(read(sampler.log_prob(target))) + true)
                found.append(told | {"tends_to": math.log1p(N * q_over_p) if of_its_own else true})
            advance()
    return found


# %% Pictures
def show_softmax(path, data: Data, model: LanguageModel, context: np.ndarray, show: bool) -> dict:
    """The slide's picture: W h + b = s, p = softmax(s), for the words that are likely here, and frequent ones."""
    with mg.no_grad():
        hidden = model(context[None])
    scores, log_z = exact(model, context[None])
    s, log_z = mg.to_cpu(scores)[0], float(read(log_z[0]))
    likely = np.argsort(-s, kind="stable")[: SHOWN // 2].tolist()
    frequent = [i for i in range(len(s)) if i not in likely][: SHOWN - len(likely)]
    rows = sorted(likely + frequent)
    words, p = [data.words[i] for i in rows], np.exp(s - log_z)
    W, h = model.output.weight.numpy()[rows], hidden.numpy()[0]
    more = "⋮" if len(rows) < len(s) else ""
    parts = [
        {"name": "W", "values": W, "left": words, "below": [more, f"{len(s):,} × {len(h)} numbers"]},
        {"name": "h", "values": h[:, None], "sign": "·"},
        {"name": "b", "values": model.output.bias.numpy()[rows, None], "sign": "+", "below": [more]},
        {"name": "s", "values": s[rows, None], "sign": "=", "numbers": True, "below": [more]},
        {"name": "eˢ", "values": np.exp(s[rows, None]), "sign": "exp\n→", "numbers": True},
        {"name": "p", "values": p[rows, None], "sign": "÷ Z\n→", "numbers": True, "right": words},
    ]
    Z = f"{math.exp(log_z):,.0f}" if log_z < 15 else f"e^{log_z:.1f}"
    parts[4]["below"] = [more, "sum of all:", f"Z = {Z}"]
    parts[5]["below"] = [more, "sum of all:", "1"]
    chosen_as = f"{len(rows)} of {len(s):,} words: the {len(likely)} likeliest here and the most frequent others"
    foot = [
        f"{chosen_as}; they have {p[rows].sum():.0%} of the probability.",
        "Blue is above zero, red below; the darkest cell of a block is the largest in size.",
    ]
    title = f"What comes after “{data.in_words(context)}”?   p = softmax(W h + b)"
    blocks(path, title, parts, foot, show)
    return {"context": data.in_words(context), "words": words, "scores": s[rows], "probabilities": p[rows]}


def where_theory_holds(rho: float, sizes: Sequence[int]) -> list[int]:
    return [N for N in sizes if N >= rho]


def show_denominators(path, found: Sequence[Mapping], title: str, show: bool) -> None:
    """Ẑ/Z above, log Ẑ − log Z below, a column for each method."""
    above, below = [], []
    for name in dict.fromkeys(row["method"] for row in found):
        rows = [row for row in found if row["method"] == name]
        sizes, rho = [row["N"] for row in rows], rows[0]["rho"]
        panels = []
        for what, truth in (("ratio", 1.0), ("log", 0.0)):
            series = {"exact": (sizes, [truth] * len(sizes), {"color": "black", "linewidth": 1})}
            series["mean of the runs"] = (sizes, [row[what]["mean"] for row in rows])
            low, high = ([row[what][end] for row in rows] for end in ("low", "high"))
            panels.append({"series": series, "band": (sizes, low, high), "log": "x"})
        if rho and (held := where_theory_holds(rho, sizes)):
            style = {"color": "#D55E00", "linestyle": "--", "linewidth": 3}
            panels[1]["series"]["−(ρ − 1) / 2N, from N = ρ on"] = (held, [(1 - rho) / (2 * N) for N in held], style)
        method = f"{name}\nρ = {rho:,.3g}" if rho else name.replace(", ", ",\n")
        above.append(panels[0] | {"title": method, "log": "xy", "ylabel": "Ẑ / Z", "ylim": (0.01, 10)})
        below.append(panels[1] | {"ylabel": "log Ẑ − log Z", "ylim": (-4, 2)})
    above[0] |= {"band_name": "9 of 10 runs", "xlabel": "N, words drawn"}
    bands(path, title, [above, below], show)


def show_convergence(path, found: Sequence[Mapping], title: str, show: bool) -> None:
    """Left how far the mean of log Ẑ is off, right how far a single Ẑ is; theory dashed."""
    off, spread = {}, {}
    for i, name in enumerate(dict.fromkeys(row["method"] for row in found)):
        rows = [row for row in found if row["method"] == name]
        look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 9, "linewidth": 1.2}
        seen = [row for row in rows if abs(row["bias"]["mean"]) > 5 * row["bias"]["standard_error"]]
        if seen:
            off[name] = ([row["N"] for row in seen], [abs(row["bias"]["mean"]) for row in seen], look)
        finite = [row for row in rows if row["rho"] or row["N"] > 1]  # of Gumbel's one word the variance is infinite
        if finite:
            spread[name] = ([row["N"] for row in finite], [row["ratio"]["sd"] for row in finite], look)
        if (rho := rows[0]["rho"]) and (held := where_theory_holds(rho, [row["N"] for row in rows])):
            dashed = {"color": COLOURS[i], "linestyle": "--", "marker": "", "linewidth": 2}
            off[f"_{name}"] = (held, [(rho - 1) / (2 * N) for N in held], dashed)
            spread[f"_{name}"] = (held, [math.sqrt((rho - 1) / N) for N in held], dashed)
    bias = {"title": "bias beyond 5 standard errors; dashed (ρ − 1) / 2N", "ylabel": "|mean of log Ẑ − log Z|"}
    sd = {"title": "spread; dashed √((ρ − 1) / N)", "ylabel": "standard deviation of Ẑ / Z"}
    panels = [bias | {"series": off}, sd | {"series": spread}]
    shared = {"xlabel": "N, words drawn", "log": "xy"}
    lines(path, title, [panel | shared for panel in panels if panel["series"]], show)


def show_losses(path, found: Sequence[Mapping], ylabels: Mapping[int, str], title: str, show: bool) -> None:
    """A row for each context, a column for each estimator."""
    rows = []
    for c, ylabel in ylabels.items():
        panels = []
        for name in dict.fromkeys(row["estimator"] for row in found):
            here = [row for row in found if (row["context"], row["estimator"]) == (c, name)]
            sizes = [row["N"] for row in here]
            gray = {"color": "gray", "linewidth": 1.5, "linestyle": ":"}
            series = {
                "zero, as if P were 1": (sizes, [0.0] * len(sizes), gray),
                "exact": (sizes, [row["true"] for row in here], {"color": "black", "linewidth": 1.5}),
                "mean of the runs": (sizes, [row["mean"] for row in here]),
            }
            if here[0]["tends_to"] != here[0]["true"]:
                style = {"color": "#D55E00", "linestyle": "--", "linewidth": 3}
                series["log(1 + N q(t) / P(t | h))"] = (sizes, [row["tends_to"] for row in here], style)
            panels.append({"series": series, "band": (sizes, *([row[end] for row in here] for end in ("low", "high")))})
            panels[-1] |= {"log": "x", "title": "" if rows else name.replace(", ", ",\n"), "ylabel": ylabel}
        rows.append(panels)
    rows[0][0] |= {"band_name": "9 of 10 runs", "xlabel": "N, words drawn"}
    bands(path, title, rows, show)


# %% Tables
def print_contexts(contexts: Sequence[Mapping]) -> None:
    likeliest = [", ".join(f"{word} {p:.2f}" for word, p in told["likeliest"].items()) for told in contexts]
    rows = [[told["words"], said, told["entropy"], told["log_z"]] for told, said in zip(contexts, likeliest)]
    headers = ["context", "its likeliest words", "entropy, nats", "log Z, which NCE takes to be 0"]
    table("Three contexts, by the exact softmax", headers, rows)


def plus_minus(told: Mapping, truth: float = 0.0) -> str:
    return f"{told['mean'] - truth:+.4f} ± {told['standard_error']:.4f}"


def print_denominators(found: Sequence[Mapping], N: int, contexts: Sequence[Mapping]) -> None:
    headers = ["method", "ρ", "Ẑ/Z − 1", "sd", "√((ρ − 1)/N)", "log Ẑ − log Z", "−(ρ − 1)/2N", "ESS", "N/ρ"]
    for c, context in enumerate(contexts):
        rows = []
        for row in (row for row in found if (row["context"], row["N"]) == (c, N)):
            rho = row["rho"]
            sd, bias, ess = (math.sqrt((rho - 1) / N), (1 - rho) / (2 * N), N / rho) if rho else (None, None, None)
            ratio = [plus_minus(row["ratio"], 1.0), row["ratio"]["sd"], sd]
            rows.append([row["method"], rho, *ratio, plus_minus(row["bias"]), bias, row["effective_sample_size"], ess])
        table(f"“{context['words']}”: Z from N = {N} words, mean ± standard error", headers, rows)


def print_losses(found: Sequence[Mapping], N: int, contexts: Sequence[Mapping]) -> None:
    headers = ["context → target", "estimator", "−log P(t | h)", "estimated", "sd", "below zero"]
    rows = []
    for row in sorted((row for row in found if row["N"] == N), key=lambda row: row["context"]):
        context = contexts[row["context"]]
        target = next(iter(context["likeliest"]))
        numbers = [row["true"], plus_minus(row), row["sd"], f"{row['below_zero']:.1%}"]
        rows.append([f"{context['words']} → {target}", row["estimator"], *numbers])
    table(f"The loss from N = {N} words, mean ± standard error", headers, rows)


# %% All of it
def parser():
    p = common_flags(__doc__, name="softmax-visual")
    p.add_argument("--context", metavar="WORDS", help="two words, in place of the median context")
    p.add_argument("--vocab", type=int, default=4096, metavar="V", help="the most frequent words (default 4096)")
    p.add_argument("--dim", type=int, default=16, metavar="d", help="numbers in a context, at most 20 (default 16)")
    p.add_argument("--words", type=int, default=300_000, metavar="n", help="how many are learned (default 300,000)")
    return p


def checked(args) -> None:
    for name, least, most in (("vocab", 64, 1 << 16), ("dim", 1, 20), ("words", 1, 10**9)):
        if not least <= getattr(args, name) <= most:
            raise DemoError(f"--{name} must lie in {least} to {most:,}, got {getattr(args, name)}")


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small: threads would wait for one another
def main(argv=None) -> None:
    args = parser().parse_args(argv)
    checked(args)
    choose_device(args.device)
    out, key = output_folder(args.out), mg.Key(args.seed)
    if args.quick:
        args.vocab, args.words = min(args.vocab, 1024), min(args.words, 20_000)
    budget = 1 << 16 if args.quick else 1 << 22  # words drawn, of one method and N

    reading = ("reading docstrings", "files") if args.corpus is None else (f"reading {args.corpus.name}", "bytes")
    with counted(*reading) as progress:
        limit = 20_000 if args.quick else None
        text = read_text(args.corpus, 1, max_size=args.vocab - 1, limit_words=limit, progress=progress)
    data = Data(text)
    print(f"{text.describe()}\nvocabulary: {len(data.words):,} ids", flush=True)
    model, perplexity = train(data, args.dim, args.words, key.fold(0))
    print(f"perplexity of the last tenth of what was learned, before it was: {perplexity:.1f}", flush=True)

    ids = chosen(data, model)
    ids[1] = ids[1] if args.context is None else data.context(args.context)
    scores, log_z = exact(model, ids)
    log_p = scores - log_z[:, None]
    contexts, targets = described(data, ids, log_p, log_z)
    samplers, ways = methods(data), estimators(data)
    sizes = [2**i for i in range(20) if 2**i <= min(LARGEST, len(data.words) // 2)]
    with Progress("drawing", len(sizes) * (len(samplers) + len(ways)), "estimates") as bar:
        found = denominators(log_p, samplers, sizes, budget, key.fold(1), bar.advance)
        of_loss = losses_seen(scores, log_z, targets, ways, sizes, budget // 2, key.fold(2), bar.advance)

    print_contexts(contexts)
    print_denominators(found, min(64, sizes[-1]), contexts)
    print_losses(of_loss, min(16, sizes[-1]), contexts)
    shown = show_softmax(out / "softmax.png", data, model, ids[1], args.show)
    middle = [row for row in found if row["context"] == 1]
    after = f"after “{contexts[1]['words']}”, from N of {len(data.words):,} words"
    show_denominators(out / "denominators.png", middle, f"The denominator Z {after}", args.show)
    show_convergence(out / "convergence.png", middle, f"Errors of the estimate Ẑ {after}", args.show)
    ylabels = {c: f"“{contexts[c]['words']}” → {data.words[targets[c]]}" for c in (0, 2)}
    title = "The loss −log P(t | h), in nats, and what N noise words make of it (unigram noise)"
    show_losses(out / "losses.png", of_loss, ylabels, title, args.show)
    names = ["softmax.png", "denominators.png", "convergence.png", "losses.png", "results.json"]
    write_json(
        out / names[-1],
        {
            "environment": environment(),
            "corpus": text.describe(),
            "arguments": vars(args),
            "vocab_size": len(data.words),
            "perplexity": perplexity,
            "contexts": contexts,
            "softmax": shown,
            "denominators": found,
            "losses": of_loss,
            "predict": predicted(found, of_loss),
        },
    )
    print(f"in {out}: {', '.join(names)}")


def predicted(found: Sequence[Mapping], of_loss: Sequence[Mapping]) -> dict[str, float]:
    """What the docstring asks: by the variance (ρ − 1) / N, and as counted."""
    rho = {row["method"]: row["rho"] for row in found if row["context"] == 1}
    wanted = (0, "importance sampling", min(16, max(row["N"] for row in of_loss)))
    (below,) = (r["below_zero"] for r in of_loss if (r["context"], r["estimator"], r["N"]) == wanted)
    return {
        "uniform_words_that_do_what_100_by_frequency_do": 100 * (rho["uniform"] - 1) / (rho["unigram"] - 1),
        "part_of_the_losses_below_zero": below,
    }


if __name__ == "__main__":
    run_demo(main)
