"""Skip-gram with nothing left but its arithmetic: how fast can word vectors be learned on one core?

The engine learns one word with some ten operations on small arrays: each must be called, and its result allocated. A
compiled loop has neither cost; what remains is memory. This page arranges the same updates so that few rows move.

    i       a place in the text; t the word there, the centre        U      vectors (V, d), what skip-gram is for
    c₁ … c_m  its contexts: the words of the same sentence            W      outputs (V, d), weights of the output layer
            no further from i than the reach of i                    η      learning rate
    n₁ … n_k  noise, drawn with replacement (hits on t stay)          σ(s)   1 / (1 + e^−s)

The update of one place.
    (1)  m pairs. Mind the direction: from the vector U_c of each context the centre t is to be told from noise, as in
         word2vec and gensim. (The other, contexts told from noise by the centre's vector, has the same pairs of words
         when all places have the same reach: j is near i just when i is near j.)
    (2)  All m pairs share the k noise words (Ji, Satish, Li, Dubey: "Parallelizing Word2Vec in Shared and Distributed
         Memory", arXiv 1604.04661, 2016, §III; in (7) of `sampled/negative.py` they are the batch, which shares as many
         noise words as each counts). So with H (m, d), the rows of U of the contexts, and O (1 + k, d), those of W of
         t, n₁ … n_k, all scores are one small product, S = H Oᵀ (m, 1 + k): column 0 is t's, column j that of n_j.
    (3)  L = Σ_a [softplus(−S_a0) + Σ_j softplus(S_aj)] over a = 1 … m, hence G = ∂L/∂S = σ(S), less 1 in column 0.
    (4)  ∂L/∂H = G O and ∂L/∂O = Gᵀ H: both with the old values, before either is updated.
    (5)  Then each row r of U and W that took part is updated with its gradient g:  SGD r ← r − η g;  Adagrad, with a
         sum for each number of the row, s ← s + g², r ← r − η g / (√s + ε).
    (6)  A word may be twice among the contexts, or in t, n₁ … n_k: its contributions add up. SGD may add them one after
         the other. Adagrad squares the sum, so they are put together first: for equal contexts a and b, rows a and b
         of G are added, for ∂L/∂U_c = (G_a + G_b) O; for equal words among t, n₁ … n_k, two columns of G.

Cost of a place: 3 m (1 + k) d multiply-adds, as for m pairs by themselves. But those read and write m (2 + k) rows,
these m + 1 + k: 8 instead of 20 for m = 4, k = 3, and each number that is loaded is used in several products.
The price: the expectation of the gradient is the same, but m pairs have their noise in common, so where the vectors of
the contexts point the same way the variance of ∂L/∂O is larger, up to m times. And all m see the values from before the
place, where word2vec updates after each pair.

Threads. Rows rarely collide, so let N threads update the same arrays without locks, each its part of the text (Recht,
Ré, Wright, Niu: "Hogwild!", NIPS 2011). Where two do write one row at once, numbers of one update are lost; both
compute with values that may be half new. The loss hardly suffers, but no run can be repeated: one thread learns the
same from the same noise, to the last bit, two do not.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import on_cpu, read, type_of_array, xp_of
from minigrad.ids import check_ids
from minigrad.optim import SGD, Adagrad, Optimizer

from . import kernels
from .sampled.negative import NegativeSampling, negative_sampling

# ---- the naive way: the layer and the optimiser, place by place ---------------------------------------------------


def contexts_of(i: int, ids: type_of_array, sentence: type_of_array, reach: type_of_array) -> list[int]:
    """The contexts of place i: (1)."""
    nearby = range(max(0, i - int(reach[i])), min(len(ids), i + int(reach[i]) + 1))
    return [int(ids[j]) for j in nearby if j != i and sentence[j] == sentence[i]]


def learn_naive(
    vectors: mg.Tensor,
    layer: NegativeSampling,
    optimiser: Optimizer,
    ids: type_of_array,
    sentence: type_of_array,
    reach: type_of_array,
    noise: type_of_array,
    rates: type_of_array,
    places: range | None = None,
) -> int:
    """What `learn` does, by automatic differentiation: an update for each place that has contexts."""
    pairs = 0
    for i in range(len(ids)) if places is None else places:
        if contexts := contexts_of(i, ids, sentence, reach):
            hidden = mg.take(vectors, xp_of(ids).asarray(contexts))  # (m, d)
            loss = layer.loss(hidden, [int(ids[i])] * len(contexts), noise=noise[i], reduction="sum")
            loss.backward()
            optimiser.lr = float(rates[i])
            optimiser.step()
            optimiser.zero_grad()
            pairs += len(contexts)
    return pairs


# ---- the derived way: one update as two products and a sigmoid ----------------------------------------------------


def place_gradients(H: type_of_array, O: type_of_array) -> tuple[type_of_array, type_of_array]:  # noqa: E741
    """(2) to (4): H (m, d), the contexts; O (1 + k, d), target and noise -> ∂L/∂H (m, d), ∂L/∂O (1 + k, d)."""
    S = H @ O.T  # (2): (m, 1 + k)
    _, G_target, G_noise = negative_sampling(S[:, 0], S[:, 1:])  # (3)
    G = xp_of(S).concatenate([G_target[:, None], G_noise], axis=1)  # (m, 1 + k)
    return G @ O, G.T @ H  # (4)


# ---- the fast way: one kernel, or several at once -----------------------------------------------------------------


def learn(
    vectors: mg.Tensor,
    layer: NegativeSampling,
    optimiser: Optimizer,
    ids: type_of_array,
    sentence: type_of_array,
    reach: type_of_array,
    noise: type_of_array | mg.Key,
    rates: type_of_array,
    places: range | None = None,
    *,
    threads: int = 1,
) -> int:
    """Learns from a text, one update for each place that has contexts; returns how many pairs it was. On the CPU.

    vectors: (V, d), updated in place, and so is layer.weight. layer: without a bias, made with shared=k, the k noise
    words of a place. optimiser: SGD or Adagrad over [vectors, layer.weight]; Adagrad's sums go on.
    ids, sentence, reach (n,): the word at each place, the number of its sentence, and how far its contexts may stand.
    noise (n, k): ids, as `layer.draw(key, 1, n)` draws them; or a key: part p of the text draws its own with
    key.fold(p), and there is one part for one thread, otherwise eight a thread. rates (n,): the learning rates.
    places: those to learn, all by default; contexts may stand before and behind them.
    threads: so many parts at once, without locks; only with one is the outcome the same each time.
    Nothing is said of numbers that grow beyond all bounds: see whether the vectors are finite.
    """
    threads = whole("losses.skipgram.learn: threads", threads)
    places = range(len(ids)) if places is None else places
    ids, sentence, reach = _integers("ids", ids), _integers("sentence", sentence), _integers("reach", reach)
    noise = noise if isinstance(noise, mg.Key) else _integers("noise", noise)
    rates = xp_of(rates).asarray(rates, "float64")
    _check_sizes(vectors, layer, ids, sentence, reach, noise, rates, places)
    sums, eps = _state(vectors, layer, optimiser)
    if not len(places):
        return 0
    window = min(int(reach.max()), len(ids))
    num_parts = 1 if threads == 1 else 8 * threads  # small ones: who has a slow core does fewer
    cuts = [places.start + len(places) * i // num_parts for i in range(num_parts + 1)]

    def learn_part(number: int) -> tuple[int, int]:
        begin, end = cuts[number : number + 2]
        drawn = layer.draw(noise.fold(number), 1, end - begin) if isinstance(noise, mg.Key) else noise[begin:end]
        text = ids, sentence, reach, drawn, rates
        return kernels.skipgram(vectors.data, layer.weight.data, *sums, *text, eps, window, begin, end)

    if threads == 1:
        done = [learn_part(0)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(learn_part, range(num_parts)))
    pairs, updates = map(sum, zip(*done, strict=True))
    optimiser.lr = float(rates[places[-1]])
    for i, p in enumerate(optimiser.params):
        optimiser.steps[i] += updates
        p.data = p.data  # tells the tape that the values changed
    return pairs


def held_out_loss(
    vectors: type_of_array, outputs: type_of_array, inputs: type_of_array, targets: type_of_array, noise: type_of_array
) -> float:
    """The mean loss of pairs that were not learned from, each with noise of its own: (2) of `sampled/negative.py`.

    vectors, outputs: (V, d) arrays, of whoever learned them. inputs (n,), targets (n,), noise (n, k): ids. 4,096 pairs
    at a time.
    """
    xp = xp_of(vectors)
    total = xp.zeros((), "float64")  # read once, at the end: on a GPU each look at a number is a wait
    for begin in range(0, len(inputs), 4096):
        here = slice(begin, begin + 4096)
        rows = outputs[xp.concatenate([targets[here, None], noise[here]], axis=1)]  # (b, 1 + k, d)
        scores = xp.einsum("bd,bkd->bk", vectors[inputs[here]], rows)
        total += negative_sampling(scores[:, 0], scores[:, 1:])[0].sum(dtype="float64")
    return read(total) / len(inputs)


def _integers(name: str, array: Any) -> type_of_array:
    array = array.data if isinstance(array, mg.Tensor) else xp_of(array).asarray(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"losses.skipgram.learn: {name} must be integers, got {array.dtype}")
    return array.astype("int64", copy=False)


def _check_sizes(vectors, layer, ids, sentence, reach, noise, rates, places) -> None:
    where = "losses.skipgram.learn:"
    if layer.bias is not None or layer.shared != layer.k:
        raise ValueError(
            f"{where} the layer must be made with bias=False and shared=k, as all contexts of a place share k noise "
            f"words; got bias={layer.bias is not None}, k={layer.k}, shared={layer.shared}"
        )
    if not (
        isinstance(vectors, mg.Tensor) and vectors.shape == layer.weight.shape and vectors.dtype == layer.weight.dtype
    ):
        raise ValueError(
            f"{where} vectors must be a tensor like the layer's weights, {layer.weight!r}; got {vectors!r}"
        )
    for name, array in (("vectors", vectors.data), ("the layer's weights", layer.weight.data)):
        if not (on_cpu(array) and array.flags.c_contiguous and array.dtype.char in "fd"):
            raise ValueError(f"{where} {name} must be float32 or float64 on the CPU, row by row in memory")
    n = len(ids)
    shapes = [("ids", ids, (n,)), ("sentence", sentence, (n,)), ("reach", reach, (n,)), ("rates", rates, (n,))]
    shapes += [] if isinstance(noise, mg.Key) else [("noise", noise, (n, layer.k))]
    for name, array, shape in shapes:
        if not on_cpu(array):
            raise ValueError(f"{where} {name} must be an array on the CPU, got {type(array).__name__}")
        if array.shape != shape:
            raise ValueError(f"{where} {name} must have shape {list(shape)}, got {list(array.shape)}")
    check_ids(f"{where} ids", ids, layer.vocab_size)
    if not isinstance(noise, mg.Key):
        check_ids(f"{where} noise", noise, layer.vocab_size)
    if n and int(reach.min()) < 0:
        raise ValueError(f"{where} reach must be 0 or more, got {int(reach.min())}")
    if places.step != 1 or (len(places) and not 0 <= places.start < places.stop <= n):
        raise IndexError(f"{where} places must be a range within 0 … {n}, got {places}")


def _state(vectors: mg.Tensor, layer: NegativeSampling, optimiser: Optimizer) -> tuple[tuple, float]:
    """What the optimiser remembers of both tables, None for SGD; and its ε."""
    if {id(p) for p in optimiser.params} != {id(vectors), id(layer.weight)}:
        raise ValueError("losses.skipgram.learn: the optimiser must be one of [vectors, layer.weight]")
    if type(optimiser) is SGD and not optimiser.momentum:
        return (None, None), 0.0
    if type(optimiser) is Adagrad:
        sums = optimiser.sums if optimiser.params[0] is vectors else optimiser.sums[::-1]
        return tuple(sums), float(optimiser.eps)
    raise TypeError(
        f"losses.skipgram.learn: the optimiser must be SGD without momentum, or Adagrad; got {optimiser!r:.60}"
    )
