"""Names that must hold: of weights, from person to person, for a refit; of TensorRT's functions, for us."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SMALL_NETWORKS
from support.fake_tensorrt import person_of
from talkinghead.config import Config
from talkinghead.engines import tensorrt_api, tensorrt_engine
from talkinghead.exporters import tensorrt
from talkinghead.exporters.frame_module import FrameModule
from talkinghead.exporters.onnx import write_onnx
from talkinghead.model import Person, random_model


@pytest.fixture
def onnx() -> Any:
    """Import the package that reads graphs; skip without it or what writes them."""
    pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX, is not installed")
    return pytest.importorskip("onnx", reason="onnx is not installed")


def graph_of(onnx: Any, path: Path) -> tuple[dict[str, Any], list[Any]]:
    graph = onnx.load(path).graph
    weights = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    return weights, [(node.op_type, list(node.input), list(node.output)) for node in graph.node]


@pytest.mark.slow
def test_weight_names_are_same_for_persons(onnx: Any, tmp_path: Path) -> None:
    model = random_model(Config("tiny", SMALL_NETWORKS))
    paths = [tmp_path / "anna.onnx", tmp_path / "berta.onnx"]
    persons = [person_of(model, seed) for seed in (1, 2)]
    for person, path in zip(persons, paths, strict=True):
        write_onnx(person, path, "fp16", 1, input="image")
    (weights, nodes), (others, other_nodes) = (graph_of(onnx, path) for path in paths)
    assert nodes == other_nodes
    assert {name: (value.shape, value.dtype) for name, value in weights.items()} == {
        name: (value.shape, value.dtype) for name, value in others.items()
    }
    differ = {name for name, value in weights.items() if not np.array_equal(value, others[name])}
    held = sum(value.size for name, value in weights.items() if name in differ)
    generator = numbers_of(persons[0])
    assert held == generator  # every number of the person's is a weight that a refit reaches, once
    # a refit puts weights where tensors have names: none may be hidden in a node
    assert not [node for node in onnx.load(paths[0]).graph.node if node.op_type == "Constant"]


def numbers_of(person: Person) -> int:
    """Return how many numbers of a person an engine holds."""
    network = FrameModule(person, "fp16", "image", "uint8")
    return sum(value.numel() for value in network.state_dict().values())


OBJECTS = {
    "trt": "",
    "logger_class": "ILogger",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "settings": "IRuntimeConfig",
    "cache": "IRuntimeCache",
    "refitter": "Refitter",
    "onnx_refitter": "OnnxParserRefitter",
    "contents": "ISerializationConfig",
    "get_timing_cache": "ITimingCache",
    "get_error": "ParserError",
}
"""Name in our source -> what it is in TensorRT; empty for the package itself."""
"""Types in the bindings of our variables and of the results of such calls."""


def used_names() -> dict[str, set[str]]:
    """Return the attributes of the bindings that our source uses, by the variable's name."""
    names: dict[str, set[str]] = {name: set() for name in OBJECTS}
    for module in (tensorrt_engine, tensorrt, tensorrt_api):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(node, ast.Attribute):
                place = ast.unparse(node.value).removeprefix("self._")
                root, _, rest = place.partition(".")  # trt.BuilderFlag of trt.BuilderFlag.REFIT
                if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
                    root, rest = node.value.func.attr, ""
                if root in names and (root == "trt" or not rest):
                    names[root].add(f"{rest}.{node.attr}" if rest else node.attr)
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
                and isinstance(node.args[1], ast.Constant)
            ):
                place, name = ast.unparse(node.args[0]), str(node.args[1].value)
                root, _, rest = place.partition(".")
                if root in names:
                    names[root].add(f"{rest}.{name}" if rest else name)
    return names


def test_used_tensorrt_names_exist() -> None:
    trt: Any = pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt-rtx, whose names are looked up, is not installed"
    )
    names = used_names()
    assert {name for name, attributes in names.items() if not attributes} == set()
    assert {"BuilderFlag.REFIT", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"} <= names["trt"]
    assert {"execute_async_v3", "set_input_shape", "set_tensor_address", "is_stream_capturable"} <= names[
        "context"
    ]
    for name, attributes in names.items():
        for attribute in attributes - {"__name__", "__version__"}:
            place = getattr(trt, OBJECTS[name]) if OBJECTS[name] else trt
            for part in attribute.split("."):
                assert hasattr(place, part), f"{name}.{attribute} is not in tensorrt_rtx {trt.__version__}"
                place = getattr(place, part)
