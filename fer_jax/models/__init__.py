"""The registry of architectures and what each one promises.

A model is a Linen module called as `module(x, train=...)` on normalised images float [B, H, W, C]; it returns
logits float32 [B, num_outputs]. Parameters and statistics are float32, computation is in `dtype`. Under
`axis_name` (the mesh axis of the step) BatchNorm averages over all devices and dropout draws by the example's
place in the global batch, so that the number of devices changes nothing.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.errors import UserError, unknown
from fer_jax.models import conv_affine
from fer_jax.models.classic import L2SVM, VGG16, AlexNet, DeepEmotion
from fer_jax.models.fcn import FullyConvolutional
from fer_jax.models.inception import InceptionV3, Xception
from fer_jax.models.layers import Net
from fer_jax.models.mini_xception import MiniXception
from fer_jax.models.resnet import ResNet18
from fer_jax.models.vggs import VGGS, VGGSSmall


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One architecture: how to make it, and what its tests hold it to."""

    make: Callable[..., Net]  # a module, or a `functools.partial` of one
    paper: str
    input_shape: tuple[int, int, int]
    parameters: int  # trainable, for 7 outputs at `input_shape`

    @property
    def module(self) -> type[Net]:
        return getattr(self.make, "func", self.make)


_XU = "Xu et al. (Purdue/HP)"
_KASKUN = "Kaskun et al. (Lviv), section 3"
_DIKSHIT = "Dikshit et al. (CMU), section 4"
_STANFORD = "Alizadeh & Fazel (Stanford), section 3"
_COMPARED = "for comparison"
_GREY, _RGB = (48, 48, 1), (224, 224, 3)

MODELS: dict[str, ModelEntry] = {
    "vggs": ModelEntry(VGGS, f"{_XU}; Chatfield et al. 2014, table 1, CNN-S", _RGB, 98_840_199),
    "vggs_small": ModelEntry(VGGSSmall, f"{_XU}: 12.1 MB", (128, 128, 3), 3_026_293),
    "shallow": ModelEntry(conv_affine.shallow, _STANFORD, _GREY, 18_897_895),
    "deep": ModelEntry(conv_affine.deep, _STANFORD, _GREY, 4_472_775),
    "deep5": ModelEntry(conv_affine.deep5, _STANFORD, _GREY, 6_833_095),
    "deep6": ModelEntry(conv_affine.deep6, _STANFORD, _GREY, 9_193_415),
    "shallow_hog": ModelEntry(conv_affine.shallow_hog, f"{_STANFORD}: hybrid", _GREY, 19_307_495),
    "deep_hog": ModelEntry(conv_affine.deep_hog, f"{_STANFORD}: hybrid", _GREY, 4_677_575),
    "fcn_gap": ModelEntry(FullyConvolutional, _KASKUN, _GREY, 628_151),
    "mini_xception": ModelEntry(MiniXception, f"{_KASKUN}; Arriaga et al. 2017, section 3", _GREY, 56_951),
    "baseline5": ModelEntry(conv_affine.baseline5, _DIKSHIT, _RGB, 480_423),
    "resnet18": ModelEntry(ResNet18, f"{_DIKSHIT}; He et al. 2016, table 1", _RGB, 11_180_103),
    "l2svm": ModelEntry(L2SVM, f"{_COMPARED}: Tang 2013, section 3.1", (42, 42, 1), 5_008_295),
    "alexnet": ModelEntry(AlexNet, f"{_COMPARED}: Krizhevsky 2014", _RGB, 57_032_519),
    "vgg8": ModelEntry(conv_affine.vgg8, f"{_COMPARED}: Khaireddin & Chen 2021", _GREY, 40_374_599),
    "vgg16": ModelEntry(VGG16, f"{_COMPARED}: Simonyan & Zisserman 2015, table 1", _RGB, 134_289_223),
    "inception_v3": ModelEntry(InceptionV3, f"{_COMPARED}: Szegedy et al. 2016, table 1", (299, 299, 3), 21_799_911),
    "xception": ModelEntry(Xception, f"{_COMPARED}: Chollet 2017, figure 5", (299, 299, 3), 20_821_295),
    "deep_emotion": ModelEntry(DeepEmotion, f"{_COMPARED}: Minaee & Abdolrashidi 2019, figure 2", _GREY, 66_877),
}


def options(name: str) -> list[str]:
    """The options that `create` takes for a registered model."""
    every = {field.name for field in dataclasses.fields(Net)}
    return [field.name for field in dataclasses.fields(MODELS[name].module) if field.name not in every]


def compute_dtype(name: str) -> jnp.dtype:
    """The type to compute in: `float32`, `bfloat16`, or `auto`: bfloat16 on accelerators that have units for it.

    Nvidia's have them since Ampere, compute capability 8: a T4 computes in float32.
    """
    if name == "auto":
        device = jax.local_devices()[0]
        capability = getattr(device, "compute_capability", "")  # AMD's is a name, e.g. gfx942
        old = capability[:1].isdigit() and float(capability) < 8
        name = "float32" if device.platform == "cpu" or old else "bfloat16"
    return jnp.dtype(name)


def create(
    name: str,
    *,
    num_outputs: int,
    dtype: jnp.dtype = jnp.float32,
    axis_name: str | None = None,
    **model_options,
) -> nn.Module:
    """The model registered under `name`.

    Raises:
      UserError: unknown name or option; lists the right ones.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if strange := set(model_options) - set(options(name)):
        raise UserError(
            f"{name} has no options {sorted(strange)}; it has: {', '.join(options(name)) or 'none'}. To start from its "
            f'defaults: --config.model.options="{{}}"'
        )
    return MODELS[name].make(num_outputs=num_outputs, dtype=dtype, axis_name=axis_name, **model_options)


def variable_shapes(module: nn.Module, input_shape: tuple[int, int, int]) -> dict:
    """The variables of a model for images [h, w, c] as `jax.ShapeDtypeStruct`s; nothing is computed or compiled.

    Raises:
      ValueError: the images are too small, or an option has an impossible value.
      TypeError: an option is of another type.
    """
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    except ZeroDivisionError:  # of some releases of Flax, where others make a layer without inputs
        shapes = None
    if shapes is None or any(0 in leaf.shape for leaf in jax.tree.leaves(shapes)):
        raise ValueError(f"images of {input_shape} are too small, or an option is 0: a layer is left without inputs")
    return shapes


def forward_flops(module: Net, input_shape: tuple[int, int, int]) -> float:
    """Operations of one face's forward pass, a multiplication and an addition being two.

    Counted by XLA on the program of a GPU in float32, before optimisation, so the same number everywhere. Only XLA for
    CPUs counts, the plugins of accelerators do not.

    Raises:
      UserError: JAX has been told to do without CPUs.
    """
    image, module = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32), module.clone(dtype=jnp.float32)
    variables = variable_shapes(module, input_shape)
    try:
        (cpu, *_) = jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise UserError("FLOPs are counted by XLA for CPUs: name them in JAX_PLATFORMS too, e.g. cuda,cpu") from error
    with jax.default_device(cpu):
        traced = jax.jit(lambda variables, x: module.apply(variables, x, train=False)).trace(variables, image)
        return traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]
