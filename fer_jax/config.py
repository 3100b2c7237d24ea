"""The fields of a run's configuration, each with its unit and its default. Imports no JAX.

A file in `configs/` starts from `default_config()`, changes what its paper says, and returns the locked
result from `get_config`. Any field can be overridden on the command line: `--config.optim.learning_rate=0.01`.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fer_jax.errors import UserError, unknown

CLASS_WEIGHTS = ("none", "inverse", "effective")  # see fer_jax/heads.py
NORMALIZATIONS = ("unit", "symmetric", "per_channel", "mean_image", "per_image")  # see fer_jax/data/normalization.py
RATES = ("dropout", "conv_dropout")  # options of models: of dropout, one for all layers or a tuple with one for each


def default_config() -> ConfigDict:
    """Every field there is; unlocked, for a config file to fill in and `lock()`."""
    return ConfigDict(
        {
            "seed": 0,  # initialisation, data order, augmentation and dropout all derive from it
            "data": {
                "name": "synthetic",  # see `python -m fer_jax.data.prepare --help`
                "variant": "",  # of the data set, e.g. majority | soft | fer2013 of ferplus; '' = its default
                "residence": "auto",  # auto | device (whole split in device memory) | stream (Grain, prefetched)
                # unit: 0..1; symmetric: -1..1; per_channel: mean 0 and deviation 1 over the training split;
                # mean_image: the training split's mean image subtracted, then divided by 255;
                # per_image: mean 0 and deviation 1 over each image
                "normalization": "unit",
                "sampling": "uniform",  # uniform | balanced (each class as often as the others)
                "emotions": (),  # only these, e.g. ("happy", "sad", "neutral"); () = all
                # Cross-validation: this many folds, of which number `fold` is the validation split and the others are
                # for training; 0 = the data set's own splits
                "folds": 0,
                "fold": 0,
                # How folds are formed: by subject (of all splits, none in two folds), or by image (of the training
                # split, for data without subject identities; the other splits are left out)
                "fold_by": "subject",
                # At most this many training images, class proportions kept; 0 = all. Before they are divided into
                # folds, whose held-out images are then fewer too
                "limit": 0,
                # Photographs are aligned first, as fer_jax.data.align does: none (the face's box alone) | rotation |
                # landmarks; '' = taken as they are
                "align": "",
                # Several data sets joined under `name`: parts such as {"name": "kdef", "variant": "straight"}, see
                # fer_jax/data/combine.py; () = the data set `name`
                "train": (),
                "validation": (),
                "test": (),
                "exclude": "",  # a list of `python -m fer_jax.data.audit --write-clean`: left out of training
                "workers": 0,  # Grain worker processes when streaming, of use where records are decoded; 0 = threads
            },
            "model": {
                "name": "vggs_small",  # a key of fer_jax.models.MODELS
                "input_shape": (128, 128, 3),  # images are resized and converted grey <-> RGB on the device
                "options": {},  # of the model, e.g. dropout
                # Initial weights, with the input normalisation they were trained with: a run, a file written by
                # fer_jax.convert, or the name of bundled weights; '' = random
                "pretrained": "",
                "dtype": "auto",  # of computation: float32 | bfloat16 | auto (bfloat16 on accelerators made for it)
            },
            "head": {
                "name": "classification",  # classification | intensity (sigmoid cross-entropy, one output per emotion)
                "loss": "softmax",  # of classification: softmax | soft (soft labels, e.g. FER+ votes) | squared_hinge
                "label_share": 0.0,  # of loss soft: weight of the label in the target, the intensities having the rest
                # Of loss soft: trained networks whose mean answer is a part of the target (runs, weights files or names
                # of bundled weights), see fer_jax/distill.py; () = none
                "teachers": (),
                "teacher_share": 0.5,  # of what the label leaves of the target; the intensities have the rest
                "label_smoothing": 0.0,
                "class_weights": "none",  # none | inverse | effective (of the training split's class counts)
                "class_weight_power": 1.0,  # exponent on these weights: 0 = all equal, 1 = unchanged
            },
            "augment": {  # on the device, see fer_jax/augment.py; 0 = none
                "flip": 0.5,  # probability of mirroring
                "shift": 0.1,  # largest shift, as a fraction of the side, borders replicated
                "brightness": 0.2,  # largest relative change of brightness
                "rotate": 0.0,  # largest angle, degrees
                "scale": 0.0,  # largest relative change of size
                "crop": 0.0,  # largest fraction of a side cropped away, before resizing back
                "variant": 0.0,  # one of Xu et al.'s 28: seven brightness levels up to this, times four blurs
                "blur": 0.0,  # probability of a Gaussian, average or median blur, 3x3
                "contrast": 0.0,  # largest relative change of contrast
                "gamma": 0.0,  # largest |u| in x ** (2 ** u)
                "noise": 0.0,  # standard deviation of Gaussian noise, grey levels of 0..255
                "erase": 0.0,  # largest share of the image that is filled with noise
                "mixup": 0.0,  # alpha of the Beta distribution of the mixing ratio with another image
                "cutmix": 0.0,  # likewise, of a rectangle from another image
            },
            "optim": {
                "name": "sgd",  # sgd | adam | muon (adam for non-matrix parameters) | rmsprop | adagrad
                "learning_rate": 0.05,  # its peak
                "schedule": "cosine",  # constant | cosine (to 0) | step
                "warmup_epochs": 0.0,
                "decay_epochs": (),  # of schedule step
                "decay_factor": 0.1,
                "momentum": 0.9,  # of sgd and muon
                "nesterov": True,
                "weight_decay": 0.0,  # L2 on kernels: weight_decay/2 * sum(kernel**2) joins the loss
                "decoupled": False,  # True: decoupled from the gradient, as in AdamW
                "clip_norm": 0.0,  # global norm of the gradient; 0 = no clipping
            },
            "train": {
                "batch_size": 64,  # over all devices
                "epochs": 10,
                # Smaller images to train on before those of model.input_shape, for less time: ((10, 32), (5, 48)) are
                # 10 epochs at 32 pixels a side, then 5 at 48. Validated at model.input_shape throughout. For networks
                # without a fixed size; () = none
                "smaller_first": (),
                "ema_decay": 0.0,  # of an exponential moving average of the weights, used for evaluation; 0 = none
                "log_every": 50,  # steps per row of metrics.jsonl
                # The largest fraction of run time that saving checkpoints may take: where epochs are short, not every
                # one is checkpointed, and a kill loses some epochs; 0 = no limit
                "saving_share": 0.1,
                "keep_every": 0,  # keep the weights every so many epochs, for `fer_jax.visualize`; 0 = never
            },
            "eval": {
                "batch_size": 256,
                # Above 0: also scored on all 28 `augment.variants` of each image (Xu et al., table 7), brightness
                # 1 - this .. 1 + this.
                "variants": 0.0,
            },
        }
    )


# What a data set asks of a config, whatever the model.
_DATASET_VARIANTS = {"ferplus": "majority"}


def use_dataset(config: ConfigDict, name: str, **variants: str) -> ConfigDict:
    """The config with its data set replaced, for `--config=configs/mini_xception.py:fer2013`.

    Args:
      variants: of those data sets of which the config takes another than usual, by their names.
    """
    config.data.name = name
    config.data.variant = (_DATASET_VARIANTS | variants).get(name, "")
    return config


def product(**fields: Sequence) -> list[dict]:
    """Every combination of the values of some fields, for `sweep()`; `__` in a name stands for a dot.

    `product(optim__learning_rate=(1e-3, 3e-3), seed=range(3))` are six sets of overrides.
    """
    return _overrides(fields, itertools.product(*fields.values()))


def zipped(**fields: Sequence) -> list[dict]:
    """The first values of some fields together, the second ones, and so on, for `sweep()`; names as of `product`.

    Raises:
      UserError: the fields differ in how many values they have.
    """
    counts = {name.replace("__", "."): len(values) for name, values in fields.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"zipped(...) takes as many values of each field, not {counts}")
    return _overrides(fields, zip(*fields.values(), strict=True))


def _overrides(fields: Iterable[str], choices: Iterable[Sequence]) -> list[dict]:
    names = [name.replace("__", ".") for name in fields]
    return [dict(zip(names, values, strict=True)) for values in choices]


def seeds(count: int) -> list[dict]:
    """Overrides for `count` runs that differ in their seed alone."""
    return [{"seed": seed} for seed in range(count)]


def overridden(config: ConfigDict, overrides: dict) -> ConfigDict:
    """A locked copy of a config with some fields replaced, by their dotted names.

    Raises:
      UserError: there is no such field, or the value is of another type.
    """
    copy = ConfigDict(config.to_dict())
    with copy.unlocked():
        for field, value in overrides.items():
            fields = flatten(copy.to_dict())
            _require(field, fields)
            before = fields.get(field)
            wrong = UserError(f"{field} = {value!r} must be of type {type(before).__name__}, as {before!r} is")
            # ConfigDict would take these.
            if value is None or (isinstance(value, bool) and type(before) in (int, float)):
                raise wrong if before is not None else UserError(f"{field} = {value!r} is no value")
            try:
                copy.update_from_flattened_dict({field: value})
            except TypeError:
                raise wrong from None
            except KeyError:
                raise unknown("config field", field, list(fields)) from None
    return copy.lock()


def _require(field: str, known: dict) -> None:
    if field not in known and not field.startswith("model.options."):
        raise unknown("config field", field, list(known))


def flatten(fields: dict, prefix: str = "") -> dict:
    """The values of a config's dict by their dotted names."""
    flat = {}
    for name, value in fields.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def model_options(config: ConfigDict) -> dict:
    """The model's options as plain Python, lists as tuples (Linen modules must be hashable)."""
    return {key: _hashable(value) for key, value in config.model.options.to_dict().items()}


def _hashable(value):
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def default_fields() -> dict:
    """All fields by their whole names, as `optim.learning_rate`, with their defaults; options of models are none."""
    return flatten(default_config().to_dict())


_ABOVE_ZERO = ("train.batch_size", "train.epochs", "train.log_every", "eval.batch_size", "optim.learning_rate")
_LEAST_ZERO = (
    *("augment.rotate", "augment.gamma", "augment.noise", "augment.mixup", "augment.cutmix"),
    *("optim.warmup_epochs", "optim.weight_decay", "optim.clip_norm", "head.class_weight_power"),
    *("train.keep_every", "data.workers"),
)
_FRACTIONS = (
    *("head.label_share", "head.teacher_share", "head.label_smoothing"),
    *("train.ema_decay", "train.saving_share", "eval.variants"),
)
_CHOICES = {
    "data.residence": ("auto", "device", "stream"),
    "data.sampling": ("uniform", "balanced"),
    "data.fold_by": ("subject", "image"),
    "data.align": ("", "none", "rotation", "landmarks"),
    "data.normalization": NORMALIZATIONS,
    "head.class_weights": CLASS_WEIGHTS,
    "model.dtype": ("auto", "float32", "bfloat16"),
}


def validate(config: ConfigDict) -> None:
    """Checks what needs no data and no device, before anything expensive starts.

    Raises:
      UserError: a field that does not exist, or a value out of its range, naming the field.
    """
    known, values = default_fields(), flatten(config.to_dict())
    for field in values:
        _require(field, known)

    def require(fields: Iterable[str], holds: Callable[[Any], bool], must: str) -> None:
        for field in fields:
            if not holds(values[field]):
                raise UserError(f"{field} = {values[field]} must {must} (--config.{field}=...)")

    augment = {f"augment.{name}" for name in config.augment}
    require(_ABOVE_ZERO, lambda value: value > 0, "be above 0")
    require(_LEAST_ZERO, lambda value: value >= 0, "be 0 or above")
    require((*_FRACTIONS, *sorted(augment.difference(_LEAST_ZERO))), lambda value: 0 <= value <= 1, "lie in 0..1")
    below_one = {"optim.momentum": config.optim.momentum, "augment.scale": config.augment.scale}
    for field, value in (*below_one.items(), *_dropout_rates(config)):
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"{field} = {value} must lie in 0..1, below 1 (--config.{field}=...)")
    if config.head.label_smoothing and config.head.name == "classification" and config.head.loss == "squared_hinge":
        raise UserError("head.label_smoothing is none of head.loss = 'squared_hinge': set it to 0")
    soft = (config.head.name, config.head.loss) == ("classification", "soft")
    for field, nothing in (("label_share", 0.0), ("teachers", ())):
        if config.head[field] and not soft:
            raise UserError(
                f"head.{field} is of head.name = 'classification' with head.loss = 'soft' alone: set it to {nothing}"
            )
    if not all(isinstance(teacher, str) and teacher for teacher in config.head.teachers):
        raise UserError(
            f"head.teachers = {tuple(config.head.teachers)} must be names of runs or weights files: "
            f"--config.head.teachers=\"('runs/a', 'runs/b')\""
        )
    if config.optim.schedule == "step" and not config.optim.decay_epochs:
        raise UserError("optim.schedule = 'step' wants optim.decay_epochs, e.g. --config.optim.decay_epochs='(15, 25)'")
    if not all(isinstance(epoch, int | float) and epoch > 0 for epoch in config.optim.decay_epochs):
        raise UserError(f"optim.decay_epochs = {config.optim.decay_epochs} must be numbers above 0, e.g. (15, 25)")
    for field, choices in _CHOICES.items():
        if values[field] not in choices:
            listed = ", ".join(choice or "''" for choice in choices)
            raise UserError(f"{field} = {values[field]!r} is unknown: use one of {listed}")
    _validate_data(config.data)
    shape = config.model.input_shape
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape) or shape[2] not in (1, 3):
        raise UserError(f"model.input_shape = {shape} must be (height, width, channels), channels 1 or 3")
    _validate_smaller(config)


def _dropout_rates(config: ConfigDict) -> Iterator[tuple[str, float]]:
    for name in RATES:
        rates = config.model.options.get(name, 0.0)
        for rate in rates if isinstance(rates, tuple | list) else (rates,):
            yield f"model.options.{name}", rate


def _validate_data(data: ConfigDict) -> None:
    joined = data.train or data.validation or data.test
    if data.folds == 1 or data.folds < 0:
        raise UserError(f"data.folds = {data.folds} must be 2 or more, or 0 for the data set's own splits")
    if not 0 <= data.fold < max(data.folds, 1):
        raise UserError(
            f"data.fold = {data.fold} must lie in 0..{data.folds - 1}, since data.folds = {data.folds}"
            if data.folds
            else f"data.fold = {data.fold} needs data.folds, e.g. --config.data.folds=5"
        )
    if not all(isinstance(emotion, str) for emotion in data.emotions):
        raise UserError(
            f"data.emotions = {tuple(data.emotions)} must be names: --config.data.emotions=\"('happy', 'sad')\""
        )
    if data.limit < 0:
        raise UserError(f"data.limit = {data.limit} must be 0 (all) or above (--config.data.limit=...)")
    if joined and data.folds:
        raise UserError("data.folds divides one data set: not with data.train, data.validation or data.test")
    if joined and (not data.train or data.variant):
        raise UserError("data sets are joined by data.train = ({'name': ...}, ...), each with its own variant")
    if data.exclude and (joined or data.folds or data.emotions or data.limit):
        raise UserError(
            "data.exclude lists examples of a data set as it was prepared: not with data.folds, data.emotions, "
            "data.limit, data.train, data.validation or data.test"
        )


def _validate_smaller(config: ConfigDict) -> None:
    stages, field = config.train.smaller_first, "train.smaller_first"
    for stage in stages:
        numbers = stage if isinstance(stage, tuple | list) and len(stage) == 2 else (0, 0)
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise UserError(f"{field} = {stages} must be pairs (epochs, pixels), e.g. ((10, 32), (5, 48))")
        if numbers[1] >= min(config.model.input_shape[:2]):
            raise UserError(
                f"{field} = {stages}: {numbers[1]} pixels are not smaller than model.input_shape = "
                f"{config.model.input_shape}"
            )
    if stages and sum(epochs for epochs, _ in stages) >= config.train.epochs:
        raise UserError(
            f"{field} = {stages} leaves none of the {config.train.epochs} epochs (train.epochs) for images of "
            f"model.input_shape"
        )
    if stages and config.data.normalization == "mean_image":
        raise UserError(f"{field}: data.normalization = 'mean_image' has one size of images; use e.g. per_channel")


def completed(fields: dict, defaults: dict | None = None) -> dict:
    """The fields of a run's config.json; those that did not exist yet when it began have their defaults."""
    if defaults is None:
        defaults = json.loads(json.dumps(default_config().to_dict()))
    both = [name for name in fields if isinstance(fields[name], dict) and name in defaults]
    return defaults | fields | {name: completed(fields[name], defaults[name]) for name in both}


def difference(before: dict, after: dict) -> list[str]:
    """The fields in which two configs differ, one line each: `optim.learning_rate: 0.1 -> 0.01`."""
    before, after = flatten(before), flatten(after)
    values = {field: [fields.get(field, "(absent)") for fields in (before, after)] for field in before | after}
    return [f"{field}: {old} -> {new}" for field, (old, new) in sorted(values.items()) if old != new]


def cache_directory() -> Path:
    """Where prepared data and compiled programs are kept between runs: `$FER_JAX_CACHE`, else `~/.cache/fer_jax`."""
    return Path(os.environ.get("FER_JAX_CACHE") or "~/.cache/fer_jax").expanduser()


def default_workdir(config_file: str, stamp: str) -> Path:
    """`runs/<config>[-<argument>]-<stamp>` for `configs/<config>.py[:<argument>]`."""
    path, _, argument = config_file.partition(":")
    return Path("runs") / "-".join(part for part in (Path(path).stem, argument, stamp) if part)
