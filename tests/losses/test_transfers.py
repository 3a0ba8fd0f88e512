"""What a training step moves: two copies in, the ids, and one byte out. The ledger against the double's own counters.

The double of CuPy (`tests/minigrad/strict.py`) counts each copy and each wait where it happens; the ledger is told of
them by whoever makes them. That both say the same shows that nothing moves past the ledger. Here the GPU is the double
on every --device: CuPy itself has no such counters.
"""

import numpy as np
import pytest
import strict

import minigrad as mg
from losses import (
    NCE,
    ClassSoftmax,
    FullSoftmax,
    HardNegatives,
    ImportanceSampling,
    InBatchSoftmax,
    NegativeSampling,
    SampledSoftmax,
)
from losses.samplers import GumbelTopK, zipf
from losses.skipgram import held_out_loss

pytestmark = pytest.mark.device

V, D, B = 50, 4, 8
INPUTS, TARGETS = np.arange(B), np.arange(B) % 5

LAYERS = {
    "softmax": lambda: FullSoftmax(V, D, key=mg.Key(0)),
    "softmax in chunks": lambda: FullSoftmax(V, D, key=mg.Key(0), chunk=16),
    "negative sampling": lambda: NegativeSampling(V, D, key=mg.Key(0), k=3),
    "negative sampling, shared": lambda: NegativeSampling(V, D, key=mg.Key(0), k=3, shared=16),
    "importance sampling": lambda: ImportanceSampling(V, D, key=mg.Key(0), k=3),
    "importance sampling, shared": lambda: ImportanceSampling(V, D, key=mg.Key(0), k=16, shared=True),
    "sampled softmax": lambda: SampledSoftmax(V, D, key=mg.Key(0), k=3),
    "sampled softmax, shared": lambda: SampledSoftmax(V, D, key=mg.Key(0), k=16, shared=True),
    "sampled softmax, hits masked": lambda: SampledSoftmax(V, D, key=mg.Key(0), k=3, mask_hits=True),
    "sampled softmax, Gumbel": lambda: SampledSoftmax(V, D, key=mg.Key(0), k=3, sampler=GumbelTopK(zipf(V))),
    "NCE": lambda: NCE(V, D, key=mg.Key(0), k=3),
    "NCE, shared": lambda: NCE(V, D, key=mg.Key(0), k=3, shared=16),
    "in-batch": lambda: InBatchSoftmax(V, D, key=mg.Key(0)),
    "in-batch, repeats masked": lambda: InBatchSoftmax(V, D, key=mg.Key(0), mask_repeats=True),
    "hard negatives": lambda: HardNegatives(V, D, key=mg.Key(0), n=3),
    "class-based": lambda: ClassSoftmax(V, D, key=mg.Key(0)),
}
OPTIMISERS = {
    "SGD": lambda params: mg.optim.SGD(params, lr=0.1),
    "Adagrad": lambda params: mg.optim.Adagrad(params, lr=0.1),
    "Adam": lambda params: mg.optim.Adam(params, lazy=True),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
each_optimiser = pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)


@pytest.fixture(autouse=True)
def on_the_double(new_tensors_there):
    with strict.installed():
        mg.set_device("gpu")
        yield
        mg.set_device("cpu")


class Model:
    """A look-up, an output layer, an optimiser."""

    def __init__(self, layer, optimiser=OPTIMISERS["SGD"]):
        self.embedding, self.layer = mg.param(mg.Key(1).normal((V, D))), layer()
        self.optimiser = optimiser([self.embedding, *self.layer.parameters()])

    def loss(self, inputs, targets, **noise):
        return self.layer.loss(mg.take(self.embedding, inputs), targets, **(noise or {"key": mg.Key(2)}))

    def step(self, inputs, targets, **noise):
        self.loss(inputs, targets, **noise).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def moved_by(f, *args, **options):
    """What the ledger says that `f(*args)` has moved; the double must say the same."""
    strict.counts.reset()
    with mg.transfers() as moved:
        f(*args, **options)
    counted = {name: getattr(strict.counts, name) for name in vars(moved)}
    assert vars(moved) == counted, "something moves past the ledger"
    return moved


# ---- a step -------------------------------------------------------------------------------------------------------


@each_layer
def test_a_step_of_sgd_is_two_copies_in_and_one_out(layer):
    """In go the ids of inputs and targets, eight bytes each; out comes a byte: whether the loss is finite."""
    moved = moved_by(Model(layer).step, INPUTS, TARGETS)
    assert str(moved) == "2 copies in (128 B), 1 copy out (1 B), 1 wait"


@each_layer
@pytest.mark.parametrize("optimiser", [OPTIMISERS["Adagrad"], OPTIMISERS["Adam"]], ids=["Adagrad", "Adam"])
def test_adagrad_and_adam_wait_once_more_for_each_table_with_rows(layer, optimiser):
    """They put equal ids together first, and how many are left only the GPU knows. No number is copied for it."""
    model = Model(layer, optimiser)
    tables = 1 if isinstance(model.layer, FullSoftmax) else 3  # the embedding; and weight and bias
    moved = moved_by(model.step, INPUTS, TARGETS)
    assert (moved.copies_in, moved.bytes_in, moved.copies_out, moved.bytes_out) == (2, 128, 1, 1)
    assert moved.waits == 1 + tables


@each_layer
@each_optimiser
def test_a_later_step_moves_what_the_first_one_does(layer, optimiser):
    model = Model(layer, optimiser)
    first = moved_by(model.step, INPUTS, TARGETS)
    assert all(moved_by(model.step, INPUTS + i, TARGETS + i) == first for i in range(1, 4))


@each_layer
@each_optimiser
def test_the_step_is_that_of_the_cpu(layer, optimiser):
    """Nothing is left out on the GPU that would have to be moved."""
    here = Model(layer, optimiser)
    here.step(INPUTS, TARGETS)
    mg.set_device("cpu")
    there = Model(layer, optimiser)
    there.step(INPUTS, TARGETS)
    for ours, theirs in zip(here.optimiser.params, there.optimiser.params, strict=True):
        assert (ours.device, theirs.device) == ("gpu:0", "cpu")
        assert np.allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


# ---- what else moves ------------------------------------------------------------------------------------------------


@each_layer
def test_what_is_on_the_gpu_already_is_not_copied_nor_looked_at_again(layer):
    model, inputs, targets = Model(layer), mg.backend.asarray(INPUTS), mg.backend.asarray(TARGETS)
    assert str(moved_by(model.step, inputs, targets)) == "0 copies in (0 B), 1 copy out (1 B), 1 wait"


@each_layer
def test_prefetched_batches_are_copied_once_and_waited_for_by_the_gpu_alone(layer):
    model, batches = Model(layer), [(INPUTS + i, TARGETS + i) for i in range(5)]

    def epoch():
        for inputs, targets in mg.backend.prefetch(batches):
            model.step(inputs, targets)

    assert str(moved_by(epoch)) == "10 copies in (640 B), 5 copies out (5 B), 5 waits"


@each_layer
def test_to_print_the_loss_is_one_more_copy_out(layer):
    model = Model(layer)
    moved = moved_by(lambda: model.loss(INPUTS, TARGETS).item())
    assert str(moved) == "2 copies in (128 B), 2 copies out (5 B), 2 waits"


@pytest.mark.parametrize("what", ["log_prob", "topk"])
@each_layer
def test_at_test_too_the_ids_go_in_and_a_byte_comes_out(layer, what):
    model, k = Model(layer), (3,) if what == "topk" else ()
    if what == "log_prob" and isinstance(model.layer, HardNegatives):
        return  # it has none
    moved = moved_by(lambda: getattr(model.layer, what)(mg.take(model.embedding, INPUTS), *k))
    assert str(moved) == "1 copy in (64 B), 1 copy out (1 B), 1 wait"


@pytest.mark.parametrize("shared", [None, 16])
def test_noise_drawn_for_many_steps_ahead_moves_nothing(shared):
    model = Model(lambda: NegativeSampling(V, D, key=mg.Key(0), k=3, shared=shared))
    noise = model.layer.draw(mg.Key(3), B, 4)
    for step in range(4):
        moved = moved_by(model.step, INPUTS, TARGETS, noise=noise[step])
        assert (moved.copies_in, moved.copies_out, moved.waits) == (2, 1, 1)


@pytest.mark.parametrize("shared", [None, 16])
def test_noise_from_main_memory_is_one_more_copy_in(shared):
    layer = lambda: NegativeSampling(V, D, key=mg.Key(0), k=3, shared=shared)
    noise = np.zeros((B, 3) if shared is None else shared, "int64")
    moved = moved_by(Model(layer).step, INPUTS, TARGETS, noise=noise)
    assert (moved.copies_in, moved.bytes_in, moved.copies_out, moved.waits) == (3, 128 + noise.nbytes, 1, 1)


@each_layer
def test_to_make_a_layer_and_an_optimiser_moves_nothing_past_the_ledger_either(layer):
    assert moved_by(Model, layer, OPTIMISERS["Adam"]).copies_in > 0


def test_a_held_out_loss_is_one_copy_out_however_many_the_pairs():
    vectors, ids = mg.Key(0).normal((V, D)), mg.Key(1).integers(0, V, 10_000)
    moved = moved_by(held_out_loss, vectors, vectors, ids, ids, ids[:, None])
    assert str(moved) == "0 copies in (0 B), 1 copy out (8 B), 1 wait"


def test_scores_picked_by_ids_from_main_memory_are_told():
    scores = mg.param(mg.Key(0).normal((B, V)))
    moved = moved_by(lambda: scores[INPUTS, TARGETS].sum().backward())
    assert str(moved) == "2 copies in (128 B), 0 copies out (0 B), 0 waits"


@pytest.mark.parametrize("layer", [LAYERS["softmax"], LAYERS["softmax in chunks"]], ids=["whole", "in chunks"])
def test_a_bias_left_in_main_memory_is_an_error_and_not_a_copy_at_every_step(layer):
    model = Model(layer)
    model.layer.bias = mg.param(np.zeros(V, "float32"), device="cpu")
    with pytest.raises(mg.backend.DeviceError, match=r"these are on cpu and gpu:0; move one with .to"):
        model.step(INPUTS, TARGETS)


@pytest.mark.parametrize(
    "past",
    [
        lambda array: float(array.sum()),
        lambda array: mg.backend.xp().asarray(INPUTS),
        lambda array: mg.backend.xp().unique(array),
    ],
    ids=["out", "in", "a wait"],
)
def test_what_moves_past_the_ledger_is_found(past):
    with pytest.raises(AssertionError, match="something moves past the ledger"):
        moved_by(past, mg.backend.asarray(INPUTS))


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak_of_a_step(chunk):
    """Bytes above weights and gradients at the worst moment of a step."""
    layer = FullSoftmax(5000, 8, key=mg.Key(0), chunk=chunk)
    hidden = mg.param(mg.Key(1).normal((32, 8)))
    strict.counts.reset()
    before = strict.counts.live
    layer.loss(hidden, [0] * 32).backward()
    return strict.counts.peak - before - layer.weight.grad.nbytes - layer.bias.grad.nbytes


@pytest.mark.softmax
def test_in_chunks_the_scores_are_never_all_on_the_gpu():
    everything = 32 * 5000 * 4
    assert peak_of_a_step(None) >= everything
    assert peak_of_a_step(50) < everything / 20
