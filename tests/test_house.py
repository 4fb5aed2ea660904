"""The structure of the code: no import cycles, each module in a layer, and nothing too long to read."""

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

COVERED_BY = {
    "tests/fedsim/cli/test_main.py": "fedsim/__main__ fedsim/cli/app",
    "tests/fedsim/data/test_datasets.py": "fedsim/data/named",
    "tests/fedsim/data/test_faces.py": "fedsim/data/images",
    "tests/fedsim/data/test_listing.py": "fedsim/data/folder_config",
    "tests/fedsim/deploy/test_server.py": "fedsim/deploy/client fedsim/deploy/nodes",
    "tests/fedsim/deploy/test_write.py": "fedsim/cli/flower_app fedsim/deploy/settings",
    "tests/fedsim/engine/test_base.py": "fedsim/engine/forks fedsim/runs/state",
    "tests/fedsim/engine/test_ray_process.py": "fedsim/engine/ray_metrics",
    "tests/fedsim/federated/test_exchange.py": "fedsim/training/queries",
    "tests/fedsim/federated/test_registry.py": "fedsim/federated/client",
    "tests/fedsim/privacy/test_central.py": "fedsim/privacy/config",
    "tests/fedsim/report/test_html.py": "fedsim/report/clients",
    "tests/fedsim/runs/test_personalize.py": "fedsim/training/adapt",
    "tests/fedsim/runs/test_plan.py": "fedsim/report/plan",
    "tests/fedsim/runs/test_reserve.py": "fedsim/runs/new_folder",
    "tests/fedsim/runs/test_staging.py": "fedsim/report/continual",
    "tests/fedsim/runs/test_stopping.py": "fedsim/runs/validation",
    "tests/fedsim/runs/test_sweep.py": "fedsim/runs/pack",
    "tests/fedsim/report/test_show.py": "fedsim/cli/show",
    "tests/fedsim/privacy/test_show.py": "fedsim/cli/privacy",
    "tests/fedsim/test_regression.py": "fedsim/runs/simulation",
    "tests/fedsim/trackers/test_base.py": (
        "fedsim/runs/observers fedsim/trackers/mlflow fedsim/trackers/tensorboard fedsim/trackers/wandb"
    ),
    "tests/docs/test_forgetting.py": "unlearning/evaluation/catalogue",
    "tests/unlearning/pipeline/test_attribute.py": "fedsim/cli/attribute unlearning/pipeline/attribution_page",
    "tests/unlearning/pipeline/test_deletion.py": "fedsim/cli/receipts",
    "tests/unlearning/pipeline/test_measure.py": "unlearning/evaluation/model_facts unlearning/evaluation/report",
    "tests/unlearning/pipeline/test_members.py": "fedsim/training/joint",
    "tests/unlearning/pipeline/test_prune.py": "unlearning/pipeline/prune_plot",
    "tests/unlearning/pipeline/test_runner.py": (
        "fedsim/cli/unlearn unlearning/pipeline/comparison unlearning/pipeline/contest unlearning/pipeline/outcome "
        "unlearning/pipeline/page unlearning/pipeline/table"
    ),
    "tests/unlearning/pipeline/test_undo.py": "fedsim/cli/undo",
}
"""Tests of several modules at once: they go through what these modules work for, a command or a whole run."""


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
    layers = {
        name.strip() for layer in contract["contracts"][0]["layers"] for name in layer.replace(":", "|").split("|")
    }
    loose = [
        module
        for module in imports.modules
        if module.startswith("fedsim.")
        and not imports.find_children(module)
        and not any(module == name or module.startswith(f"{name}.") for name in layers)
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


def _test_of(path: Path) -> Path:
    """Return where one looks for the tests of a module."""
    return ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.stem.strip('_')}.py"


def _has_functions(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))


def test_every_module_has_its_tests_where_one_looks_for_them() -> None:
    """Modules of types and constants alone need none; one that is tested with others says where."""
    covered = {ROOT / f"{name}.py" for names in COVERED_BY.values() for name in names.split()}
    bare = {
        path
        for path in SOURCES
        if path.name != "__init__.py" and not _test_of(path).exists() and (path in covered or _has_functions(path))
    }
    assert bare - covered == set(), "no tests of that name in the mirrored folder"
    assert covered - bare == set(), "has tests of its own now, or is gone: take it off the list"
    assert [test for test in COVERED_BY if not (ROOT / test).exists()] == []
