"""The graph of an exported ONNX file, which must not depend on the machine that exports it."""

from pathlib import Path

import pytest
from talkinghead_kernels import packed_conv

from talkinghead.exporters.onnx import write_onnx
from talkinghead.model import Person

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("supported", [True, False])
def test_fp16_transposed_convolutions_read_fp16_weights(
    supported: bool, people: dict[str, Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_conv, "_onednn_supports", lambda dtype: supported)
    path = tmp_path / "person.onnx"
    write_onnx(people["feed-forward"], path, precision="fp16", batch=2)
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "ConvTranspose"]
    assert convolutions
    assert {weights.get(node.input[1]) for node in convolutions} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
@pytest.mark.parametrize("who", ["feed-forward", "fine-tuned"])
def test_onnx_names_number_of_rows(who: str, people: dict[str, Person], tmp_path: Path) -> None:
    path = tmp_path / "person.onnx"
    write_onnx(people[who], path)
    graph = onnx.load(path).graph
    rows = {value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)}
    assert rows == {"N"}
    symbols = {size.dim_param for value in graph.value_info for size in value.type.tensor_type.shape.dim} - {
        ""
    }
    assert not any(symbol.startswith("s") for symbol in symbols), symbols
