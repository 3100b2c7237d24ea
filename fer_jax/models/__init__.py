"""The registry of architectures and what each one promises.

A model is a Linen module called as `module(x, train=...)` on normalised images float [B, H, W, C]; it returns
logits float32 [B, num_outputs]. Parameters and statistics are float32, computation is in `dtype`. Under
`axis_name` (the mesh axis of the step) BatchNorm averages over all devices and dropout draws by the example's
place in the global batch, so that the number of devices changes nothing.
"""

import dataclasses
import difflib
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from fer_jax.errors import UserError
from fer_jax.models.conv_affine import ConvAffine, deep, shallow
from fer_jax.models.mini_xception import MiniXception
from fer_jax.models.vggs import VGGSSmall


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One architecture: how to make it, and what its tests hold it to."""

    make: Callable[..., nn.Module]  # takes num_outputs, dtype, axis_name and the options of `module`
    module: type[nn.Module]
    paper: str
    input_shape: tuple[int, int, int]
    parameters: int  # trainable, for 7 outputs at `input_shape`


MODELS: dict[str, ModelEntry] = {
    "vggs_small": ModelEntry(
        VGGSSmall, VGGSSmall, "Xu et al. (Purdue/HP), small VGG-S, 12.1 MB", (128, 128, 3), 3_026_293
    ),
    "mini_xception": ModelEntry(
        MiniXception,
        MiniXception,
        "Arriaga et al. 2017, section 3; Kaskun et al. (Lviv)",
        (64, 64, 1),
        56_951,
    ),
    "shallow": ModelEntry(
        shallow, ConvAffine, "Alizadeh & Fazel 2017, section 3, shallow model", (48, 48, 1), 18_897_895
    ),
    "deep": ModelEntry(deep, ConvAffine, "Alizadeh & Fazel 2017, section 3, deep model", (48, 48, 1), 4_472_775),
}

_OWN_FIELDS = ("num_outputs", "dtype", "axis_name", "parent", "name")


def options(name: str) -> list[str]:
    """The options that `create` takes for a registered model."""
    fields = dataclasses.fields(MODELS[name].module)
    return [field.name for field in fields if field.name not in _OWN_FIELDS]


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
        near = difflib.get_close_matches(name, MODELS, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown model {name!r}.{meant} Known: {', '.join(MODELS)}")
    if unknown := set(model_options) - set(options(name)):
        raise UserError(f"{name} has no options {sorted(unknown)}; it has: {', '.join(options(name))}")
    return MODELS[name].make(num_outputs=num_outputs, dtype=dtype, axis_name=axis_name, **model_options)
