"""The adaptive softmax: a small exact softmax for most of a text, and some large cheap ones that are seldom needed.

Words occur by Zipf's law: with V = 1,000,000 the thousand most frequent are half of a text. And machines multiply large
matrices well, but every product, however small, has its price: a tree (`hierarchical.py`) saves multiply-adds, but its
log V small products may take longer than one of decent size. Grave, Joulin, Cissé, Grangier, Jégou ("Efficient softmax
approximation for GPUs", ICML 2017) make few decisions, each a product of decent size: the frequent words are in a
*head*, the others in J *clusters*, the less frequent, the larger.

    h   the context: d numbers; t the right word             a_i     cut-offs: by frequency, words 0 … a₀ − 1 are in the
    B   examples in a batch; V words in the vocabulary               head, a_i … a_{i+1} − 1 in cluster i, and a_J = V
    J   clusters, i = 0 … J − 1                              k_h     words in the head, a₀;  k_i  words in cluster i
    s   the scores of the head: first of its words,          d_i     numbers of a context in cluster i
        then of the clusters, k_h + J of them                p_i     the part of running text that lies in cluster i

The loss.
    (1)  P(w | h) = p_w for a word of the head, and p_{k_h + i} · P_i(w | h) for a word of cluster i. p is the softmax
         of s = W h + b, for which a cluster is one word more; P_i one over the k_i words of cluster i alone. Each adds
         up to one, and so do the P(w | h), whatever the scores: nothing is approximated but in (5).
    (2)  The scores of cluster i are s_i = W_i (C_i h), where the projection C_i, (d_i, d), makes of the context
         d_i = max(1, ⌊d / 4^{i+1}⌋) numbers: fewer for rarer words, which is cheaper; what it costs in probability is
         in (5). W_i is (k_i, d_i). (⌊d / 4^{i+1}⌋ alone is 0 for d = 8, i = 1: every word has the score 0, and nothing
         is learned.)
    (3)  L = −log P(t | h): the cross-entropy of the head, whose target is t or else t's cluster, and if t lies in
         cluster i that of cluster i, whose target is t − a_i. So a cluster's scores are computed for those examples
         whose target lies there, n_i of them, and for no others; if n_i = 0 nothing is.

Its gradient.
    (4)  ∂L/∂s = p − 1[· = the head's target];  ∂L/∂s_i = P_i − 1[· = t − a_i] for the n_i examples, and for no others.
         So, summed over these, W_i has the gradient ∂L/∂s_i (C_i h)ᵀ, all rows of it, and C_i has W_iᵀ ∂L/∂s_i hᵀ; if
         n_i = 0 they have none. h gets C_iᵀ W_iᵀ ∂L/∂s_i beside the head's Wᵀ ∂L/∂s.

What it costs.
    (5)  Scores W_i C_i h of many contexts h have the rank d_i at most: the log-odds between the words of a cluster vary
         in at most d_i directions. And without a bias they are linear in C_i h, 0 at h = 0 and of opposite sign at −h:
         what is frequent must be told by these numbers too. So a few of them fit less than d would: for d = 128
         `demos/predictors.py` shows it in the perplexity of a small language model. `div_value=2` loses less.
    (6)  In rows of d numbers, that is, multiply-adds of the forward product by d, an example costs
            k_h + J + Σ_i p_i (d_i + k_i d_i / d)
         on average. By Zipf's law, V = 10,000, d = 128 and the cut-offs 20 and 595, for two clusters about the least
         there is, make that 254 instead of V; those that the layer chooses, 76 and 1,350, 293 (`cutoffs.py` says why).
    (7)  That is for a target that is known. The probabilities of *all* words need every cluster for every example,
         k_h + J + Σ_i (d_i + k_i d_i / d) rows: the latter 977 instead of V, as clusters are narrow.
    (8)  For the k best words mostly less will do: no word of cluster i is more probable than the cluster, p_{k_h + i}.
         If k words more probable than the cluster are known, it need not be looked into. (If the k-th is just as
         probable, it is, and the lower id decides.)

Where the cut-offs should be, `cutoffs.py` computes; how the softmax of a cluster stays in the cache is in `tails.py`.
The order of the head's scores is part of the model: to take cluster i's from the end, s[−1 − i], reverses the clusters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import device_of, quiet, to_cpu, type_of_array, xp_of
from minigrad.ids import check_ids, note_range
from minigrad.ledger import tell
from minigrad.rules import look_up, put

from ..layer import ScoreCost, best
from ..softmax import full_softmax, softmax_cross_entropy
from .cutoffs import best_cutoffs, checked_cutoffs, checked_div_value, widths
from .layer import StructuredLayer, by_frequency
from .tails import tail_softmax


def clusters_of(targets: type_of_array, cutoffs: Sequence[int]) -> tuple[type_of_array, list[type_of_array]]:
    """Where targets (B,) lie, ranks: the head's targets (B,), and for each cluster its examples (n_i,), in order."""
    xp, num_clusters = xp_of(targets), len(cutoffs)
    if not num_clusters:
        return targets, []
    cluster = sum((targets >= a).astype(targets.dtype) for a in cutoffs)  # 0: the head
    order = cluster.argsort(kind="stable")
    ends = to_cpu(xp.searchsorted(cluster[order], xp.arange(1, num_clusters + 2))).tolist()
    return xp.where(cluster == 0, targets, cutoffs[0] - 1 + cluster), [order[i:j] for i, j in pairwise(ends)]


# ---- the naive way: all probabilities of all words, left to the engine ---------------------------------------------


def adaptive_softmax_naive(head_scores: Any, *tail_scores: Any, targets: type_of_array) -> Any:
    """(1) as it stands, for every example every cluster: head_scores (B, k_h + J), tail_scores (B, k_i) -> (B,)."""
    k_h = head_scores.shape[1] - len(tail_scores)
    p = mg.softmax(head_scores)
    parts = [p[:, k_h + i : k_h + i + 1] * mg.softmax(s) for i, s in enumerate(tail_scores)]
    return -mg.log(mg.take_along_axis(mg.concat([p[:, :k_h], *parts], axis=1), targets[:, None], axis=1)[:, 0])


# ---- the derived way: a pure function of scores --------------------------------------------------------------------


def adaptive_softmax(
    head_scores: Any, *tail_scores: Any, targets: type_of_array, cutoffs: Sequence[int]
) -> tuple[Any, ...]:
    """Loss (3) and gradients (4): loss (B,), ∂L/∂s (B, k_h + J), and for each cluster ∂L/∂s_i (n_i, k_i).

    head_scores (B, k_h + J); tail_scores[i] (n_i, k_i), for the n_i examples whose target lies in cluster i, in their
    order; n_i = 0 is allowed. targets: (B,) ranks, 0 the most frequent word; cutoffs: a₀ … a_{J−1}, without V.
    """
    in_head, members = _checked(head_scores, tail_scores, targets, cutoffs)
    loss, G_head = softmax_cross_entropy(head_scores, in_head)
    G_tails = []
    for scores, examples, first in zip(tail_scores, members, cutoffs):
        if not len(examples):
            G_tails.append(scores)  # (0, k_i): no numbers
            continue
        tail_loss, G = softmax_cross_entropy(scores, targets[examples] - first)
        loss = loss + put(tail_loss, index=(examples,), shape=loss.shape)  # (3)
        G_tails.append(G)
    return loss, G_head, *G_tails


def _checked(head_scores, tail_scores, targets, cutoffs):
    """`clusters_of` targets, if scores of these shapes go with them; else an error."""
    if getattr(targets, "ndim", 0) != 1:
        raise TypeError(f"losses.adaptive_softmax: targets must be an array (B,) of ranks, got {targets!r:.60}")
    in_head, members = clusters_of(targets, cutoffs)
    sizes = [b - a for a, b in pairwise(cutoffs)] + [s.shape[1] for s in tail_scores[-1:]]  # V is not given
    words = cutoffs[0] if len(cutoffs) else head_scores.shape[1]
    wanted = [(len(targets), words + len(cutoffs)), *((len(n_i), k_i) for n_i, k_i in zip(members, sizes))]
    came = [s.shape for s in (head_scores, *tail_scores)]
    if len(members) != len(tail_scores) or came != wanted:
        raise ValueError(
            f"losses.adaptive_softmax: {len(targets)} targets, {[len(n_i) for n_i in members]} of them in the clusters "
            f"that begin at {list(cutoffs)}, do not go with scores {', '.join(str(list(shape)) for shape in came)}"
        )
    check_ids("losses.adaptive_softmax: targets", targets, words + sum(sizes))
    return in_head, members


def _forward(*scores, targets, cutoffs):
    loss, *gradients = adaptive_softmax(*scores, targets=targets, cutoffs=cutoffs)
    return loss, gradients


def _rule(g, y, gradients, *scores, targets, cutoffs):
    """The chain rule, one g an example; `of_scores` has it for scores that all have B rows."""
    G_head, *G_tails = gradients or adaptive_softmax(*scores, targets=targets, cutoffs=cutoffs)[1:]
    members = clusters_of(targets, cutoffs)[1]
    tails = [look_up(g, ids=examples).reshape((-1, 1)) * G for examples, G in zip(members, G_tails)]
    return g.reshape((-1, 1)) * G_head, *tails


adaptive_softmax_loss = mg.primitive("adaptive_softmax", _forward, joint=_rule)


# ---- the fast way: a layer that projects and scores what is visited, each cluster in one operation -----------------


class AdaptiveSoftmax(StructuredLayer):
    """The adaptive softmax over `vocab_size` words for contexts of `dim` numbers.

    cutoffs: a₀ < … < a_{J−1}, ranks from 1 to V − 1, as `torch.nn.AdaptiveLogSoftmaxWithLoss` has them; [] makes the
    full softmax; None takes `best_cutoffs` for batches of 128. div_value: by which factor each cluster is narrower (2).
    counts: by them the layer sorts the words; ids stay the caller's. bias: of the head (torch's head_bias, there False
    by default); a cluster's words have none.

    weight (k_h + J, d), bias (k_h + J,) or None; of cluster i projection_i (d_i, d) and words_i (k_i, d_i). Which word
    a row belongs to, `order` says, (V,) ids: the head's words, then cluster by cluster, in each by their id. Rows begin
    uniform in ±1/(2d), a cluster's in ±1/(2d_i), a projection's in ±√(3/d): C_i h is about as large as h. (In torch
    ±1/√d, ±1/√d_i and ±1/√d.)
    A cluster that a batch doesn't visit has no gradient (None), as in torch, and optimisers leave it as it is.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        cutoffs: Sequence[int] | None = None,
        div_value: float = 4.0,
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        div_value = checked_div_value("losses.AdaptiveSoftmax", div_value)
        if cutoffs is None:
            cutoffs = best_cutoffs(self.counts, self.dim, div_value=div_value)
        self.cutoffs = checked_cutoffs("losses.AdaptiveSoftmax", cutoffs, vocab_size)
        self.num_clusters, self.widths = len(self.cutoffs), widths(self.dim, div_value, len(self.cutoffs))
        ends = [*self.cutoffs, vocab_size]
        self.sizes = [b - a for a, b in pairwise(ends)]  # k_i
        self.weight, self.bias = self._table(0, ends[0] + self.num_clusters)
        names = []
        for i, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            noise = self._key.fold(2 * i + 1).uniform((width, dim)) - 0.5
            projection = mg.param(noise * (12.0 / dim) ** 0.5)  # of variance 1/d: C h is about as large as h
            words = self._table(2 * i + 2, size, width)[0]
            setattr(self, f"projection_{i}", projection)
            setattr(self, f"words_{i}", words)
            names += [f"projection_{i}", f"words_{i}"]
        self.tables = ("weight", "bias", *names)
        xp, ranked = xp_of(self.counts), by_frequency(self.counts)
        self.order = xp.concatenate([xp.sort(ranked[a:b]) for a, b in pairwise([0, *ends])])  # (V,)
        self._place = self.order.argsort()  # (V,): where in `order` an id is

    def _cluster(self, i: int) -> tuple[mg.Tensor, mg.Tensor]:
        return getattr(self, f"projection_{i}"), getattr(self, f"words_{i}")

    def _losses(self, hidden, targets):
        places = self._place[targets]
        in_head, members = clusters_of(places, self.cutoffs)
        note_range(in_head, 0, len(self.weight) - 1)  # or a GPU would be asked
        bias = 0.0 if self.bias is None else self.bias
        losses = full_softmax(hidden, self.weight, bias, targets=in_head, chunk=None)
        for i, examples in enumerate(members):
            if len(examples):
                projection, words = self._cluster(i)
                short = mg.linear(look_up(hidden, ids=examples), projection, 0.0)  # (2): (n_i, d_i)
                in_cluster = places[examples] - self.cutoffs[i]
                note_range(in_cluster, 0, self.sizes[i] - 1)
                tail = tail_softmax(short, words, in_cluster)
                losses = losses + put(tail, index=(examples,), shape=losses.shape)  # (3)
        return losses

    def _head(self, hidden):
        """log p of (1), (B, k_h + J)."""
        scores = hidden @ self.weight.T
        return mg.log_softmax(scores if self.bias is None else scores + self.bias)

    def _tail(self, i, hidden):
        """log P_i of (1), (B, k_i)."""
        projection, words = self._cluster(i)
        return mg.log_softmax(mg.linear(hidden, projection, 0.0) @ words.T)

    def log_prob(self, hidden):
        """log P(w | h) of every word, (B, V): (1), every cluster for every example (7)."""
        hidden = self._checked(hidden)
        with quiet():
            head, k_h = self._head(hidden), self.vocab_size - sum(self.sizes)
            tails = [head[:, k_h + i : k_h + i + 1] + self._tail(i, hidden) for i in range(self.num_clusters)]
        return mg.concat([head[:, :k_h], *tails], axis=1)[:, self._place]

    def log_prob_of(self, hidden, targets):
        """log P(w | h) of one word for each context, `targets` (B,) -> (B,), at the cost of training, (6)."""
        hidden, targets = self._for_loss(hidden, targets)
        return -self._losses(hidden, targets)

    def topk(self, hidden, k):
        """The k most probable words, best first: ids (B, k) and log P (B, k). A cluster is scored for those contexts
        only for which, by (8), one of the k may lie in it."""
        whole("losses.AdaptiveSoftmax.topk: k", k, most=self.vocab_size)
        hidden = self._checked(hidden).data
        xp, k_h = xp_of(hidden), self.vocab_size - sum(self.sizes)
        with mg.no_grad(), quiet():
            head = self._head(mg.tensor(hidden)).data
            ids, scores = self._best_of(head[:, :k_h], 0, k)
            for i, first in enumerate(self.cutoffs):
                of_cluster, shape = head[:, k_h + i], (len(hidden), min(k, self.sizes[i]))
                threshold = scores[:, k - 1] if scores.shape[1] >= k else xp.full(len(hidden), -xp.inf, head.dtype)
                more = xp.full(shape, -xp.inf, head.dtype), xp.full(shape, self.vocab_size)
                tell("wait", 0, device_of(hidden))  # for how many they are
                visiting = xp.flatnonzero(of_cluster >= threshold)  # (8); if equal the id decides
                if len(visiting):
                    tail = of_cluster[visiting, None] + self._tail(i, mg.tensor(hidden[visiting])).data
                    more[1][visiting], more[0][visiting] = self._best_of(tail, first, k)
                ids, scores = (xp.concatenate(pair, axis=1) for pair in ((ids, more[1]), (scores, more[0])))
                by_id = ids.argsort(axis=1)
                ids, scores = (xp.take_along_axis(a, by_id, axis=1) for a in (ids, scores))
                places = best(scores, min(k, scores.shape[1]))
                ids, scores = (xp.take_along_axis(a, places, axis=1) for a in (ids, scores))
        return ids, scores

    def _best_of(self, scores, first, k):
        """The best k, or all, of a part of `order` that begins at `first`: ids and scores (n, k)."""
        places = best(scores, min(k, scores.shape[1]))
        return self.order[first + places], xp_of(scores).take_along_axis(scores, places, axis=1)

    def score_cost(self, batch_size=1):
        """In rows of d numbers, (6) and (7): for a target that is known, and for the probabilities of all words."""
        shares = to_cpu(self.counts / self.counts.sum())[to_cpu(self.order)]
        costs = [m + k * m / self.dim for k, m in zip(self.sizes, self.widths, strict=True)]
        ends = pairwise([*self.cutoffs, self.vocab_size])
        train = sum(float(shares[a:b].sum()) * cost for (a, b), cost in zip(ends, costs, strict=True))
        return ScoreCost(len(self.weight) + train, len(self.weight) + sum(costs))


# In PyTorch. The traps: targets must be ranks, the most frequent word 0; other ids are taken without a word, and the
# head is full of rare words. And in_features // div_value ** (i + 1) may be 0: then a cluster's words are all alike.
# (A cluster without targets in the batch has no gradient: DistributedDataParallel needs find_unused_parameters=True.)
IN_PYTORCH = """
import torch

rank = torch.empty(V, dtype=torch.long)
rank[counts.argsort(descending=True, stable=True)] = torch.arange(V)

out = torch.nn.AdaptiveLogSoftmaxWithLoss(d, V, cutoffs, div_value=4.0, head_bias=True)

log_prob, loss = out(hidden, rank[targets])               # ranks, not ids; log_prob (B,), loss its negative mean
loss.backward()
"""
