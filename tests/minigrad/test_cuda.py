"""The CUDA kernels without a GPU: their source, run on the CPU, is its array code's twin, has no race, and compiles.

What runs here is the text that CuPy would be given, launched as on a GPU; what only a GPU can show is how fast it is,
and how its exponential rounds.
"""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import cuda_on_cpu
import numpy as np
import pytest
from cuda_on_cpu import CannotRun, RawKernel, Unsound
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import backend, cuda, numerics
from minigrad.rng import threefry2x32, words

pytestmark = [pytest.mark.device, pytest.mark.cpu, pytest.mark.gpucheck]
on_cpu = pytest.mark.skipif(cuda_on_cpu.MISSING is not None, reason=str(cuda_on_cpu.MISSING))

MASK = 0xFFFFFFFF
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True, scope="module")
def launched_on_the_cpu():
    """`minigrad.cuda` finds its RawKernel here, and `numerics` leaves CPU scores to the array code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "xp_of", lambda array: cuda_on_cpu)
        patch.setattr(numerics, "LEAST", math.inf)
        yield


def drawn(key, n):
    out = np.empty(n, "uint32")
    cuda.threefry_words(*key, out)
    return out


def cross_entropy(scores, targets):
    losses, gradients = np.full(len(scores), 7, scores.dtype), np.full_like(scores, 7)
    cuda.cross_entropy(scores, targets, losses, gradients)
    return losses, gradients


def same(found, expected, tolerance):
    """Whether the numbers are equal but for rounding, and the infinities and NaNs are where they should be."""
    return np.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


# ---- threefry -----------------------------------------------------------------------------------------------------


def check_words(key, n):
    assert (drawn(key, n) == words(key, n)).all()


pairs = st.tuples(st.integers(0, MASK), st.integers(0, MASK))
lengths = st.one_of(st.integers(0, 5), st.integers(0, 2500))  # over 512 words there are several blocks


@on_cpu
@given(pairs, lengths)
def test_the_words_are_those_of_the_array_code_to_the_last_bit(key, n):
    check_words(key, n)


@on_cpu
def test_of_the_number_of_a_block_the_upper_half_counts_too():
    """Nobody draws 2³³ words here: so the source is told to begin with a later block."""
    (line,) = re.findall(r".*\bx0 = .*", cuda.THREEFRY)
    far = cuda.THREEFRY.replace(line, re.sub(r"\bblock\b", "(block + (3LL << 32))", line))
    out = np.empty(4, "uint32")
    RawKernel(far, "threefry_words")((1,), (cuda.THREADS,), (11, 12, out, 4))
    assert out.tolist() == words((11, 12), 4, start=2 * (3 << 32)).tolist()


@on_cpu
def test_a_key_draws_the_same_words_on_a_gpu(monkeypatch):
    expected = {n: mg.Key(7).bits(n).tolist() for n in (0, 1, 600)}
    monkeypatch.setattr(backend, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(cuda, "threefry_words", wrapped := Counted(cuda.threefry_words))
    assert {n: mg.Key(7).bits(n).tolist() for n in (0, 1, 600)} == expected
    assert mg.Key(7).bits((2, 300)).ravel().tolist() == expected[600]
    assert wrapped.calls == 4


class Counted:
    def __init__(self, function: Callable):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


# ---- cross-entropy --------------------------------------------------------------------------------------------------


def check_cross_entropy(case):
    scores, targets = case
    losses, gradients = cross_entropy(scores, targets)
    with backend.quiet():
        expected = numerics.cross_entropy(scores, targets=targets)
    tolerance = TOLERANCE[scores.dtype.name]
    assert same(losses, expected[0], tolerance) and same(gradients, expected[1], tolerance)


@st.composite
def cases(draw, dtype, elements=None):
    """Scores (n, V) and targets (n,): V = 1, V less than a block has threads, as many, and more."""
    shape = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 255, 256, 257, 600]))
    if elements is None:
        scale = np.dtype(dtype).type(draw(st.sampled_from([0.1, 3.0, 50.0, 1000.0])))
        scores = mg.Key(draw(st.integers(0, 1000))).normal(shape, dtype) * scale
    else:
        scores = draw(hnp.arrays(dtype, shape, elements=elements, fill=elements))
    return scores, draw(hnp.arrays("int64", shape[0], elements=st.integers(0, shape[1] - 1)))


def any_scores(dtype):
    """Every float there is, and often those that are not finite, or so large that e^s isn't."""
    width = np.dtype(dtype).itemsize * 8
    return st.one_of(
        st.sampled_from([0.0, math.inf, -math.inf, math.nan, 1e4, -1e4]), st.floats(width=width, allow_subnormal=False)
    )


@on_cpu
@dtypes
@given(data=st.data())
def test_losses_and_gradients_are_those_of_the_array_code(dtype, data):
    check_cross_entropy(data.draw(cases(dtype)))


@on_cpu
@dtypes
@given(data=st.data())
def test_they_are_of_any_scores_extreme_infinite_or_nan(dtype, data):
    check_cross_entropy(data.draw(cases(dtype, any_scores(dtype))))


@on_cpu
@dtypes
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [math.nan, math.inf], [-math.inf] * 300])
def test_a_nan_an_infinity_or_nothing_but_minus_infinity_makes_nans_of_its_row_alone(dtype, bad):
    scores, targets = np.zeros((3, 300), dtype), np.array([0, 150, 299])
    scores[1, : len(bad)] = bad
    losses, gradients = cross_entropy(scores, targets)
    assert np.isnan(losses).tolist() == [False, True, False]
    assert np.isnan(gradients).all(axis=1).tolist() == np.isnan(gradients).any(axis=1).tolist() == [False, True, False]


@on_cpu
@dtypes
def test_a_single_minus_infinity_has_probability_0_and_as_a_target_an_infinite_loss(dtype):
    losses, gradients = cross_entropy(np.array([[0, -math.inf], [0, -math.inf]], dtype), np.array([0, 1]))
    assert losses.tolist() == [0.0, math.inf]
    assert gradients.tolist() == [[0.0, 0.0], [1.0, -1.0]]


@on_cpu
def test_the_same_scores_give_the_same_bits_again():
    case = mg.Key(3).normal((4, 1000)), np.array([0, 1, 2, 999])
    assert [a.tobytes() for a in cross_entropy(*case)] == [a.tobytes() for a in cross_entropy(*case)]


@on_cpu
def test_no_rows_need_no_launch():
    losses, gradients = cross_entropy(np.empty((0, 5), "float32"), np.empty(0, "int64"))
    assert losses.shape == (0,) and gradients.shape == (0, 5)


class OnGPU(np.ndarray):
    """What `backend.on_gpu` takes for an array of CuPy's, and whose value nobody may ask for: that would be a wait."""

    __module__, device = "cupy", nullcontext()

    def __bool__(self):
        raise AssertionError("the CPU has waited for the GPU")

    item = tolist = __float__ = __int__ = __bool__


@on_cpu
@pytest.mark.parametrize("dtype, launches", [("float32", 1), ("float64", 1), ("float16", 0)])
def test_scores_on_a_gpu_go_to_the_kernel_and_nothing_waits(dtype, launches, monkeypatch):
    monkeypatch.setattr(cuda, "cross_entropy", wrapped := Counted(cuda.cross_entropy))
    scores, targets = mg.Key(1).normal((2, 3, 5)).astype(dtype), np.array([[0, 1, 2], [3, 4, 0]])
    found = numerics.cross_entropy(scores.view(OnGPU), targets=targets.view(OnGPU))
    assert wrapped.calls == launches
    for one, expected in zip(found, numerics.cross_entropy(scores, targets=targets)):
        assert same(np.asarray(one), expected, TOLERANCE.get(dtype, 0))


# ---- why array code is slow -----------------------------------------------------------------------------------------


class Passing(np.ndarray):
    """An array that counts launches, and how often one of them reads or writes an array of `size_of_interest`."""

    size_of_interest = launches = reads = writes = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        plain = [np.asarray(a) if isinstance(a, Passing) else a for a in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(a) for a in out)
        y = getattr(ufunc, method)(*plain, **options)
        Passing.launches += 1
        Passing.reads += sum(np.size(a) == Passing.size_of_interest for a in inputs)
        Passing.writes += np.size(y) == Passing.size_of_interest
        return y.view(Passing)


def test_twenty_rounds_of_array_code_are_over_a_hundred_launches(monkeypatch):
    monkeypatch.setattr(Passing, "launches", 0)
    threefry2x32((1, 2), *np.zeros((2, 5), "uint32").view(Passing))
    assert Passing.launches == 2 + 20 * 5 + 5 * 2


def test_the_array_code_of_cross_entropy_reads_the_scores_five_times_and_writes_three_times(monkeypatch):
    for name, value in {"size_of_interest": 12, "reads": 0, "writes": 0}.items():
        monkeypatch.setattr(Passing, name, value)
    scores = np.zeros((3, 4), "float32").view(Passing)
    numerics._softmax(scores, 1)
    assert (Passing.reads, Passing.writes) == (5, 3)


# ---- what a sanitizer says ------------------------------------------------------------------------------------------


def watched(sanitizer):
    """Both kernels in a program that a sanitizer watches, with more work than a block has threads, and with less."""

    class Watched:
        RawKernel = partial(cuda_on_cpu.RawKernel, sanitizer=sanitizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "xp_of", lambda array: Watched)
        try:
            check_words((1, 2), 601)
            for dtype, columns in [("float32", 600), ("float32", 1), ("float64", 300)]:
                check_cross_entropy((mg.Key(1).normal((2, columns), dtype), np.array([0, columns - 1])))
        except CannotRun as error:
            pytest.skip(str(error))


@on_cpu
def test_no_thread_reads_or_writes_what_another_is_writing():
    watched("thread")


@on_cpu
def test_no_thread_reads_or_writes_beyond_an_array():
    watched("address")


# ---- sabotage -------------------------------------------------------------------------------------------------------


def all_examples(check, *strategies):
    """What the tests above do, without shrinking."""

    @settings(max_examples=100, phases=[Phase.generate], database=None, derandomize=True, report_multiple_bugs=False)
    @given(st.tuples(*strategies))
    def run(case):
        check(*case)

    run()


CHECKS = {
    "words": lambda: all_examples(check_words, pairs, lengths),
    "losses and gradients": lambda: all_examples(check_cross_entropy, cases("float32")),
    "any scores": lambda: all_examples(check_cross_entropy, cases("float32", any_scores("float32"))),
    "bounds": lambda: watched("address"),
}
MUTANTS = {
    "a rotation wrong": ("words", "THREEFRY", "{17, 29, 16, 24}", "{17, 29, 16, 23}"),
    "not rotated but shifted": ("words", "THREEFRY", "x1 << r | x1 >> (32 - r)", "x1 << r"),
    "the number of the group left out": ("words", "THREEFRY", " + group + 1", ""),
    "the word after the last written": ("bounds", "THREEFRY", "if (2 * block + 1 < n) ", ""),
    "− 1[· = t] left out": ("losses and gradients", "CROSS_ENTROPY", " - (j == t);", ";"),
    "the maximum left out": ("any scores", "CROSS_ENTROPY", "m = of_all(m, true);", "m = 0;"),
    "the maximum of one thread for all": ("losses and gradients", "CROSS_ENTROPY", "m = of_all(m, true);", ""),
    "a place too few": ("bounds", "CROSS_ENTROPY", "parts[256]", "parts[255]"),
    "columns beyond the threads left out": ("losses and gradients", "CROSS_ENTROPY", "j += blockDim.x", "j += V"),
}


@on_cpu
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_killed_by_the_test_named_for_what_it_breaks(name, monkeypatch):
    check, source, right, wrong = MUTANTS[name]
    assert right in getattr(cuda, source)
    monkeypatch.setattr(cuda, source, getattr(cuda, source).replace(right, wrong))
    with pytest.raises(AssertionError):
        CHECKS[check]()


@on_cpu
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_barrier_left_out_is_a_race_that_is_seen(number, monkeypatch):
    parts = cuda.CROSS_ENTROPY.split("__syncthreads();")
    assert len(parts) == 1 + 3
    mutant = "__syncthreads();".join(parts[:number]) + "__syncthreads();".join(parts[number:])
    monkeypatch.setattr(cuda, "CROSS_ENTROPY", mutant)
    with pytest.raises(Unsound, match="data race"):
        watched("thread")


# ---- does it compile for a GPU? -------------------------------------------------------------------------------------

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # of the GPUs from Turing to Blackwell
SOURCES = {
    "threefry_words": lambda: cuda.THREEFRY,
    "cross_entropy float32": lambda: cuda.cross_entropy_of("float32"),
    "cross_entropy float64": lambda: cuda.cross_entropy_of("float64"),
}


@pytest.fixture(scope="module")
def nvrtc():
    """NVIDIA's compiler, which CuPy hands its kernels to. It needs no GPU and no driver."""
    nvrtc = pytest.importorskip("cupy", exc_type=ImportError).cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:  # of the loader's own kinds
        pytest.skip(f"no NVRTC: {error}")
    return nvrtc


def compiled(nvrtc, source, architecture):
    """The machine code for a GPU, with the options that CuPy gives."""
    program = nvrtc.createProgram(source, "kernel.cu", [], [])
    options = ["-std=c++17", "-ftz=true", f"-arch=sm_{architecture}"]
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        raise SyntaxError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_every_kernel_compiles_for_every_gpu(name, architecture, nvrtc):
    assert name.split()[0].encode() in compiled(nvrtc, SOURCES[name](), architecture)


@pytest.mark.parametrize(
    "right, wrong, says",
    [
        ("real m = s[0]", "real m = ss[0]", 'identifier "ss" is undefined'),
        ("log(total)", "log(targets)", "no instance of overloaded function"),
        ("parts[256]", "parts[20000]", "too much shared data"),
    ],
)
def test_a_kernel_that_is_no_cuda_is_refused(right, wrong, says, nvrtc):
    source = cuda.cross_entropy_of("float32")
    assert right in source
    with pytest.raises(SyntaxError, match=says):
        compiled(nvrtc, source.replace(right, wrong), 80)
