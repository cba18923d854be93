"""Rules for ONNX graphs that run by WebGPU in onnxruntime-web."""

from pathlib import Path

WEBGPU_OPERATORS = {
    *("Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Equal", "Erf", "Exp"),
    *("Expand", "Gather", "Gemm", "GlobalAveragePool", "LayerNormalization", "MatMul", "MaxPool", "Mul"),
    *("Neg", "Pad", "Pow", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape"),
    *("Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
    *("DepthToSpace", "InstanceNormalization"),
}
"""Operators of opset 20 that onnxruntime-web computes by WebGPU, of its list of them."""
MAX_STORAGE_BUFFERS = 8
"""Inputs and outputs of a node that every GPU of a browser takes."""


def check_webgpu_graph(path: Path) -> None:
    """Check that WebGPU has all operators of a graph, and buffers for each of its nodes."""
    import onnx

    graph = onnx.load(path).graph
    nodes = [node for node in graph.node if node.op_type != "Constant"]  # becomes an initializer
    assert {node.op_type for node in nodes} <= WEBGPU_OPERATORS
    constants = {tensor.name for tensor in graph.initializer}
    for node in nodes:
        if not set(node.input) <= constants:  # others are computed once, when the file is opened
            assert len({*node.input, *node.output}) <= MAX_STORAGE_BUFFERS, node.op_type
