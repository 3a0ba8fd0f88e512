"""The emulation of CUDA under test: what it runs as a GPU would, and what it refuses though CuPy would not."""

import threading

import cuda_on_cpu
import numpy as np
import pytest
from cuda_on_cpu import RawKernel, Unsound

pytestmark = [
    pytest.mark.device,
    pytest.mark.gpucheck,
    pytest.mark.skipif(cuda_on_cpu.MISSING is not None, reason=str(cuda_on_cpu.MISSING)),
]

PLACES = r"""
extern "C" __global__ void places(int* out) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + 100 * block + thread;
}"""
REVERSED = r"""
extern "C" __global__ void reversed(const float* in, float* out) {
    __shared__ float all[512];
    all[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
}"""
SCALED = r"""
extern "C" __global__ void scaled(float* x, int n, float by) {
    if (threadIdx.x < n) x[threadIdx.x] *= by;
}"""
TORN = r"""
extern "C" __global__ void torn(float* x) {
    if (threadIdx.x < 3) __syncthreads();
    x[threadIdx.x] = 1;
}"""
x, eight, three = np.ones(3, "float32"), np.arange(1, 9, dtype="float32"), np.int32(3)
sanitizers = pytest.mark.parametrize("sanitizer", [None, "thread", "address"])


@sanitizers
@pytest.mark.parametrize("grid, block", [((3,), (4,)), ((2, 3), (4, 2)), ((2, 1, 2), (2, 2, 3))])
def test_every_thread_of_every_block_runs_once_and_knows_its_place(grid, block, sanitizer):
    n, m = np.prod(grid), np.prod(block)
    out = np.zeros((n, m), "int32")
    RawKernel(PLACES, "places", sanitizer=sanitizer)(grid, block, (out,))
    assert (out == 1 + 100 * np.arange(n)[:, None] + np.arange(m)).all()


@sanitizers
def test_at_a_barrier_all_threads_of_a_block_meet(sanitizer):
    x, y = np.arange(300, dtype="float32"), np.zeros(300, "float32")
    RawKernel(REVERSED, "reversed", sanitizer=sanitizer)((2,), (300,), (x, y))
    assert (y == x[::-1]).all()


def test_without_the_barrier_a_race_is_seen_and_a_number_read_too_early():
    racing = REVERSED.replace("__syncthreads();", "")
    y = np.zeros(8, "float32")
    with pytest.raises(Unsound, match="data race"):
        RawKernel(racing, "reversed", sanitizer="thread")((1,), (8,), (eight, y))
    RawKernel(racing, "reversed")((1,), (8,), (eight, y))
    assert (y != eight[::-1]).any(), "the first thread has run to its end before the last began"


def test_a_write_beyond_an_array_is_seen():
    beyond = SCALED.replace("threadIdx.x < n", "threadIdx.x <= n")
    with pytest.raises(Unsound, match="heap-buffer-overflow"):
        RawKernel(beyond, "scaled", sanitizer="address")((1,), (4,), (x, three, np.float32(2)))


def test_a_place_beyond_the_shared_ones_is_seen():
    with pytest.raises(Unsound, match="out of bounds"):
        RawKernel(REVERSED.replace("all[512]", "all[7]"), "reversed", sanitizer="address")(
            (1,), (8,), (eight, eight + 0)
        )


def test_a_barrier_that_some_threads_pass_by_is_an_error():
    torn, y = RawKernel(TORN, "torn"), np.zeros(5, "float32")
    for _ in range(2):
        with pytest.raises(Unsound, match="thread 0 waits at line 3, and thread 3 at line 0"):
            torn((1,), (5,), (y,))
    torn((2,), (3,), (y,))
    assert y.tolist() == [1, 1, 1, 1, 1]


def test_kernels_can_run_in_several_threads_at_once():
    reverse, failures = RawKernel(REVERSED, "reversed"), []

    def run(seed):
        x, y = np.random.default_rng(seed).random(500, "float32"), np.zeros(500, "float32")
        for _ in range(20):
            reverse((1,), (500,), (x, y))
        failures.extend([seed] if (y != x[::-1]).any() else [])

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_source_is_compiled_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_on_cpu, "folder", lambda: tmp_path)
    x = np.ones(3, "float32")
    for _ in range(2):
        RawKernel(SCALED, "scaled")((1,), (3,), (x, np.int32(3), np.float32(2)))
    assert x.tolist() == [4, 4, 4] and len(list(tmp_path.iterdir())) == 1
    RawKernel(SCALED, "scaled", ("-DOTHER=1",))((1,), (3,), (x, np.int32(3), np.float32(2)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_source_that_does_not_compile_leaves_nothing_and_names_its_line(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_on_cpu, "folder", lambda: tmp_path)
    with pytest.raises(SyntaxError, match=r"scaled.cu:3:.*‘y’|scaled.cu:3:.*'y'"):
        RawKernel(SCALED.replace("x[threadIdx.x] *=", "y[threadIdx.x] *="), "scaled")((1,), (1,), (1, 1, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "grid, block, args, error, message",
    [
        (
            (1,),
            (3,),
            (x.astype("float64"), three, np.float32(2)),
            TypeError,
            r"0 is declared \*f4, got an array of float64",
        ),
        ((1,), (3,), (x, 3, np.float32(2)), TypeError, "argument 1 is declared i4, got a number of int64"),
        ((1,), (3,), (x, three, 2.0), TypeError, "argument 2 is declared f4, got a number of float64"),
        ((1,), (3,), (x, three, True), TypeError, "argument 2 is declared f4, got bool"),
        ((1,), (3,), (x[0], three, np.float32(2)), TypeError, r"argument 0 is declared \*f4, got a number of float32"),
        ((1,), (3,), ([1.0], three, np.float32(2)), TypeError, r"argument 0 is declared \*f4, got list"),
        ((1,), (3,), (x[::2], three, np.float32(2)), ValueError, "argument 0 is not contiguous"),
        ((1,), (3,), (x, three), TypeError, "scaled takes 3 arguments, got 2"),
        ((0,), (3,), (x, three, np.float32(2)), ValueError, "grid must be a tuple of up to three numbers from 1"),
        (1, (3,), (x, three, np.float32(2)), ValueError, "grid must be a tuple"),
        ((1,), (1025,), (x, three, np.float32(2)), ValueError, "block must be a tuple"),
        ((1,), (32, 64), (x, three, np.float32(2)), ValueError, "a block has at most 1024 threads"),
        ((1, 65536), (1,), (x, three, np.float32(2)), ValueError, "grid must be a tuple"),
    ],
)
def test_what_cupy_would_hand_on_unseen_is_refused(grid, block, args, error, message):
    with pytest.raises(error, match=message):
        RawKernel(SCALED, "scaled")(grid, block, args)
    assert x.tolist() == [1, 1, 1]
