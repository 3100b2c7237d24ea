"""The PyTorch side of `python -m fer_jax.benchmark --against=torch`: the same layers, batches and augmentation.

Each side begins with the weights of an experiment of ours (tests/torch_nets.py), on the GPU if PyTorch sees one, and
takes uint8 faces that lie there: flip, shift and brightness, normalisation, network, loss, optimizer, all by torch ops
in channels_last, with autocast to bfloat16 where the experiment computes in it (the last layer too, which ours has in
float32). The forms are eager, `torch.compile`, for inference also with the weights as constants ("frozen"), and on a
GPU also with CUDA graphs.
"""

import contextlib
import os

import jax
import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict

from fer_jax import augment as augment_lib
from fer_jax.data import normalization
from fer_jax.errors import UserError
from fer_jax.recognizer import Recognizer
from fer_jax.run import Experiment
from tests import torch_nets

NETS = {name: getattr(torch_nets, name) for name in ("mini_xception", "fcn_gap", "deep", "vggs_small", "resnet18")}
_AUGMENTATIONS = {"flip", "shift", "brightness"}
_COMPILED = {"compiled": None, "CUDA graphs": "reduce-overhead"}  # form -> mode of torch.compile


def refuse(config: ConfigDict, *, training: bool) -> None:
    """Refuses what there is no counterpart of.

    Raises:
      UserError: the config has such, or PyTorch computes on another kind of device than JAX.
    """
    ours, theirs = jax.default_backend(), "gpu" if torch.cuda.is_available() else "cpu"
    if ours != theirs:
        raise UserError(f"--against=torch compares on one device, and JAX has the {ours}, PyTorch the {theirs}")
    name = config.model.name
    if name not in NETS:
        raise UserError(f"--against=torch has no counterpart of the model {name}; it knows {', '.join(NETS)}")
    for what, wanted in (
        ("a head but softmax", (config.head.name, config.head.loss) == ("classification", "softmax")),
        ("augmentation but flip, shift and brightness", augment_lib.strengths(config.augment).keys() <= _AUGMENTATIONS),
        (f"optim.name={config.optim.name}", config.optim.name in ("sgd", "adam")),
        ("optim.decoupled or optim.clip_norm", not config.optim.decoupled and not config.optim.clip_norm),
        ("train.ema_decay", not config.train.ema_decay),
        ("training on several devices", jax.device_count() == 1 or ours == "cpu"),
    ):
        if training and not wanted:
            raise UserError(f"--against=torch has no counterpart of {what}, as {name} is to be trained with")


def device() -> torch.device:
    """The GPU, if there is one; set up once, as a benchmark of PyTorch should."""
    if not torch.cuda.is_available():
        torch.set_num_threads(os.cpu_count() or 1)
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as JAX takes it
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def forms(on: torch.device, *, inference: bool = False) -> list[str]:
    """The names of the forms on a device."""
    compiled = [form for form in _COMPILED if on.type == "cuda" or form == "compiled"]
    return ["eager", *compiled, *(["frozen"] if inference else [])]


def trainings(experiment: Experiment, variables: dict) -> dict[str, "Training"]:
    """Form -> training of the experiment, which is not to be refused, from these variables, each with its own copy."""
    torch._dynamo.reset()  # it compiles a function eight times, and from then on runs it as it is
    on = device()
    return {form: Training(experiment, variables, form, on) for form in forms(on)}


def inferences(experiment: Experiment, net: Recognizer) -> dict[str, "Inference"]:
    """Form -> the network's inference, which is not to be refused."""
    torch._dynamo.reset()  # as above
    on = device()
    images = np.asarray(experiment.splits["train"].arrays["image"])
    return {form: Inference(experiment, net, images, form, on) for form in forms(on, inference=True)}


class Network(torch.nn.Module):
    """A net of tests/torch_nets.py with our normaliser and variables as its parameters and buffers."""

    def __init__(self, experiment: Experiment, variables: dict, on: torch.device):
        super().__init__()
        self.function = NETS[experiment.config.model.name]
        rate = getattr(experiment.recipe.model, "dropout", 0.0)
        self.rate = rate[-1] if isinstance(rate, tuple) else rate
        self.places = []  # (path, attribute)
        tree = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        for path, leaf in jax.tree_util.tree_flatten_with_path(torch_nets.to_torch(jax.device_get(tree)))[0]:
            keys = tuple(part.key for part in path)
            self.places.append((keys, "_".join(keys)))
            leaf = leaf.detach().to(on)
            if keys[0] == "params":
                self.register_parameter(self.places[-1][1], torch.nn.Parameter(leaf))
            else:
                self.register_buffer(self.places[-1][1], leaf)
        self.standardised = "least_deviation" in variables["normalizer"]
        for name, array in variables["normalizer"].items():
            self.register_buffer(f"normalizer_{name}", torch.tensor(np.asarray(array), device=on))

    def forward(self, images, train):
        """Faces [B, H, W, C] on 0..255 -> logits [B, outputs]."""
        tree = {}
        for keys, attribute in self.places:
            branch = tree
            for key in keys[:-1]:
                branch = branch.setdefault(key, {})
            branch[keys[-1]] = getattr(self, attribute)
        if self.standardised:
            centred = images - images.mean((1, 2, 3), keepdim=True)
            variance = (centred**2).mean((1, 2, 3), keepdim=True).clamp_min(self.normalizer_least_deviation**2)
            images = normalization.MEAN + normalization.DEVIATION * centred / variance.sqrt()
        inputs = (images - self.normalizer_mean) * self.normalizer_scale
        return self.function(tree, inputs, train=train, update=train, dropout=self.rate if train else 0.0)


class Training:
    """One form of the training of an experiment of ours, on its resident data."""

    def __init__(self, experiment: Experiment, variables: dict, form: str, on: torch.device):
        config = experiment.config
        arrays = experiment.splits["train"].arrays
        self._device, self._order = on, experiment.order
        self._images = torch.tensor(np.asarray(arrays["image"]), device=on)
        self._labels = torch.tensor(np.asarray(arrays["label"]), device=on).long()
        self._bfloat16 = config.model.dtype == "bfloat16"
        self._options = {name: float(value) for name, value in experiment.hyperparameters["augment"].items()}
        weights = experiment.hyperparameters["class_weights"]
        self._weights = None if weights is None else torch.tensor(weights, device=on)
        self.network = Network(experiment, variables, on)
        self._optimizer = _optimizer(self.network, config.optim)
        course = [float(experiment.recipe.schedule(step)) for step in range(experiment.order.steps_per_epoch)]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: course[min(step, len(course) - 1)]
        )
        self._loss = (
            self._forward if form == "eager" else torch.compile(self._forward, mode=_COMPILED[form], dynamic=False)
        )
        self._step = 0
        self._fixed = self._batch(0)
        self.peak_bytes: int | None = None  # of the GPU's memory, that of all forms' weights included

    def take_steps(self, count: int) -> int:
        """Bare steps on one batch."""
        with self._watched():
            for _ in range(count):
                self._update(*self._fixed)
        return count

    def take_epoch_steps(self, count: int) -> int:
        """Steps through the epochs, each batch gathered by its index."""
        with self._watched():
            for _ in range(count):
                self._update(*self._batch(self._step))
                self._step += 1
        return count

    def _batch(self, step: int):
        index, _ = self._order.step(step)
        index = torch.from_numpy(index).to(self._device, non_blocking=True)
        return self._images[index], self._labels[index]

    @contextlib.contextmanager
    def _watched(self):
        """Waits for the GPU before and after, and reads its peak memory."""
        if self._device.type != "cuda":
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield
        torch.cuda.synchronize()
        self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated())

    def _update(self, images, labels) -> torch.Tensor:
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        self._optimizer.zero_grad(set_to_none=True)
        loss, _ = self._loss(images, labels)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _forward(self, images, labels):
        """The loss and the accuracy of a batch."""
        images = augment(images, self._options)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self.network(images, train=True).float()
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels, weight=self._weights), accuracy


def _optimizer(network: Network, optim) -> torch.optim.Optimizer:
    """That of the config: L2 on kernels alone."""
    kernels, others = [], []
    for name, parameter in network.named_parameters():
        (kernels if name.endswith("kernel") else others).append(parameter)
    groups = [{"params": kernels, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if optim.name == "adam":
        return torch.optim.Adam(groups, lr=optim.learning_rate, fused=True)
    momentum = {"momentum": optim.momentum, "nesterov": bool(optim.nesterov and optim.momentum)}
    return torch.optim.SGD(groups, lr=optim.learning_rate, fused=True, **momentum)


def augment(images: torch.Tensor, options: dict[str, float]) -> torch.Tensor:
    """Flip, shift by whole pixels with borders replicated, brightness: uint8 [B, H, W, C] -> float32 on 0..255."""
    batch, height, width, _ = images.shape
    x = images.permute(0, 3, 1, 2).float()  # lies as channels_last
    if "flip" in options or "shift" in options:
        theta = torch.zeros(batch, 2, 3, device=images.device)
        mirrored = torch.rand(batch, device=images.device) < options.get("flip", 0.0)
        theta[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
        theta[:, 1, 1] = 1.0
        for row, side in ((0, width), (1, height)):
            limit = int(options.get("shift", 0.0) * side)
            pixels = torch.floor(torch.rand(batch, device=images.device) * (2 * limit + 1)) - limit
            theta[:, row, 2] = 2 * pixels / side
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    if "brightness" in options:
        factor = 1 + options["brightness"] * (2 * torch.rand(batch, 1, 1, 1, device=images.device) - 1)
        x = (x * factor).clamp(0, 255)
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


class Frozen(torch.nn.Module):
    """A function of a network whose weights the compiler may take for constants: it does so of modules alone."""

    def __init__(self, network: torch.nn.Module, function):
        super().__init__()
        self.network, self._function = network.requires_grad_(False), function

    def forward(self, images):
        return self._function(images)


class Inference:
    """One form of a network's inference: batches on the device, and one face from host to host."""

    def __init__(self, experiment: Experiment, net: Recognizer, images: np.ndarray, form: str, on: torch.device):
        self._device = on
        self._bfloat16 = experiment.config.model.dtype == "bfloat16"
        self._network = Network(experiment, net.variables, on)
        if form == "eager":
            self._forward = self._answer
        elif form == "frozen":
            module = Frozen(self._network, self._answer).eval()
            self._forward = torch.compile(module, options={"freezing": True}, dynamic=False)
        else:
            self._forward = torch.compile(self._answer, mode=_COMPILED[form], dynamic=False)
        # With inference_mode nothing is folded.
        self._mode = torch.no_grad if form == "frozen" else torch.inference_mode
        self._images = torch.tensor(images, device=on)
        self._face = images[:1].copy()  # PyTorch wants to be able to write to it

    def take(self, count: int) -> int:
        """Asks for the batch so many times, and waits."""
        with self._mode():
            for _ in range(count):
                self._forward(self._images)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return count

    def answer_one(self) -> np.ndarray:
        """The probabilities of one face."""
        with self._mode():
            return self._forward(torch.from_numpy(self._face).to(self._device)).cpu().numpy()

    def answer(self) -> np.ndarray:
        """The probabilities of the batch."""
        with self._mode():
            return self._forward(self._images).cpu().numpy()

    def _answer(self, images):
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(images.float(), train=False)
        return logits.float().softmax(-1)
