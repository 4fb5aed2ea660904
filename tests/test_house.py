"""How the house is built: no circles between modules, each module in a room, and nothing too long to read."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsim", "strategies", "unlearning")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILE_LINES, FUNCTION_LINES, CLASS_LINES = 400, 50, 250


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)  # typing-only imports are in it


def test_no_module_takes_part_in_a_circle(imports: grimp.ImportGraph) -> None:
    graph = networkx.DiGraph()
    graph.add_edges_from(
        (module, other) for module in imports.modules for other in imports.find_modules_directly_imported_by(module)
    )
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_every_module_of_the_simulator_is_in_a_layer(imports: grimp.ImportGraph) -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    rooms = {
        room.strip() for layer in contract["contracts"][0]["layers"] for room in layer.replace(":", "|").split("|")
    }
    loose = [
        module
        for module in imports.modules
        if module.startswith("fedsim.")
        and not imports.find_children(module)
        and not any(module == room or module.startswith(f"{room}.") for room in rooms)
    ]
    assert sorted(loose) == [], "name its layer in pyproject.toml"


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function below its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def _too_long(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if (lines := len(text.splitlines())) > FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := _lines(node)) > FUNCTION_LINES:
            yield f"{node.name}: {lines} lines"
        if isinstance(node, ast.ClassDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > CLASS_LINES:
            yield f"class {node.name}: {lines} lines"


def test_nothing_is_too_long_to_read() -> None:
    long = {str(path.relative_to(ROOT)): found for path in SOURCES if (found := list(_too_long(path)))}
    assert long == {}


def _definitions(kind: type[ast.ClassDef] | type[ast.FunctionDef]) -> dict[str, list[str]]:
    """Return where each name is defined, in classes and functions too."""
    found = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_no_two_classes_have_one_name() -> None:
    assert {name: places for name, places in _definitions(ast.ClassDef).items() if len(places) > 1} == {}


def test_no_two_functions_are_called_prepare() -> None:
    assert len(_definitions(ast.FunctionDef)["prepare"]) < 2, "say what is prepared"
