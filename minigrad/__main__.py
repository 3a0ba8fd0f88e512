"""`python -m minigrad`: what has this machine, what will run on it, and what will be skipped?  Nothing is compiled."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re

import numpy as np

from . import kernels

NEEDS = {  # what runs -> the packages it can't do without, and what pip should install to bring them
    "minigrad, losses": ("numpy numba", "."),
    "demos": ("matplotlib rich scikit-learn threadpoolctl", ".[demos]"),
    "tests": ("pytest hypothesis matplotlib rich scikit-learn threadpoolctl", ".[test]"),
    "losses.check": ("hypothesis", ".[test]"),
    "oracle tests": ("torch gensim scipy mpmath", ".[oracles]"),
    "gpucheck tests": ("cupy-cuda13x nvidia-cuda-nvrtc", ".[gpucheck]"),
}
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def blas_threads() -> str:
    if version("threadpoolctl"):
        from threadpoolctl import threadpool_info

        known = [str(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    else:
        known = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    return ", ".join(known) or f"not known: no threadpoolctl for this BLAS, and none of {', '.join(LIMITS)} is set"


def compiled_code() -> str:
    try:
        import numba

        twin = numba.njit(cache=True)(kernels.add_rows.__wrapped__)  # compiled when first called, which it isn't
        return f"kept in {twin.stats.cache_path}" if hasattr(twin, "stats") else "none: NUMBA_DISABLE_JIT is set"
    except Exception as error:  # NumPy is too new for Numba; no folder can be written
        return f"not kept: {error!r}"


def cupy() -> str:
    """CuPy's version and the GPUs, the first as "gpu:0 NAME"; or why there is none: a driver can fail in many ways."""
    try:
        if not importlib.util.find_spec("cupy"):
            return "not installed"
        import cupy

        count = cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0
        names = [f"gpu:{i} {cupy.cuda.runtime.getDeviceProperties(i)['name'].decode()}" for i in range(count)]
        return f"{cupy.__version__}, {', '.join(names) or 'finds no GPU'}"
    except Exception as error:
        return f"installed, but it fails: {error!r}"


def extras() -> dict[str, str]:
    """What each extra of pyproject.toml asks for, as the installed package says, and what there is of it."""
    if not version("minigrad"):
        return {"not known": "minigrad is not installed as a package, it runs from its folder: pip install -e ."}
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("minigrad") or []:
        package, of_ours = re.match(r"([\w.-]+)(?:\[(.*)\])?", line).groups()
        for extra in re.findall(r"""extra == ["']([\w.-]+)["']""", line):
            says = f"all of {of_ours}" if package == "minigrad" else f"{package} {version(package) or 'not installed'}"
            found.setdefault(extra, []).append(says.replace(",", ", "))
    return {extra: ", ".join(packages) for extra, packages in found.items()}


def will_run(has_gpu: bool) -> dict[str, str]:
    runs = {}
    for what, (packages, install) in NEEDS.items():
        missing = ", ".join(package for package in packages.split() if not version(package))
        no = "skipped, where they need" if what in ("oracle tests", "gpucheck tests") else "no, for want of"
        runs[what] = f"{no} {missing}: pip install -e '{install}'" if missing else "yes"
    no = "no, for want of CuPy and a CUDA GPU: pip install -e '.[cuda12]' (or cuda13, as nvidia-smi says)"
    return {**runs, "--device gpu": "yes" if has_gpu else no}


def facts() -> dict[str, dict[str, str]]:
    """Section -> label -> what there is to say of it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    machine = {
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "CPU cores": f"{cores} that this process may use, of {os.cpu_count()}",
        "NumPy": np.__version__,
        "BLAS": f"{blas.get('name', 'unknown')} {blas.get('version', '')}",
        "BLAS threads": blas_threads(),
        "Numba": version("numba") or "not installed",
        "compiled code": compiled_code() if version("numba") else "none without Numba",
        "CuPy": cupy(),
    }
    return {"This machine": machine, "Extras": extras(), "What will run": will_run("gpu:0" in machine["CuPy"])}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m minigrad", description="What has this machine, and what will run?")
    p.add_argument("--json", action="store_true", help="the same as JSON")
    return p


def main(argv: list[str] | None = None) -> int:
    args, told = parser().parse_args(argv), facts()
    if args.json:
        print(json.dumps(told, indent=2))
        return 0
    width = max(len(label) for section in told.values() for label in section)
    for heading, section in told.items():
        print(heading, *(f"  {label:{width}}  {says}" for label, says in section.items()), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
