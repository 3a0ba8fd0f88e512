"""Runs the source of a CUDA kernel on the CPU: what a machine without a GPU can tell of it.

`RawKernel` has the face of CuPy's, and takes NumPy's arrays. The source is compiled as it stands by g++, behind
`cuda_shim.h`, which says what a CUDA kernel finds on a GPU.

    RawKernel(source, name)(grid, block, args)                         is the result right?
    RawKernel(source, name, sanitizer="thread")(grid, block, args)     does a thread read what another may be writing?
    RawKernel(source, name, sanitizer="address")(grid, block, args)    does one read or write beyond an array?

The latter two run a program of its own, and raise `Unsound` with what the sanitizer has to say. A missing
`__syncthreads()` is a race whether or not its result is wrong today.

It is stricter than CuPy, which hands on whatever it is given: a number or an array of another type than the kernel's
parameter, a view that is not contiguous, an empty grid, of which it makes one block.
"""

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

SHIM = Path(__file__).with_name("cuda_shim.h")
COMPILER = "g++"
MISSING = (
    None
    if sys.platform == "linux" and shutil.which(COMPILER)
    else f"running CUDA source on the CPU needs {COMPILER} on Linux"
)
SANITIZERS = {"thread": ["-fsanitize=thread"], "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
LONGEST = 120  # seconds that a program may run
NOT_HERE = b"unexpected memory mapping"  # what a sanitizer says where addresses are spread out wider than it knows


class Unsound(AssertionError):
    """A sanitizer has seen a race, or an access out of bounds."""


class CannotRun(RuntimeError):
    """The sanitizer does not work on this machine, whatever the kernel."""


class RawKernel:
    """A CUDA kernel that runs on the CPU, over NumPy's arrays. Compiled when first called, and kept on disk.

    options: as the compiler takes them, "-DNAME=1" for instance; both compilers know that one.
    """

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), *, sanitizer: str | None = None):
        self.code, self.name, self.options, self.sanitizer = code, name, options, sanitizer

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0, stream=None) -> None:
        """Runs to the end: grid blocks of block threads each, (x, y, z) or fewer. Writes into the arrays of `args`."""
        if shared_mem:
            raise NotImplementedError("there is no dynamic shared memory here")
        grid, block = self._size("grid", grid, (2**31 - 1, 65535, 65535)), self._size("block", block, (1024, 1024, 64))
        if np.prod(block) > 1024:
            raise ValueError(f"{self.name}: a block has at most 1024 threads, got {block}")
        if len(args) != len(self._types):
            raise TypeError(f"{self.name} takes {len(self._types)} arguments, got {len(args)}")
        values = [self._value(i, *pair) for i, pair in enumerate(zip(args, self._types))]
        if self.sanitizer:
            self._watched(grid, block, values)
            return
        memory = [np.array(v.ctypes.data, np.uintp) if isinstance(v, np.ndarray) else np.array(v) for v in values]
        pointers = (ctypes.c_void_p * len(args))(*(m.ctypes.data for m in memory))
        wrong = self._library.shim_launch(grid.ctypes, block.ctypes, pointers).decode()
        if wrong:
            raise Unsound(f"{self.name}: {wrong}")

    def _size(self, what: str, size: tuple, most: tuple) -> np.ndarray:
        size = (*size, 1, 1)[:3] if isinstance(size, tuple) else ()
        if not size or not all(1 <= n <= m for n, m in zip(size, most)):
            raise ValueError(f"{self.name}: {what} must be a tuple of up to three numbers from 1 to {most}, got {size}")
        return np.array(size, np.uint32)

    def _value(self, i: int, value, expected: str) -> np.ndarray | np.generic:
        """An argument as the kernel's parameter takes it: an array, or a number of NumPy's of its type."""
        if isinstance(value, int | float) and not isinstance(value, bool | np.generic):
            value = np.float64(value) if isinstance(value, float) else np.int64(value)  # as CuPy does
        dtype = getattr(value, "dtype", np.dtype("O"))
        if "*" * isinstance(value, np.ndarray) + dtype.str[1:] != expected:
            what = "an array" if isinstance(value, np.ndarray) else "a number"
            of = type(value).__name__ if dtype == "O" else f"{what} of {dtype}"
            raise TypeError(f"{self.name}: argument {i} is declared {expected}, got {of}")
        if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
            raise ValueError(f"{self.name}: argument {i} is not contiguous: the kernel would see what lies between")
        return value

    def _watched(self, grid: np.ndarray, block: np.ndarray, values: list) -> None:
        """The same in a program of its own, which a sanitizer watches."""
        sent = grid.tobytes() + block.tobytes()
        for value in values:
            sent += np.uint64(value.nbytes).tobytes() + value.tobytes()
        written = memoryview(self._run_program(sent))
        for value in values:
            if isinstance(value, np.ndarray):
                value[...] = np.frombuffer(written[: value.nbytes], value.dtype).reshape(value.shape)
                written = written[value.nbytes :]

    def _run_program(self, sent: bytes, *options: str) -> bytes:
        command, environment = [self._compiled(), *options], os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
        run = partial(subprocess.run, input=sent, capture_output=True, env=environment, timeout=LONGEST)
        try:
            done = run(command)
            if NOT_HERE in done.stderr and shutil.which("setarch"):  # once more, with addresses not spread out
                done = run(["setarch", platform.machine(), "-R", *command])
        except subprocess.TimeoutExpired:
            raise Unsound(f"{self.name} is not done after {LONGEST} s: do all threads come to each barrier?") from None
        report = done.stderr.decode(errors="replace").strip()
        if NOT_HERE in done.stderr or report.startswith("setarch"):
            raise CannotRun(f"the sanitizer of {COMPILER} does not run on this machine: {report}")
        if done.returncode:
            raise Unsound(f"{self.name}: {report or f'ended with status {done.returncode}'}")
        return done.stdout

    @cached_property
    def _types(self) -> list[str]:
        """The kernel's parameters: "f4" for a number, "*f4" for a pointer."""
        return (self._run_program(b"", "types") if self.sanitizer else self._library.shim_types()).decode().split()

    @cached_property
    def _library(self) -> ctypes.CDLL:
        library = ctypes.CDLL(str(self._compiled()))
        library.shim_types.restype = library.shim_launch.restype = ctypes.c_char_p
        return library

    def _compiled(self) -> Path:
        """The library, or the program that a sanitizer watches: compiled once for this source, and kept."""
        command = [COMPILER, "-std=c++17", "-O1", "-g", "-pthread", "-U_FORTIFY_SOURCE", "-x", "c++", *self.options]
        command += [*SANITIZERS[self.sanitizer], "-DTHREADS"] if self.sanitizer else ["-shared", "-fPIC"]
        source = f'#include "{SHIM.name}"\n#line 1 "{self.name}.cu"\n{self.code}\nCALLABLE({self.name})\n'
        of = "\0".join([*command, platform.platform(), SHIM.read_text("utf-8"), source])
        file = folder() / f"{self.name}-{hashlib.sha256(of.encode()).hexdigest()[:24]}{'' if self.sanitizer else '.so'}"
        if not file.exists():
            handle, unfinished = tempfile.mkstemp(dir=file.parent)
            os.close(handle)
            try:
                command += ["-I", str(SHIM.parent), "-o", unfinished, "-"]
                done = subprocess.run(command, input=source, capture_output=True, text=True)
                if done.returncode:
                    raise SyntaxError(f"{COMPILER} does not compile {self.name}:\n{done.stderr}")
                Path(unfinished).replace(file)  # whole or not at all, however many compile at the same time
            finally:
                Path(unfinished).unlink(missing_ok=True)
        return file


@cache
def folder() -> Path:
    """Where compiled kernels are kept: beside Python's own compiled code, or else until this process ends."""
    beside = Path(__file__).parent / "__pycache__" / "cuda_on_cpu"
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    except OSError:  # a folder that nobody may write
        pass
    made = tempfile.mkdtemp(prefix="cuda_on_cpu-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
