"""The packages form a column: each imports only from those above it, and no module imports itself by way of others."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import discrete_distribution_network

ROOT = Path(discrete_distribution_network.__file__).parent
NAME = ROOT.name

COLUMN = [
    "errors", "random_state", "signals", "io", "model", "data", "guidance", "prior", "ddn", "conditioning", "viz",
    "evaluation", "training", "codec", "export", "demo", "cli",
]  # fmt: skip
"""From the top down."""

APART = {"", "_lazy", "_moved", "_renamed", "__main__"}
"""The package itself, which hands on names of all others when they are asked for, and what starts it."""

MOST_LINES, MOST_OF_CLASS, MOST_OF_FUNCTION = 450, 300, 60
"""Lines of a file, and lines of code of a class and of a function, without docstrings and comments."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.Module, everywhere: bool) -> set[str]:
    """The package's modules that a module imports: when it is imported itself, or also inside functions."""
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not everywhere:
                continue
            if for_type_checkers(child):
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == NAME:
                module = (child.module or "").partition(".")[2]
                for one in child.names:
                    inner = f"{module}.{one.name}".lstrip(".")
                    found.add(inner if inner in TREES else module)
            look(child)

    look(tree)
    return found


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def package_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", [name for name in TREES if package_of(name) not in APART])
def test_each_package_imports_only_from_those_above_it(module):
    place = COLUMN.index(package_of(module))
    # an import inside a function is allowed for what must not be loaded at once, but in the same order
    below = {
        other
        for other in imported(TREES[module], True)
        if other not in APART and COLUMN.index(package_of(other)) > place
    }
    assert below == set()


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: imported(tree, False) - {module} for module, tree in TREES.items() if module not in APART}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_nothing_is_imported_for_a_type_checker_alone():
    """Which would hide a circle; packages whose names are imported when first used may, and `ddn` for its `Trainer`."""
    hidden = {module for module, tree in TREES.items() for node in ast.walk(tree) if for_type_checkers(node)}
    lazy = {module for module, tree in TREES.items() if "_lazy" in imported(tree, False)}
    assert hidden <= lazy | {"ddn"}


def lines_of_code(node: ast.AST) -> int:
    """Lines with code; docstrings, comments and empty lines are none."""
    texts = {
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant) and isinstance(inner.value.value, str)
    }
    skipped = {line for text in texts for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    return len({line for inner in ast.walk(node) if hasattr(inner, "lineno") for line in _own(inner)} - skipped)


def _own(node: ast.AST) -> range | set[int]:
    if isinstance(node, ast.stmt) and hasattr(node, "body"):
        return {node.lineno}
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]


def test_functions_and_classes_are_of_one_screen():
    long = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            most = MOST_OF_CLASS if isinstance(node, ast.ClassDef) else MOST_OF_FUNCTION
            if lines_of_code(node) > most:
                long.append(f"{module}.{node.name}: {lines_of_code(node)}")
    assert long == []


def test_files_are_short():
    long = {module_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {module: lines for module, lines in long.items() if lines > MOST_LINES} == {}
