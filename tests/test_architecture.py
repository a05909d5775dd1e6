"""The package's rooms and floors: imports run down, never up, never in a circle, never inside a function."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "projects" / "SQR" / "sqr"

# A file imports from its own floor or from below. CONTRIBUTING.md shows this table; the test compares the two.
FLOORS = (
    "errors files finite runs catalog distributed host_memory recollection structures boxes classification "
    "postprocessing ops",
    "layers targets decoder matcher data config",
    "detectors criterion meta_arch checkpoint adapters",
    "engine evaluation",
    "model_zoo api predictor export visualization benchmarks studies",
    "cli __main__",
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms.split()}


def module_names():
    """Dotted name below ``sqr`` to path, of every module; a package is named by its folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def own_imports(name, path, modules):
    """``(module, inside a function)`` of every import of the package's own modules in a file."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [p for p in package if p]
    found = []

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom):
                base = child.module.split(".") if child.module else []
                if child.level:
                    base = package[: len(package) - child.level + 1] + base
                elif base[:1] == ["sqr"]:
                    base = base[1:]
                else:
                    continue
                for alias in child.names:
                    longer = ".".join([*base, alias.name])
                    found.append((longer if longer in modules else ".".join(base), inside))
            elif isinstance(child, ast.Import):
                found.extend((a.name.partition(".")[2], inside) for a in child.names if a.name.split(".")[0] == "sqr")
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            visit(child, inside or function)

    visit(ast.parse(path.read_text()), False)
    return found


MODULES = module_names()
IMPORTS = {name: own_imports(name, path, MODULES) for name, path in MODULES.items() if name}


def test_every_room_has_a_floor():
    rooms = {name.partition(".")[0] for name in MODULES if name}
    assert rooms <= FLOOR_OF.keys(), f"give these a floor in FLOORS: {sorted(rooms - FLOOR_OF.keys())}"


def test_no_import_runs_up():
    def floor(name):
        return FLOOR_OF[name.partition(".")[0]]

    up = [f"{a} -> {b}" for a, imports in IMPORTS.items() for b, _ in imports if b and floor(b) > floor(a)]
    assert not up, up


def test_no_import_hides_in_a_function():
    hidden = [f"{a} -> {b}" for a, imports in IMPORTS.items() for b, inside in imports if inside]
    assert not hidden, hidden


def test_no_circle():
    graph = {a: {b for b, _ in imports if b and b != a} for a, imports in IMPORTS.items()}
    # A module in a package also runs the package's __init__, except where that is its own ancestor.
    for a, targets in graph.items():
        for b in tuple(targets):
            parts = b.split(".")
            ancestors = {".".join(parts[:n]) for n in range(1, len(parts))}
            targets |= {p for p in ancestors if p in graph and not a.startswith(f"{p}.") and a != p}
    done, path = set(), []

    def walk(node):
        assert node not in path, " -> ".join([*path[path.index(node) :], node])
        if node in done:
            return
        path.append(node)
        for target in sorted(graph.get(node, ())):
            walk(target)
        done.add(path.pop())

    for node in sorted(graph):
        walk(node)


def test_contributing_shows_the_floors():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d) \| `([^`|]+)`", page, flags=re.MULTILINE)
    assert [tuple(rooms.replace("/", "").split()) for _, rooms in rows] == [tuple(f.split()) for f in FLOORS]


SCRIPTS = [ROOT / "projects" / "SQR" / "train_net.py", *sorted((ROOT / "projects" / "SQR" / "tools").glob("*.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_a_few_lines_over_cli(script):
    tree = ast.parse(script.read_text())
    assert not [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    modules = [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]
    assert modules and all(m.startswith("sqr.cli.") for m in modules)
