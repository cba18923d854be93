"""Check that a missing package or tool skips the tests that need it, not the module with all others."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
WHOLE_MODULES = {
    "engines/test_onnx_engine.py": "each test exports to ONNX",
    "exporters/test_onnx_graph.py": "each test exports to ONNX",
    "exporters/test_tensorrt_rtx.py": "each test builds for TensorRT",
    "kernels/test_gpu.py": "each test runs on a GPU",
    "kernels/test_gpu_warp.py": "each test runs on a GPU",
    "synthetic/test_irises.py": "each test poses the head of anny",
    "synthetic/test_motion.py": "each test moves the head of anny",
    "synthetic/test_synthetic_landmarks.py": "each test has landmarks of the head of anny",
    "web/test_web_page.py": "each test opens a page of the server",
    "web/test_web_server.py": "each test asks the server",
}
"""Module -> why all of its tests need what it is skipped without."""


def calls_outside_functions(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from calls_outside_functions(child)


def skips_module(path: Path) -> bool:
    """Return whether a test module may be skipped as a whole when it is imported."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    names = {ast.unparse(call.func).rpartition(".")[2] for call in calls_outside_functions(module)}
    return bool(names & {"importorskip", "skip"})


def test_modules_skipped_as_a_whole_are_those_listed() -> None:
    modules = sorted(TESTS.rglob("test_*.py"))
    assert len(modules) > 200
    assert {path.relative_to(TESTS).as_posix() for path in modules if skips_module(path)} == set(
        WHOLE_MODULES
    )
