"""CUDA twins: which array code is too slow on a GPU, and what is written in CUDA instead?

On a GPU each function of array code is a launch of its own, and hands its result to the next one through memory. Where
a function does much with what it reads, as a matrix product, that is no matter. In two places it is:

random words     A round of threefry, equation (2) of `rng.py`, is five functions: + << >> | ⊕. So twenty rounds are a
                 hundred launches, each of which reads and writes arrays half as long as the draw. But a block of two
                 words depends on its number alone: here one thread holds it from the first round to the last, and
                 memory is written once, in one launch.

cross-entropy    In `numerics.cross_entropy` the maximum, s − m, e^(s − m), the sum and the quotient read n V numbers
                 five times and write them three times. Here each row has a block of threads for itself: it is read
                 three times, by threads that have just read it, and written once. The exponential is computed twice,
                 instead of being written and read again.

Each kernel is the twin of array code, which is the text; where array code will do there is no kernel. CuPy compiles a
kernel when it is first called on a device, and keeps the result on disk. The sources use no warp intrinsics and no
dynamic shared memory, so that the tests can run them on a CPU as well (`tests/minigrad/cuda_on_cpu.py`).
"""

from functools import cache

from .backend import at, type_of_array, xp_of

THREADS = 256  # of a block: for `of_all` a power of two, no more than it has places

THREEFRY = r"""
extern "C" __global__ void threefry_words(long long key0, long long key1, unsigned int* out, long long n) {
    long long block = (long long)blockIdx.x * blockDim.x + threadIdx.x;  // words 2 block and 2 block + 1
    if (2 * block >= n) return;
    const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    const unsigned int k0 = key0, k1 = key1, schedule[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDA};
    unsigned int x0 = block + k0, x1 = (block >> 32) + k1;
    #pragma unroll
    for (int group = 0; group < 5; ++group) {
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
            int r = rotations[group % 2][i];
            x0 += x1;                                                    // (2)
            x1 = (x1 << r | x1 >> (32 - r)) ^ x0;
        }
        x0 += schedule[(group + 1) % 3];                                 // (3)
        x1 += schedule[(group + 2) % 3] + group + 1;
    }
    out[2 * block] = x0;
    if (2 * block + 1 < n) out[2 * block + 1] = x1;
}
"""

CROSS_ENTROPY = r"""
// The greatest, or the sum, of one number from each thread of a block: halves are put together until one is left.
// All threads must come to every barrier, so one without a column (V < 256) brings what changes nothing: s[0], or 0.
__device__ real of_all(real mine, bool greatest) {
    __shared__ real parts[256];
    parts[threadIdx.x] = mine;
    for (unsigned int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();                                                 // all have written what is read now
        if (threadIdx.x < half) {
            real a = parts[threadIdx.x], b = parts[threadIdx.x + half];
            parts[threadIdx.x] = greatest ? max(a, b) : a + b;
        }
    }
    __syncthreads();
    real all = parts[0];
    __syncthreads();                                                     // all have read it: parts can be used again
    return all;
}

extern "C" __global__ void cross_entropy(const real* scores, const long long* targets, long long V,
                                         real* losses, real* gradients) {
    const real* s = scores + blockIdx.x * V;                             // V has 64 bits, and so the product
    real* g = gradients + blockIdx.x * V;
    long long t = targets[blockIdx.x];
    real m = s[0], total = 0;
    for (long long j = threadIdx.x; j < V; j += blockDim.x) m = max(m, s[j]);
    m = of_all(m, true);
    for (long long j = threadIdx.x; j < V; j += blockDim.x) total += exp(s[j] - m);
    total = of_all(total, false);
    for (long long j = threadIdx.x; j < V; j += blockDim.x) {
        g[j] = exp(s[j] - m) / total - (j == t);
        if (j == t) losses[blockIdx.x] = log(total) + (m - s[j]);
    }
}
"""


def cross_entropy_of(dtype: str) -> str:
    """The source for scores of "float32" or "float64"."""
    return f"typedef {'float' if dtype == 'float32' else 'double'} real;\n{CROSS_ENTROPY}"


def threefry_words(key0: int, key1: int, out: type_of_array) -> None:
    """Twin of `rng.words`, to the last bit: fills `out` (n,) uint32 with the first words of a key's stream."""
    blocks = (len(out) + 1) // 2
    _launch(THREEFRY, "threefry_words", -(-blocks // THREADS), (key0, key1, out, len(out)), out)


def cross_entropy(
    scores: type_of_array, targets: type_of_array, losses: type_of_array, gradients: type_of_array
) -> None:
    """Twin of `numerics.cross_entropy`: scores (n, V), targets (n,) -> losses (n,), softmax − 1[· = t] (n, V).

    targets: int64 in [0, V), which was checked before.
    float32 or float64, contiguous. But for rounding it is what the array code computes, also of scores that are not
    finite, so nobody need look at them first. A NaN, a +∞, or nothing but −∞ makes a NaN of Σ e^(s − m), and by it of
    the whole row (it matters not that `max` passes over a NaN in CUDA). A −∞ beside a number has the probability 0, and
    as a target an infinite loss.
    """
    args = scores, targets, scores.shape[1], losses, gradients
    _launch(cross_entropy_of(scores.dtype.name), "cross_entropy", len(scores), args, scores)


def _launch(source: str, name: str, blocks: int, args: tuple, array: type_of_array) -> None:
    if blocks:  # CuPy would make one of none
        with at(array):
            _kernel(xp_of(array), source, name)((blocks,), (THREADS,), args)


@cache
def _kernel(xp, source: str, name: str):
    return xp.RawKernel(source, name)
