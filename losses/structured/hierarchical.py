"""Hierarchical softmax: instead of one choice among V words some log₂ V choices between two, down a binary tree.

Every word is a leaf of a binary tree. At each of its V − 1 nodes one decision is made: first child or second? The way
from the root to a word is a series of such decisions (on the slide 0 1 1 1 0, to word 14), and the word's probability
that of all of them together. (Morin and Bengio, "Hierarchical Probabilistic Neural Network Language Model", AISTATS
2005; with Huffman's tree, as in word2vec: Mikolov, Sutskever, Chen, Corrado, Dean, NIPS 2013, §2.1.)

    h   the context: d numbers                               y_n(w)  the turn at node n on the way to word w: +1 to the
    n   a node, s_n = W_n · h + b_n its score:                       first child, −1 to the second
        W (V − 1, d), b (V − 1,)                             ℓ(w)    how many nodes lie on the way: 1 to V − 1
    t   the target, the right word; B examples               E ℓ     their mean over words, as often as these occur

The loss.
    (1)  At node n go to the first child with probability σ(s_n), to the second with 1 − σ(s_n) = σ(−s_n). So
             P(w | h) = Π_{n on the way to w} σ(y_n(w) s_n).
         (Whether +1 is the first or the second child is a matter of names. Write 0 for the first and 1 for the second:
         word2vec and gensim have, as here, σ(s) for a 0, fastText has σ(s) for a 1.)
    (2)  These add up to one over the words, in any tree and for any scores, with no Z to compute. For all that arrives
         at a node goes on, σ(s) + σ(−s) being 1. So if the words below each child have together what arrives there, the
         words below the node have what arrives at it. Of a word this is true; hence of the root, where 1 arrives.
    (3)  L = −log P(t | h) = Σ_{n on the way to t} softplus(−y_n s_n), y_n = y_n(t), as −log σ(x) = softplus(−x) =
         log(1 + e^−x).

Its gradient.
    (4)  ∂L/∂s_n = −y_n σ(−y_n s_n), which is σ(s_n) − 1[y_n = +1], on the way to t; at all other nodes it is 0. So ℓ(t)
         rows of W have a gradient.

What it learns.
    (5)  Let t ~ p(· | h), and F be the probability of all words below n's first child, S of those below its second. The
         mean gradient at n is F (σ(s_n) − 1) + S σ(s_n), which is zero where  s*_n = log (F / S)  (±∞ if one is 0):
         each node learns, as a logistic regression of its own, which side the next word is on. If scores are free, P
         becomes p. (In word2vec and gensim, which have no b and begin with W = 0, a node with |s_n| ≥ 6 learns nothing,
         right or wrong.) With d dimensions the tree matters: one row of W must tell all words on one side from those on
         the other. If along a line of contexts the next word is first a, then b, then c, a node with b on one side and
         a, c on the other asks for what no linear score can say: like words belong together. Morin and Bengio took a
         tree of meanings (WordNet), Mnih and Hinton ("A Scalable Hierarchical Distributed Language Model", NIPS 2008)
         learned one. Huffman's knows only how frequent words are: it is fast, not clever.

Cost. The slide's quiz.
    (6)  d multiply-adds for each node on the way: on average d E ℓ a token, and 3 d E ℓ with the gradient. In the
         balanced tree ℓ(w) is log₂ V, up to the rounding: O(d log V). In Huffman's the mean, E ℓ, is at least the
         entropy H of the words and less than H + 1, and no tree's is less. With all scores 0 the model is
         P(w) = 2^−ℓ(w), in Huffman's tree less than one bit of divergence from the words' frequencies. (H + 1 and one
         bit are reached only if some words never occur: `trees.py`, (4).)
         A GPU would rather compute one large product than many small ones: two children a node waste it, few and wide
         levels do better (Grave, Joulin, Cissé, Grangier, Jégou, ICML 2017, §4.1; see `adaptive.py`).

At test.
    (7)  One word's probability costs ℓ(w) rows. Those of all words need all nodes, one matrix product of V d as in any
         softmax, and then, from the root down, a word's or node's log P is its parent's plus log σ(±s): O(V) more, in
         as many steps, one after the other, as the tree is deep.
    (8)  The best words don't need all. A node's probability is at least that of any word below it. So always go on from
         the most probable of what has been come to, nodes and words: the first k words that are taken are the k best.
         A node is looked at only if its probability is at least that of the k-th best word, P_k; at one depth at most
         1 / P_k nodes are so probable, which makes at most (1 + the greatest depth of a node) / P_k rows. Few if the
         model is sure; all V − 1, in any tree, if words are equally probable: a node has 2 / V or more, P_k is 1 / V.
"""

from typing import Any

import minigrad as mg
from minigrad.arguments import whole
from minigrad.backend import DeviceError, on_cpu, quiet, type_of_array, xp_of
from minigrad.rows import worth_a_kernel
from minigrad.rules import look_up, scatter_rows
from minigrad.rules import rows as rows_of

from ..layer import READ_IN_PLACE, ScoreCost, of_scores
from . import kernels
from .layer import StructuredLayer
from .trees import Paths, Tree, balanced, expected_length, huffman  # noqa: F401, are found here, too

# ---- the naive way: a product of probabilities, left to the engine -------------------------------------------------


def hierarchical_softmax_naive(node_scores: Any, *, turns: type_of_array) -> Any:
    """(1) as it stands: node_scores (B, L), turns (B, L) -> −log P (B,). Infinite where a score is −1000, turn +1."""
    return -mg.log(mg.where(turns != 0, mg.sigmoid(node_scores * turns), 1.0)).sum(axis=1)


# ---- the derived way: a pure function of scores -------------------------------------------------------------------


def hierarchical_softmax(node_scores: Any, *, turns: type_of_array) -> tuple[Any, Any]:
    """Loss (3) and gradient (4): node_scores (B, L), turns (B, L) -> loss (B,), G (B, L).

    Of arrays, or of tensors if it is to be differentiated again. turns: +1 where the way goes to the first child, −1 to
    the second, and 0 where there is no node, paths being of different lengths: whatever the score there, it counts
    nothing and has no gradient. Codes of 0 and 1 are no turns: 1 − 2 · code are.
    """
    if turns.shape != node_scores.shape:
        raise ValueError(
            "losses.hierarchical_softmax: turns must have the shape of node_scores, (B, L) = "
            f"{list(node_scores.shape)}, got {list(turns.shape)}"
        )
    there, y = turns != 0, turns.astype(node_scores.dtype)
    margins = y * mg.where(there, node_scores, 0.0)
    loss = mg.where(there, mg.softplus(-margins), 0.0).sum(axis=1)  # (3)
    return loss, -y * mg.sigmoid(-margins)  # (4)


hierarchical_softmax_loss = of_scores(hierarchical_softmax)


# ---- the fast way: scores of the nodes on each path, and of no others ----------------------------------------------


def _path_scores(hidden, weight, *bias, nodes, places, length):
    """s_n of the nodes (n,) on B paths, at their places in (B, L), the rest 0. `bias`: one, or none."""
    xp = xp_of(hidden)
    scores = xp.zeros((len(hidden), length), hidden.dtype)
    flat = scores.reshape(-1)  # the same memory
    if worth_a_kernel(weight, hidden) and hidden.flags.c_contiguous:
        rows = READ_IN_PLACE
        kernels.path_scores(hidden, weight, nodes, places, scores)
    else:
        rows = weight.take(nodes, axis=0)  # (n, d)
        flat[places] = (rows * hidden.take(places // length, axis=0)).sum(axis=1)
    if bias:
        flat[places] += bias[0].take(nodes)
    return scores, rows


def _path_scores_rule(g, y, rows, hidden, weight, *bias, nodes, places, length):
    """g = ∂L/∂s, (B, L): its numbers at `places` times W_n for h, times h for W_n. The other ones are of no node."""
    G = look_up(g.reshape((len(hidden) * length, 1)), ids=places)  # (n, 1)
    if rows is READ_IN_PLACE:
        xp = xp_of(hidden)
        d_hidden, d_rows = xp.zeros_like(hidden), xp.empty((len(nodes), hidden.shape[1]), hidden.dtype)
        kernels.path_gradients(xp.ascontiguousarray(g), hidden, weight, nodes, places, d_hidden, d_rows)
    else:
        rows = look_up(weight, ids=nodes) if rows is None else rows  # None: we are given tensors
        examples = places // length  # (n,)
        d_hidden = scatter_rows(G * rows, ids=examples, shape=hidden.shape)
        d_rows = G * look_up(hidden, ids=examples)
    return d_hidden, *(rows_of(d, p.shape, nodes) for d, p in zip([d_rows, G], [weight, *bias], strict=False))


path_scores = mg.primitive("path_scores", _path_scores, joint=_path_scores_rule)

# (7), from the log-probabilities of all ways to those of all words, and back: each is the other's derivative
sums_down = mg.primitive(
    "sums_down", lambda ways, *, tree: tree.sums_down(ways), d=[lambda g, *_, tree: sums_up(g, tree=tree)], keep=""
)
sums_up = mg.primitive(
    "sums_up", lambda words, *, tree: tree.sums_up(words), d=[lambda g, *_, tree: sums_down(g, tree=tree)], keep=""
)


# ---- the layer -----------------------------------------------------------------------------------------------------


class HierarchicalSoftmax(StructuredLayer):
    """Hierarchical softmax over `vocab_size` words for contexts of `dim` numbers: weight (V − 1, d), bias (V − 1,).

    tree: "huffman" or "balanced", of the counts (without counts, of Zipf's law, by id); or one of your own, in the two
    forms that `trees.py` describes, or another layer's. It is kept as `tree`. counts, key, bias: see `OutputLayer`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        counts: Any = None,
        key: mg.Key,
        tree: Any = "huffman",
        bias: bool = True,
    ):
        super().__init__(vocab_size, dim, counts=counts, key=key, bias=bias)
        if isinstance(tree, str):
            if tree not in ("huffman", "balanced"):
                raise ValueError(
                    'losses.HierarchicalSoftmax: tree must be "huffman", "balanced", nested pairs or an array of '
                    f"children, got {tree!r}"
                )
            tree = huffman(self.counts) if tree == "huffman" else balanced(self.counts)
        self.tree = Tree(tree, self.vocab_size, "losses.HierarchicalSoftmax: tree")
        self.weight, self.bias = self._table(0, self.vocab_size - 1)

    def _losses(self, hidden, targets):
        nodes, places, turns = self._paths(hidden, targets)
        scores = path_scores(hidden, self.weight, *self._bias(), nodes=nodes, places=places, length=turns.shape[1])
        return hierarchical_softmax_loss(scores, turns=turns)

    def _paths(self, hidden: mg.Tensor, words: type_of_array) -> Paths:
        return self.tree.paths(words, fast=worth_a_kernel(self.weight.data, hidden.data))

    def log_prob(self, hidden):
        """log P(w | h) of every word, (B, V), by (7): O(B V d)."""
        scores = self.weight @ self._checked(hidden).T  # (V − 1, B)
        scores = scores if self.bias is None else scores + self.bias.reshape((-1, 1))
        ways = mg.logsigmoid(mg.stack([scores, -scores], axis=1))  # (V − 1, 2, B)
        return sums_down(ways, tree=self.tree).T

    def log_prob_of(self, hidden, targets):
        """log P(w | h) of one word for each context, `targets` (B,): (B,). ℓ(w) rows for each."""
        with quiet():
            return -self._losses(*self._for_loss(hidden, targets))

    def topk(self, hidden, k):
        """The k most probable words of each context, best first: ids (B, k), log P (B, k). By (8); by (7) on a GPU, and
        of a table so small that no kernel is worth loading."""
        small = not worth_a_kernel(self.weight.data, self.weight.data)
        if small or whole("losses.HierarchicalSoftmax.topk: k", k) > self.vocab_size:
            return super().topk(hidden, k)
        return self.search(hidden, k)[:2]

    def search(self, hidden: mg.Tensor, k: int) -> tuple[type_of_array, type_of_array, type_of_array]:
        """`topk` by (8), and how many nodes were looked at for each context: (B, k), (B, k), (B,). In main memory."""
        hidden, weight = self._checked(hidden).data, self.weight.data
        whole("losses.HierarchicalSoftmax.search: k", k, most=self.vocab_size)
        if not on_cpu(hidden) or not on_cpu(weight):
            raise DeviceError("losses.HierarchicalSoftmax.search: it goes step by step, on a CPU; on a GPU use topk")
        xp = xp_of(hidden)
        ids, scores = xp.empty((len(hidden), k), "int64"), xp.empty((len(hidden), k), weight.dtype)
        looked_at = xp.empty(len(hidden), "int64")
        bias = xp.zeros(0, weight.dtype) if self.bias is None else self.bias.data
        tree, hidden = self.tree, xp.ascontiguousarray(hidden)
        kernels.best_first(hidden, weight, bias, tree.children, tree.root, ids, scores, looked_at)
        return ids, scores, looked_at

    def score_cost(self, batch_size=1):
        """In training, and for one word's probability, E ℓ rows a token. At test all V − 1: for the probabilities of
        all words, and for the best one at most; mostly `search` finds it with far fewer."""
        return ScoreCost(self.tree.expected_length(self.counts), self.vocab_size - 1)


# In PyTorch, which has no such layer; here without b. `layer.tree.paths(targets)` gives turns (B, L), and the nodes
# without filling: put into zeros of B · L at `places`, and reshaped, they are those here.
# The trap is in the filling. Without `there`, each such place adds softplus(0) = log 2 to the loss, and no gradient: it
# trains, and its perplexity is wrong, by a factor that depends on the other words in the batch. And a row that only
# fills has a gradient of 0, with which SGD leaves it alone, but SparseAdam moves it: give filling a row of its own,
# Embedding(V, d), nodes = V − 1. With codes of 0 and 1 instead of turns, binary_cross_entropy_with_logits(scores,
# codes) has σ(s) for the 1, where word2vec has it for the 0.
IN_PYTORCH = """
import torch
import torch.nn.functional as F

out = torch.nn.Embedding(V - 1, d, sparse=True)           # rows of W, one for each node
optimizer = torch.optim.SGD(out.parameters(), lr=0.1)

there = turns != 0                                        # (B, L): where there is a node
scores = torch.einsum("bld,bd->bl", out(nodes), hidden)   # nodes (B, L): any number in [0, V − 1) where there is none
margins = torch.where(there, turns * scores, torch.inf)   # a decision that is sure: softplus(−∞) = 0
loss = F.softplus(-margins).sum(dim=1)
loss.mean().backward()
"""
