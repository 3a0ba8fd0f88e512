"""What does CuPy offer?  Writes it down in `cupy_api.json`, which is read where CuPy is not installed.

    python tests/minigrad/snapshot_cupy.py

This needs CuPy, but neither a GPU nor a driver: only names are looked at. The file maps an owner, as `cupy` or
`cupy.ndarray`, to its public names, and each of them to what it is:

    {"kind": "function" | "method" | "class", "parameters": ["a", "axis", "*", "out"]}    null where CuPy doesn't say,
                                                 and of operators; * and / as in a signature, self left out
    {"kind": "ufunc", "nin": 2, "nout": 1, "types": "bb->b ff->f", "methods": "at reduce"}     those not left out; the
                                                 keywords of a call are those of "__call__" of "cupy.ufunc"
    {"kind": "module" | "constant" | "attribute"}
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).with_name("cupy_api.json")
OWNERS = (  # of `cupy` and `cupyx` themselves, and of what a program holds in its hands
    "cupy",
    "cupy.ndarray",
    "cupy.ufunc",
    "cupy.linalg",
    "cupy.random",
    "cupy.random.Generator",
    "cupy.random.RandomState",
    "cupy.cuda",
    "cupy.cuda.Device",
    "cupy.cuda.Event",
    "cupy.cuda.MemoryHook",
    "cupy.cuda.MemoryPool",
    "cupy.cuda.PinnedMemoryPool",
    "cupy.cuda.PinnedMemoryPointer",
    "cupy.cuda.Stream",
    "cupy.cuda.runtime",
    "cupy.RawKernel",
    "cupyx",
    "cupyx.profiler",
)
PYTHONS = {  # what classes have of themselves, in one version of Python or another
    *dir(object),
    *("__annotations__", "__buffer__", "__class_getitem__", "__dict__", "__firstlineno__", "__module__"),
    *("__pyx_vtable__", "__release_buffer__", "__setstate__", "__slots__", "__static_attributes__", "__weakref__"),
}


def surface() -> dict:
    """What CuPy offers: {"version": …, owner: {name: what it is}}."""
    import cupy
    import cupyx.profiler

    of = {"version": cupy.__version__}
    for path in OWNERS:
        first, *rest = path.split(".")
        owner = cupy if first == "cupy" else cupyx
        for name in rest:
            owner = getattr(owner, name)
        names = [name for name in dir(owner) if name not in PYTHONS and name != "annotations"]
        if inspect.isclass(owner):
            names = [name for name in names if name[0] != "_" or name[:2] == "__"]
        else:
            names = [name for name in names if name[0] != "_"]
        of[path] = {name: entry(getattr(owner, name), name, owner, cupy.ufunc) for name in names}
    called = {"kind": "method", "parameters": ["*args", "*", *keywords_of(cupy.exp)]}
    of["cupy.ufunc"]["__call__"] = called
    integers = {name for name, what in of["cupy.cuda.runtime"].items() if what["kind"] == "constant"}
    of["cupy.cuda.runtime"] = {name: what for name, what in of["cupy.cuda.runtime"].items() if name not in integers}
    return of


def entry(thing, name: str, owner, ufunc: type) -> dict:
    """What a thing is, as the docstring above says."""
    if isinstance(thing, ufunc):
        types, methods = " ".join(thing.types), " ".join(methods_of(thing))
        return {"kind": "ufunc", "nin": thing.nin, "nout": thing.nout, "types": types, "methods": methods}
    if inspect.ismodule(thing):
        return {"kind": "module"}
    if not callable(thing):
        return {"kind": "attribute" if inspect.isclass(owner) else "constant"}
    kind = "class" if inspect.isclass(thing) else "method" if inspect.isclass(owner) else "function"
    return {"kind": kind, "parameters": None if name.startswith("__") else parameters(thing, name)}


def parameters(thing, name: str) -> list[str] | None:
    """The names of a function's parameters: by `inspect`, else by the line that Cython leaves in the docstring."""
    try:
        names = signature(inspect.signature(thing))
    except (TypeError, ValueError):
        first = (inspect.getdoc(thing) or "").partition("\n")[0]
        written = re.fullmatch(rf"(?:\w+\.)*{name}\((.*)\)(?: -> .+)?", first)
        if not written:
            return None
        names = [part.partition("=")[0].split()[-1] for part in written[1].split(", ") if part]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


class Reached(Exception):
    """A ufunc's method has begun to use its array."""


class Array:
    def __getattr__(self, name):
        raise Reached


def methods_of(ufunc) -> Iterator[str]:
    """Those of NumPy's methods that CuPy has for this function: the others refuse before they look at the array."""
    for name, further in {"accumulate": (), "at": (0, 0), "reduce": (), "reduceat": (0,)}.items():
        try:
            getattr(ufunc, name)(Array(), *further)
        except NotImplementedError:
            pass
        except Reached:
            yield name


def keywords_of(ufunc) -> Iterator[str]:
    """The keywords that a ufunc takes, of those that NumPy's do: the others it refuses before it needs a GPU."""
    for name in ("axes", "axis", "casting", "dtype", "keepdims", "order", "out", "signature", "subok", "where"):
        try:
            ufunc(1.0, **{name: None})
        except Exception as error:
            if "Wrong arguments" in str(error):
                continue
        yield name


def signature(of: inspect.Signature) -> list[str]:
    names, before = [], None
    for p in of.parameters.values():
        if before is p.POSITIONAL_ONLY and p.kind is not before:
            names.append("/")
        if p.kind is p.KEYWORD_ONLY and before not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            names.append("*")
        names.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
        before = p.kind
    return names


def as_text(of: dict) -> str:
    """JSON, with one line for each name."""
    parts = [f'"version": {json.dumps(of["version"])}']
    for owner in sorted(of.keys() - {"version"}):
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(of[owner][name])}" for name in sorted(of[owner]))
        parts.append(f"{json.dumps(owner)}: {{\n{lines}\n}}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(as_text(surface()), "utf-8")
    print(f"{FILE} tells what CuPy {json.loads(FILE.read_text('utf-8'))['version']} offers")
