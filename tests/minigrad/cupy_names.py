"""What does a source ask of CuPy that CuPy does not have?

`faults(text)` reads a Python file, without running it, and follows in it what it can tell comes from CuPy: `xp`, what
`xp_of(…)` and `backend.xp()` give, `cupy` itself, what is got or made from these. Of each it checks the name, the
keywords, how many arguments there are, and the methods of ufuncs against `cupy_api.json`. Of methods of other objects
it sees the keywords that only arrays of NumPy's take.
"""

import ast
import json
import math
from pathlib import Path

API = json.loads(Path(__file__).with_name("cupy_api.json").read_text("utf-8"))
GIVE_CUPY = ("xp_of", "_cupy")  # functions that return the library
RETURN = {"cupy.random.default_rng": "cupy.random.Generator", "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool"}
MAKE_ARRAYS = {"arange", "array", "asarray", "concatenate", "einsum", "empty", "full", "ones", "stack", "sum", "zeros"}
ONLY_NUMPYS = {"correction", "device", "initial", "like", "mode", "stable", "subok", "where"}  # keywords, most of them
UFUNC_METHODS, UFUNC_PARAMETERS = (
    ("accumulate", "at", "reduce", "reduceat"),
    API["cupy.ufunc"]["__call__"]["parameters"],
)
ONLY_FOR_INTEGERS = {"cupy.subtract.at"}  # CuPy says so when it sees the array


def faults(text: str) -> list[str]:
    """What a Python source asks of CuPy in vain, in words, each beginning with its line."""
    return _read(text).found


def asked(text: str) -> set[str]:
    """The names that a Python source asks of CuPy: {"cupy.exp", "cupy.ndarray.sum", …}."""
    return _read(text).asked


def _read(text: str) -> "_Reader":
    reader = _Reader()
    reader.visit(ast.parse(text))
    return reader


def what(path: str) -> dict | None:
    """The entry of "cupy.linalg.norm" or "cupy.add.at", if there is one."""
    owner, _, name = path.rpartition(".")
    if "." in owner and owner not in API:
        owner = "cupy.ufunc" if (what(owner) or {}).get("kind") == "ufunc" else ""
    return API.get(owner, {}).get(name)


class _Reader(ast.NodeVisitor):
    def __init__(self):
        self.found: list[str] = []
        self.asked: set[str] = set()
        self.paths = {"xp": "cupy", "cupy": "cupy", "cupyx": "cupyx"}  # name in the source -> what it stands for
        self.modules: set[str] = set()  # imported names: what has `.sum` there is no array

    def fault(self, node: ast.AST, says: str) -> None:
        self.found.append(f"line {node.lineno}: {says}")

    def path(self, node: ast.AST) -> str | None:
        """What an expression stands for, as "cupy.exp", or what it is an instance of: "cupy.ndarray"."""
        match node:
            case ast.Name():
                return self.paths.get(node.id)
            case ast.Attribute():
                owner = self.path(node.value)
                return f"{owner}.{node.attr}" if owner else "cupy" if node.attr == "xp" else None
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in GIVE_CUPY:
                return "cupy"
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=name), *_]) if self.path(owner):
                return f"{self.path(owner)}.{name}"
            case ast.Call(func=ast.Name(id="elementwise"), args=[ast.Constant(value=name)]):
                return f"cupy.{name}"
            case ast.Call():
                return self.result(self.path(node.func))
        return None

    def result(self, path: str | None) -> str | None:
        """What a call of `path` gives: `xp()` is a way to the library, a class gives an instance."""
        entry = what(path or "") or {}
        if path == "cupy" or entry.get("kind") == "class":
            return path
        if entry.get("nout") == 1 or path in {f"cupy.{name}" for name in MAKE_ARRAYS}:
            return "cupy.ndarray"
        return RETURN.get(path)

    # ---- names that stand for something -----------------------------------------------------------------------------

    def bind(self, target: ast.AST, value: ast.AST | None) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for pair in zip(target.elts, value.elts):
                self.bind(*pair)
        elif isinstance(target, ast.Name) and target.id != "xp":
            path = value and self.path(value)
            if path:
                self.paths[target.id] = path
            else:
                self.paths.pop(target.id, None)

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_With(self, node):
        for item in node.items:
            self.visit(item)
            if item.optional_vars:
                self.bind(item.optional_vars, item.context_expr)
        for statement in node.body:
            self.visit(statement)

    def visit_Import(self, node):
        for alias in node.names:
            self.modules.add((alias.asname or alias.name).partition(".")[0])
            if alias.asname and alias.name.partition(".")[0] in ("cupy", "cupyx"):
                self.paths[alias.asname] = alias.name

    def visit_ImportFrom(self, node):
        for alias in node.names:
            self.modules.add(alias.asname or alias.name)
            if not node.level and node.module.partition(".")[0] in ("cupy", "cupyx"):
                self.paths[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                self.check_name(node, node.module, alias.name)

    def visit_FunctionDef(self, node):
        before, parameters = dict(self.paths), node.args
        for parameter in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs):
            self.bind(ast.Name(parameter.arg), None)
        self.generic_visit(node)
        self.paths = before

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    # ---- checks -----------------------------------------------------------------------------------------------------

    def visit_Attribute(self, node):
        self.generic_visit(node)
        owner = self.path(node.value)
        if owner:
            self.check_name(node, owner, node.attr)

    def visit_Call(self, node):
        self.generic_visit(node)
        if getattr(node.func, "id", None) in ("getattr", "elementwise") and self.path(node):
            self.check_name(node, *self.path(node).rsplit(".", 1))
        path = self.path(node.func)
        if path and "." in path:
            self.check_arguments(node, path)
        elif isinstance(node.func, ast.Attribute) and _root(node) not in self.modules:
            known = API["cupy.ndarray"].get(node.func.attr, {}).get("parameters")
            for keyword in _keywords(node) & ONLY_NUMPYS - set(known or ONLY_NUMPYS):
                self.fault(node, f"cupy.ndarray.{node.func.attr} takes no {keyword}=")

    def check_name(self, node: ast.AST, owner: str, name: str) -> None:
        path, of = f"{owner}.{name}", what(owner) or {}
        self.asked.add(path)
        if of.get("kind") == "module" and owner not in API:
            self.fault(node, f"what {owner} has is not written down: add it to snapshot_cupy.py")
        elif owner in API or of.get("kind") == "ufunc":
            lacks = name in UFUNC_METHODS and name not in of.get("methods", name).split()
            if lacks or (what(path) is None and not name.startswith("__")):
                self.fault(node, f"{owner} has no {name}")
            if path in ONLY_FOR_INTEGERS:
                self.fault(node, f"{owner} has {name} only for integers")

    def check_arguments(self, node: ast.Call, path: str) -> None:
        entry = what(path)
        if not entry:
            return  # its name was a fault
        if entry["kind"] == "ufunc":
            parameters, least, most = UFUNC_PARAMETERS, entry["nin"], entry["nin"] + entry["nout"]
        elif entry.get("parameters") is not None:
            parameters, least = entry["parameters"], 0
            by_place = [p for p in parameters[: (*parameters, "*").index("*")] if p != "/"]
            most = math.inf if any(p[0] == "*" for p in by_place) else len(by_place)
        else:
            return
        if not any(isinstance(a, ast.Starred) for a in node.args) and not least <= len(node.args) <= most:
            self.fault(node, f"{path} takes {least} to {most} arguments by place, not {len(node.args)}")
        if not any(p.startswith("**") for p in parameters):
            by_place_only = parameters[: parameters.index("/")] if "/" in parameters else []
            for keyword in sorted(_keywords(node) - (set(parameters) - set(by_place_only))):
                self.fault(node, f"{path} takes no {keyword}=")


def _keywords(node: ast.Call) -> set[str]:
    return {keyword.arg for keyword in node.keywords} - {None}


def _root(node: ast.AST) -> str | None:
    """The name at which an expression begins: np of np.abs(a).max()."""
    while not isinstance(node, ast.Name):
        node = getattr(node, "func", getattr(node, "value", None))
        if node is None:
            return None
    return node.id
