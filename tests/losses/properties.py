"""What must be true of parts that several tests, and the mutants of `test_negative_sabotage.py`, are held against."""

import itertools

import numpy as np
from hypothesis import strategies as st

import minigrad as mg
from losses.samplers import Unigram


def where_tensors_are_made(function):
    """A pure function as the suites know it, NumPy's arrays in and out, but computed on the current device."""

    def there(option):
        return mg.backend.asarray(option) if isinstance(option, np.ndarray) else option

    return lambda *arrays, **options: [
        mg.to_cpu(a) for a in function(*map(there, arrays), **{name: there(option) for name, option in options.items()})
    ]


def weights():
    """Strategy: (weights,), lists of 1 to 2000 numbers, none negative, some zero, from even to very skewed."""
    one = st.one_of(st.just(0.0), st.integers(1, 9).map(float), st.floats(-30, 30).map(lambda x: 2.0**x))
    few = st.lists(one, min_size=1, max_size=8).filter(any)

    def many(v, skew, zeros, seed):
        key, xp = mg.Key(seed), mg.backend.xp()
        w = xp.exp(skew * key.fold(0).normal(v, "float64")) * (key.fold(1).uniform(v) >= zeros)
        return w.tolist() if w.any() else [0.0] * (v - 1) + [1.0]

    skew, zeros = st.sampled_from([0.0, 1.0, 10.0]), st.sampled_from([0.0, 0.5, 0.99])
    return st.tuples(few | st.builds(many, st.integers(1, 2000), skew, zeros, st.integers(0, 1000)))


def written_out(keep, alias):
    """Equation (2) of `losses.samplers`, word for word: the distribution that an alias table draws from."""
    q = np.array(keep, "float64")
    for bucket, word in enumerate(alias):
        q[word] += 1.0 - keep[bucket]
    return q / len(keep)


def rounding(v):
    """How far a probability may be off: up to V additions of numbers up to 1, each exact to 2⁻⁵³, and as much again."""
    return max(1e-14, v * 2.0**-52)


def table_draws_the_distribution(alias_table, weights):
    """Equation (2) of `losses.samplers`, but for rounding, and for zeros without it."""
    probs = np.array(weights) / np.sum(weights)
    keep, alias = alias_table(probs.tolist())
    assert len(keep) == len(alias) == len(probs)
    assert all(0.0 <= k <= 1.0 for k in keep) and all(0 <= a < len(probs) for a in alias)
    off = abs(written_out(keep, alias) - probs)
    assert (off <= rounding(len(probs))).all(), f"word {off.argmax()} is off by {off.max()}"
    assert (written_out(keep, alias)[probs == 0.0] == 0.0).all(), "a word with no weight would be drawn"


def scores_as_the_engine_finds_them(row_scores, weight, bias, hidden, targets):
    """Equations (1) and (2) of `losses.layer`: value and gradients by look-up, product and sum. Some ids occur twice.

    weight, bias, hidden, targets: a `minigrad.check.VocabBatch`.
    """
    ids = mg.backend.asarray(np.stack([targets, targets[::-1], targets], axis=1))  # (B, 3)
    up = mg.Key(0).normal(ids.shape, "float64")
    expected = (mg.take(weight, ids) * hidden.reshape((-1, 1, hidden.shape[1]))).sum(axis=2)
    found = row_scores(hidden, weight, ids=ids)
    assert found.shape == ids.shape and np.allclose(found.numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)
    for what, f, e in zip(("hidden", "weight"), *(mg.grad(y, [hidden, weight], up) for y in (found, expected))):
        f, e = (mg.to_cpu(g.dense() if isinstance(g, mg.Rows) else g) for g in (f, e))
        assert np.allclose(f, e, rtol=1e-12, atol=1e-12), f"the gradient of {what} is {f.tolist()}, not {e.tolist()}"


# ---- what a loss with noise learns: every target and every noise, by their probability ------------------------------


def layer_with_scores(make, s, q, k, **options):
    """A layer whose scores for the context h = (1, −2) are s (V,), split between W h and b; and that h."""
    layer = make(len(s), 2, key=mg.Key(0), k=k, sampler=Unigram(q, 1), **options)
    h = np.array([1.0, -2.0])
    layer.weight = mg.param(mg.Key(1).normal((len(s), 2), "float64"))
    layer.bias = mg.param(s - layer.weight.numpy() @ h)
    return layer, h


def expected_loss(layer, h, p):
    """E L over the target ~ p and k noise words ~ q, each outcome by its probability: a scalar with its history."""
    q, v = mg.to_cpu(layer.sampler.probs), layer.vocab_size
    outcomes = np.array(list(itertools.product(range(v), repeat=1 + layer.k)))  # (V^(1 + k), 1 + k)
    chance = p[outcomes[:, 0]] * q[outcomes[:, 1:]].prod(axis=1)
    hidden = np.tile(h, (len(outcomes), 1))
    return (layer.loss(hidden, outcomes[:, 0], noise=outcomes[:, 1:], reduction="none") * chance).sum()


def gradients(layer, h, p):
    """The derivatives of E L by weight (V, d) and bias (V,)."""
    expected_loss(layer, h, p).backward()
    return mg.to_cpu(layer.weight.grad.dense()), mg.to_cpu(layer.bias.grad.dense())
