"""ONNX: a traced function of images as an ONNX model by jax2onnx, its 8-bit form, and asking it by onnxruntime.

jax2onnx 0.17 needs help, each tried: it knows no `lax.platform_dependent`, pools what onnxruntime cannot or ignores the
padding, and lacks padding and remainders for any number of images. So the function is traced first without it, its
JAX program is made plainer (`_simplified`), and the operations it gets wrong are lowered here (`_Pool`, ...).
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fer_jax.errors import UserError

EXTRA = "ONNX needs jax2onnx, onnx and onnxruntime: pip install 'fer_jax[export]', best in an environment of its own"
_CALIBRATION_BATCH = 32
_QUANTIZED = ("Conv", "Gemm", "MatMul")


def program(answer: Callable, spec: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> bytes:
    """The function of images as a serialized ONNX model with the input `images`.

    Args:
      answer: a jittable function of one array to a tuple of arrays.
      spec: of its argument; the batch may be symbolic.
      names: of its results.

    Raises:
      UserError: jax2onnx is not installed, or cannot express it.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(EXTRA) from error
    traced = jax.make_jaxpr(answer)(spec)
    # A remark on each scalar whose type is not known.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        with _own_lowerings():
            model = jax2onnx.to_onnx(
                lambda images: tuple(_simplified(traced, images)),
                [spec],
                input_names=["images"],
                output_names=list(names),
            )
    except Exception as error:  # jax2onnx raises whatever its plugins meet
        raise UserError(f"jax2onnx cannot express this network: {_first_line(error)}") from error
    _drop_scalar_biases(model.graph)
    return model.SerializeToString()


def _drop_scalar_biases(graph) -> None:
    """Takes away the zero that jax2onnx adds to every product: float32 in a float16 model, and no bias to quantize."""
    from onnx import numpy_helper

    zeros = {tensor.name for tensor in graph.initializer if not tensor.dims and not numpy_helper.to_array(tensor)}
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[2:] and node.input[2] in zeros:
            del node.input[2]
    used = {name for node in graph.node for name in node.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in used:
            del graph.initializer[place]


def _simplified(program: ClosedJaxpr, *arguments: jax.Array) -> list[jax.Array]:
    """Runs a JAX program again, plainer: XLA's own forms of fer_jax.ops, calls inlined, constants computed now."""
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))

    def read(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs, options = [read(variable) for variable in equation.invars], equation.params
        name = equation.primitive.name
        if name == "platform_index":
            results = [options["platforms"].index(None)]
        elif name == "cond" and not isinstance(inputs[0], jax.core.Tracer):
            results = _simplified(options["branches"][int(inputs[0])], *inputs[1:])
        elif name in ("jit", "pjit"):
            results = _simplified(options["jaxpr"], *inputs)
        elif name in ("custom_jvp_call", "custom_vjp_call"):
            results = _simplified(options["call_jaxpr"], *inputs)
        else:
            sizes = [size for variable in equation.outvars for size in variable.aval.shape]
            known = not any(isinstance(value, jax.core.Tracer) for value in inputs)
            known = known and all(isinstance(size, int) for size in sizes)
            with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
                results = equation.primitive.bind(*inputs, **options)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


@contextlib.contextmanager
def _own_lowerings() -> Iterator[None]:
    """In here jax2onnx uses the lowerings of this module."""
    from jax2onnx.plugins import plugin_system

    plugin_system.import_all_plugins()
    own = {"reduce_window_max": _Pool, "reduce_window_sum": _Pool, "pad": _Pad, "rem": _Remainder}
    plugins = {name: type(kind.__name__, (kind, plugin_system.PrimitiveLeafPlugin), {})() for name, kind in own.items()}
    with mock.patch.dict(plugin_system.PLUGIN_REGISTRY, plugins):
        yield


class _Pool:
    """Maxima and sums over windows of at most n - 2 of the n axes, as MaxPool and AveragePool."""

    def lower(self, context, equation):
        build, options = context.builder, equation.params
        (x,), (y,) = equation.invars, equation.outvars
        window, padding = options["window_dimensions"], options["padding"]
        # ONNX pools all axes after the first two.
        whole = [axis for axis, size in enumerate(window) if size == 1][:2]
        if len(whole) < 2 or {*options["base_dilation"], *options["window_dilation"]} != {1}:
            raise ValueError("ONNX has no pooling over all axes or with dilation")
        pooled = [axis for axis in range(len(window)) if axis not in whole]
        order = [*whole, *pooled]
        attributes = {
            "kernel_shape": [int(window[axis]) for axis in pooled],
            "strides": [int(options["window_strides"][axis]) for axis in pooled],
            "pads": [int(padding[axis][end]) for end in (0, 1) for axis in pooled],
        }
        value = context.get_value_for_var(x)
        kind = value.type
        value = _typed(build.Transpose(value, perm=order), kind, [x.aval.shape[axis] for axis in order])
        shape = [y.aval.shape[axis] for axis in order]
        if equation.primitive.name == "reduce_window_max":
            value = _typed(build.MaxPool(value, **attributes), kind, shape)
        else:
            value = _typed(build.AveragePool(value, count_include_pad=1, **attributes), kind, shape)
            count = np.asarray(np.prod(window), y.aval.dtype)
            count = build.add_initializer_from_array(context.fresh_name("window"), count)
            value = _typed(build.Mul(value, count), kind, shape)
        value = build.Transpose(value, perm=[int(place) for place in np.argsort(order)])
        context.bind_value_for_var(y, _typed(value, kind, y.aval.shape))


class _Pad:
    """Values put around, none between."""

    def lower(self, context, equation):
        build, sides = context.builder, equation.params["padding_config"]
        (x, fill), (y,) = equation.invars, equation.outvars
        if any(between for _, _, between in sides):
            raise ValueError("ONNX has no padding between values")
        pads = np.array([side[end] for end in (0, 1) for side in sides], np.int64)
        pads = build.add_initializer_from_array(context.fresh_name("pads"), pads)
        value = context.get_value_for_var(x)
        padded = build.Pad(value, pads, context.get_value_for_var(fill), mode="constant")
        context.bind_value_for_var(y, _typed(padded, value.type, y.aval.shape))


class _Remainder:
    """What is left of a division, with the sign of the dividend."""

    def lower(self, context, equation):
        (a, b), (y,) = map(context.get_value_for_var, equation.invars), equation.outvars
        context.bind_value_for_var(y, _typed(context.builder.Mod(a, b, fmod=1), a.type, y.aval.shape))


def _typed(value, kind, shape):
    import onnx_ir

    value.type, value.shape = kind, onnx_ir.Shape([size if isinstance(size, int) else str(size) for size in shape])
    return value


def with_metadata(model: bytes, metadata: dict) -> bytes:
    """The model with its metadata, as JSON in the property `fer_jax`."""
    import onnx

    loaded = onnx.load_from_string(model)
    onnx.helper.set_model_props(loaded, {"fer_jax": json.dumps(metadata)})
    loaded.producer_name, loaded.doc_string = "fer_jax", f"facial expression: {', '.join(metadata['emotions'])}"
    return loaded.SerializeToString()


def quantized(model: bytes, images: np.ndarray) -> bytes:
    """The model with convolutions and products of 8-bit numbers (int8 weights a channel, uint8 activations).

    Static quantization in the QDQ form of `onnxruntime.quantization`; the ranges of the activations are the least and
    greatest values on `images`, uint8 [n, H, W, C].
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.starts = iter(range(0, len(images), _CALIBRATION_BATCH))

        def get_next(self):
            start = next(self.starts, None)
            return None if start is None else {"images": images[start : start + _CALIBRATION_BATCH]}

    with tempfile.TemporaryDirectory() as folder:
        whole, fused, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "fused", "small"))
        whole.write_bytes(model)
        quant_pre_process(whole, fused, skip_symbolic_shape=True)
        quantization.quantize_static(
            fused,
            small,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return small.read_bytes()


def load(path: Path) -> tuple[Callable[[np.ndarray], list[np.ndarray]], dict]:
    """(uint8 images -> [probabilities, intensities], metadata) of a file, run by onnxruntime on the CPU.

    Raises:
      UserError: onnxruntime is not installed, or the file is damaged or none of ours.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(EXTRA) from error
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        raise UserError(f"{path} cannot be opened by onnxruntime: {_first_line(error)}") from error
    try:
        metadata = json.loads(session.get_modelmeta().custom_metadata_map["fer_jax"])
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not an ONNX file of fer_jax: it has no metadata `fer_jax`") from error
    return lambda images: session.run(["probabilities", "intensities"], {"images": images}), metadata


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
