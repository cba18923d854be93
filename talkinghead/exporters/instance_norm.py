"""Rewriting of the norms of an ONNX graph as instance norms, which take one pass where they took three.

torch exports AdaIN as a layer norm of each plane, a product and a sum, which is right for any batch and
precision. InstanceNormalization has one scale and shift for all rows: it is for engines of one row.
"""

from typing import Any

from ..errors import require


def merge_instance_norms(model: Any) -> int:
    """Replace the norms of an onnx_ir model for one row by InstanceNormalization, in place.

    Returns:
        How many were replaced.

    Raises:
        TalkingheadError: onnxscript is not installed.
    """
    pattern: Any = require("onnxscript.rewriter.pattern", "onnx")

    def norm(op: Any, x: Any, planes: Any, ones: Any, shape: Any, scale: Any, bias: Any) -> Any:
        normal = op.LayerNormalization(op.Reshape(x, planes), ones, _outputs=["normal"])
        return op.Add(op.Mul(op.Reshape(normal, shape), scale), bias)

    def instance_norm(op: Any, x: Any, scale: Any, bias: Any, normal: Any, **_: Any) -> Any:
        flat = op.Constant(value_ints=[-1])
        epsilon = normal.producer().attributes["epsilon"]
        return op.InstanceNormalization(x, op.Reshape(scale, flat), op.Reshape(bias, flat), epsilon=epsilon)

    return int(pattern.RewriteRuleSet([pattern.RewriteRule(norm, instance_norm)]).apply_to_model(model))
