"""Which tree? A word's path is its code word, and what a word costs is how long it is.

    V    words, each a leaf of a binary tree                  p(w)  how often word w occurs: its count over their sum
    ℓ(w) decisions that lead from the root to the word w      H     −Σ_w p(w) log₂ p(w), the entropy in bits

A node has two children, its first and its second. Each is a word or a node again.

How long paths must be.
    (1)  A tree of V words has V − 1 nodes, whatever its form: to open a leaf into a node adds one node and one leaf.
    (2)  Kraft's equality, Σ_w 2^−ℓ(w) = 1:  send 1 down from the root and halve it at each node; what arrives at w is
         2^−ℓ(w), and nothing is lost. So q(w) = 2^−ℓ(w) is a distribution: the one that the tree is made for.
    (3)  The mean length is  E ℓ = Σ_w p(w) ℓ(w) = −Σ_w p(w) log₂ q(w) = H + KL(p ‖ q) ≥ H.  They are equal if and only
         if p = q, so that every p(w) is a power of ½.
    (4)  Less than one decision more is enough: lengths ⌈−log₂ p(w)⌉ have Σ 2^−ℓ ≤ 1, and then there is a tree in which
         no path is longer. (Take any free place at each depth ℓ, the shallowest first. There is one: what is taken so
         far is less than 1 and a multiple of 2^−ℓ. And leave no node with one child.) So for the best tree
         H ≤ E ℓ < H + 1.  The 1 can be come near to: of two words one occurs nearly always, H is nearly 0 and E ℓ is 1.
         (If some p(w) are 0, E ℓ may be H + 1.)

The best tree (Huffman, Proceedings of the IRE 1952).
    (5)  To swap a word with a more frequent one that lies deeper doesn't make E ℓ greater. Both children of a deepest
         node are words; swap the two rarest into their places. So in some best tree the two rarest have one parent.
         Seen as one word with the sum of their p, they leave a tree of V − 1 words, and E ℓ is that tree's plus this
         sum: which must be the best again. Hence: join the two rarest, V − 1 times.  E ℓ is the sum of the p of all
         nodes, a node's being that of the words below it.
    (6)  The nodes come out in rising order, since what is joined gets ever heavier. So the two lightest are always
         at the heads of two queues, of the words in rising order and of the nodes: O(V) after sorting (van Leeuwen,
         ICALP 1976). Among equals words come first, which keeps the deepest path short. (In word2vec and fastText nodes
         do: 1, 1, 2, 2 have lengths 3, 3, 2, 1 there, and all 2 here. E ℓ is the same.)

The balanced tree.
    (7)  Node n has the children 2n + 1 and 2n + 2, as in a heap: the first V − 1 numbers are nodes, the V others words,
         at depth ⌊log₂ V⌋ and, unless V is a power of 2, the later ones one deeper. The frequent words are given the
         first of these places.

With Zipf's law over 10,000 words H is 9.53; Huffman's tree has E ℓ = 9.56, the balanced one 13.05.

A tree is written as nested pairs of ids, ((0, 1), (2, (3, 4))), or as an array `children` (V − 1, 2), a row for each
node in any order: a number c < V is the word c, V + n is node n. `huffman` and `balanced` make such arrays.
"""

from functools import cached_property
from typing import Any, NamedTuple

from minigrad import backend
from minigrad.arguments import whole
from minigrad.backend import on_cpu, on_gpu, read, to_cpu, type_of_array, xp_of

from ..samplers import checked_counts
from . import kernels
from .layer import by_frequency


def huffman(counts: Any) -> type_of_array:
    """The tree of the least mean length for words that occur `counts` times, (V,) -> children (V − 1, 2), (5) and (6).

    The first child is the lighter one; the root is the last node. Words that never occur are leaves like others.
    """
    counts = _several("losses.huffman", counts)
    order = counts.argsort(kind="stable")  # the rarest first, and among equals the first id
    words, weights, vocab_size = order.tolist(), counts[order].tolist(), len(counts)
    children, joined, word, node = [], [], 0, 0  # joined: the weights of nodes; word, node: the heads of the queues
    for made in range(vocab_size - 1):
        weight = 0.0
        for _ in range(2):
            if node == made or (word < vocab_size and weights[word] <= joined[node]):  # (6)
                children.append(words[word])
                weight += weights[word]
                word += 1
            else:
                children.append(vocab_size + node)
                weight += joined[node]
                node += 1
        joined.append(weight)
    return xp_of(counts).asarray(children, "int64").reshape(-1, 2)


def balanced(words: Any) -> type_of_array:
    """The balanced tree (7) of `words`, how many they are or their counts (V,) -> children (V − 1, 2).

    With counts the most frequent words have the shorter paths, else the first ids. The root is node 0.
    """
    if hasattr(words, "__index__") and not getattr(words, "ndim", 0):
        order = backend.np.arange(whole("losses.balanced: words", words, 2))
    else:
        order = by_frequency(_several("losses.balanced", words))
    vocab_size, xp = len(order), xp_of(order)
    places = xp.arange(1, 2 * vocab_size - 1)  # of the children of node 0, 1, 2, …
    words = order[xp.maximum(places - (vocab_size - 1), 0)]
    return xp.where(places < vocab_size - 1, vocab_size + places, words).reshape(-1, 2)


def expected_length(counts: Any, tree: Any) -> float:
    """E ℓ = Σ_w p(w) ℓ(w): decisions a word, if words occur `counts` times, (V,)."""
    counts = _several("losses.expected_length", counts)
    name = "losses.expected_length: tree"
    return Tree(tree, len(counts), name).expected_length(backend.asarray(counts))


def _several(operation: str, counts: Any) -> type_of_array:
    """Counts of two words or more, in main memory."""
    counts = to_cpu(checked_counts(operation, counts))
    if len(counts) < 2:
        raise ValueError(f"{operation}: a tree must have at least 2 words, got {len(counts)}")
    return counts


# ---- a tree that somebody has written -----------------------------------------------------------------------------


def children_of(name: str, tree: Any, vocab_size: int) -> type_of_array:
    """A tree in either form, or a `Tree`, as children (V − 1, 2), int64 in main memory.

    ValueError, beginning with `name`, if a word is missing or there twice, if a node has one child or two parents, or
    is its own ancestor, if a number is neither a word nor a node.
    """
    tree = tree.children if isinstance(tree, Tree) else tree
    if isinstance(tree, tuple | list):
        children = _from_pairs(name, tree, vocab_size)
    else:
        children = _from_array(name, to_cpu(tree) if on_gpu(tree) else tree, vocab_size)
    times = xp_of(children).bincount(children.reshape(-1), minlength=2 * vocab_size - 1)
    twice, missing = (times > 1).nonzero()[0], (times[:vocab_size] == 0).nonzero()[0]
    if twice.size:
        which = f"word {twice[0]}" if twice[0] < vocab_size else f"node {twice[0] - vocab_size}"
        raise ValueError(f"{name}: {which} must be the child of one node, it is {times[twice[0]]} times a child")
    if missing.size:
        raise ValueError(f"{name}: word {missing[0]} is missing")
    return children  # so V − 2 of the nodes are children: all but one, the root


def _from_array(name: str, children: Any, vocab_size: int) -> type_of_array:
    is_array = isinstance(children, backend.np.ndarray)
    if not is_array or children.dtype.kind not in "iu" or children.shape != (vocab_size - 1, 2):
        raise ValueError(
            f"{name} must be nested pairs of ids, or an integer array of children ({vocab_size - 1}, 2) for "
            f"{vocab_size} words; got "
            + (f"{children.dtype}{list(children.shape)}" if is_array else f"{type(children).__name__} {children!r:.60}")
        )
    wrong = children[(children < 0) | (children > 2 * vocab_size - 2)]
    if wrong.size:
        raise ValueError(
            f"{name}: a child must be a word, 0 to {vocab_size - 1}, or V + n for node n, {vocab_size} to "
            f"{2 * vocab_size - 2}; got {wrong[0]}"
        )
    return children.astype("int64")


NO_LIST = " (an array of children must be an array, not a list)"


def _from_pairs(name: str, pairs: Any, vocab_size: int) -> type_of_array:
    """Nested pairs as children, the root being node 0. Not by recursion, of which Python has enough at a depth of 1000.

    A list that holds itself has no end, but more nodes than there can be.
    """
    children, todo = [], [(pairs, 0)]  # (a part, where in `children` it is written)
    while todo:
        part, place = todo.pop()
        if isinstance(part, tuple | list):
            node = len(children) // 2
            if len(part) != 2:
                raise ValueError(f"{name}: a node must have two children, got one with {len(part)}{NO_LIST}")
            if node > vocab_size - 2:
                raise ValueError(
                    f"{name}: {vocab_size} words have {vocab_size - 1} nodes, here are more: a word is there twice, or "
                    f"is none of 0 to {vocab_size - 1}, or a list holds itself"
                )
            item = vocab_size + node
            children += [0, 0]
            todo += [(part[1], 2 * node + 1), (part[0], 2 * node)]
        else:
            item = whole(f"{name}: a word", part, 0)
            if item >= vocab_size:
                raise ValueError(f"{name}: a word must be one of 0 to {vocab_size - 1}, got {item}{NO_LIST}")
        if item != vocab_size:  # the root is nobody's child
            children[place] = item
    return backend.np.asarray(children, "int64").reshape(-1, 2)


# ---- paths and levels ---------------------------------------------------------------------------------------------


class Paths(NamedTuple):
    """The paths of B words, from each up to the root; L is the longest, n all their lengths together.

    (Those of gensim, `point` and `code`, and the slide's 01110 go the other way, from the root down.)
    """

    nodes: type_of_array  # (n,) those of the first word, then those of the second, …
    places: type_of_array  # (n,) where in a (B, L) array, read as one row, each of them stands
    turns: type_of_array  # (B, L) int8: 1 where the way goes to the first child, −1 to the second, 0 behind the end


class Tree:
    """A tree of V words, `children` (V − 1, 2), and how to go up and down in it. Its arrays are on the current device.

    It holds O(V) numbers, whatever its depth. (All paths written down would be Σ ℓ: V²/2 for a tree that is a chain.)
    vocab_size: V, which an array of children says itself. name: how errors begin.
    """

    def __init__(self, tree: Any, vocab_size: int | None = None, name: str = "losses.Tree"):
        if vocab_size is None and not getattr(tree, "ndim", 0):
            raise TypeError(f"{name}: give vocab_size=, or an array of children (V − 1, 2); got {type(tree).__name__}")
        self.num_words = n = whole(f"{name}: vocab_size", len(tree) + 1 if vocab_size is None else vocab_size, 2)
        children = children_of(name, tree, n)
        xp = xp_of(children)
        up = xp.full(2 * n - 1, -1)  # of each word, then of each node: 2 · parent + 0 or 1, as first or second child
        up[children.reshape(-1)] = xp.arange(2 * n - 2)
        self.root = int(up[n:].argmin())
        up[n + self.root] = 2 * self.root  # so that who climbs on stays there
        depth, above = self._depths(up // 2 + n)
        if not (above == n + self.root).all():
            lost = int((above[n:] != n + self.root).argmax())
            raise ValueError(f"{name}: node {lost} is not below the root, node {self.root}: it is on or below a cycle")
        self.children, self.up, self.depth = (backend.asarray(a) for a in (children, up, depth))

    def _depths(self, above: type_of_array) -> tuple[type_of_array, type_of_array]:
        """Of words and nodes (2V − 1,): how deep they lie, and their highest ancestor, given their parents.

        Each asks its ancestor how far it has come, and goes on from there: in t rounds 2^t steps. What is on or below
        a cycle comes to no end, nor to the root.
        """
        depth = (above != xp_of(above).arange(len(above))).astype("int64")
        for _ in range(self.num_words.bit_length()):
            depth += depth[above]
            above = above[above]
        return depth, above

    def expected_length(self, counts: type_of_array) -> float:
        """E ℓ of (3), if words occur `counts` times, (V,) float64."""
        weights = counts / counts.max()  # so that no sum overflows
        return float(read((weights * self.depth[: self.num_words]).sum() / weights.sum()))

    def paths(self, words: type_of_array, fast: bool = False) -> Paths:
        """The paths of `words` (B,). fast: by the kernel, in main memory. A GPU is waited for twice, for L and n."""
        xp, n = xp_of(words), self.num_words
        lengths = self.depth[words]
        longest = int(read(lengths.max()))
        if fast and on_cpu(words):
            ends = lengths.cumsum()
            nodes, places = xp.empty(ends[-1], "int64"), xp.empty(ends[-1], "int64")
            turns = xp.zeros((len(words), longest), "int8")
            kernels.climb(self.up, words, lengths, nodes, places, turns)
            return Paths(nodes, places, turns)
        ways = []  # (B,) each: 2 · node + 0 or 1
        for _ in range(longest):
            ways.append(self.up[words])
            words = n + ways[-1] // 2
        ways = xp.stack(ways, axis=1)  # (B, L)
        there = xp.arange(longest) < lengths[:, None]
        places = xp.flatnonzero(there)
        return Paths(ways.reshape(-1)[places] // 2, places, xp.where(there, 1 - 2 * (ways % 2), 0).astype("int8"))

    @cached_property
    def levels(self) -> list[type_of_array]:
        """The nodes of each depth, the root's first."""
        depth = self.depth[self.num_words :]
        order, xp = depth.argsort(kind="stable"), xp_of(depth)
        ends = to_cpu(xp.searchsorted(depth[order], xp.arange(1, int(read(depth.max())) + 2))).tolist()
        return [order[begin:end] for begin, end in zip([0, *ends], ends)]

    def sums_down(self, ways: type_of_array) -> type_of_array:
        """For each word the sum over its path: ways (V − 1, 2, B), for each way out of a node -> (V, B). O(V B)."""
        n = self.num_words
        sums = xp_of(ways).zeros((2 * n - 1, ways.shape[2]), ways.dtype)
        for nodes in self.levels:
            sums[self.children[nodes]] = sums[n + nodes][:, None] + ways[nodes]  # (m, 2, B)
        return sums[:n]

    def sums_up(self, words: type_of_array) -> type_of_array:
        """For each way out of a node the sum over the words it leads to: (V, B) -> (V − 1, 2, B). `sums_down`ᵀ."""
        n, xp = self.num_words, xp_of(words)
        sums = xp.concatenate([words, xp.zeros((n - 1, words.shape[1]), words.dtype)])
        for nodes in reversed(self.levels):
            sums[n + nodes] = sums[self.children[nodes]].sum(axis=1)
        return sums[self.children]
