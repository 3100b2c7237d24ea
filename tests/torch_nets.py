"""PyTorch counterparts of the nets, written as functions of our own variables, for parity tests and benchmarks.

Each takes (variables as nested dicts of torch tensors in our layout, images NHWC, and the options of `Net`) and gives
the logits. They share no code with the package: plain `torch.nn.functional`, channels first inside.
"""

import numpy as np
import torch
import torch.nn.functional as F


def to_torch(tree):
    """Our variables as tensors that want gradients; kernels, HWIO by name, lie in memory as channels_last asks."""
    if isinstance(tree, dict):
        return {name: to_torch(value) for name, value in tree.items()}
    tensor = torch.tensor(np.array(tree))
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    return tensor.requires_grad_()


def _same(x, kernel, stride):
    """Pads x [B, C, H, W] as TensorFlow's SAME does."""
    sides = []
    for length, size in zip(reversed(x.shape[2:]), reversed(kernel), strict=True):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides += [total // 2, total - total // 2]
    return sides


class Net:
    """Looks up our parameters by our names, in the order in which layers of a kind are called.

    `train` normalises by the batch, and with `update` the running statistics follow, as in `torch.nn.BatchNorm2d`.
    `dropout` is the rate at the places where the net has dropout.
    """

    def __init__(self, variables, *, train, update=False, dropout=0.0, epsilon=1e-5, momentum=0.1):
        self.params, self.stats = variables["params"], variables.get("batch_stats", {})
        self.train, self.update, self.rate = train, update, dropout
        self.epsilon, self.momentum = epsilon, momentum
        self.count = {}

    def _next(self, kind):
        number = self.count.get(kind, 0)
        self.count[kind] = number + 1
        return f"{kind}_{number}"

    def conv(self, x, stride=1, padding="SAME"):
        layer = self.params[self._next("Conv")]
        kernel = layer["kernel"].permute(3, 2, 0, 1)
        if padding == "SAME":
            left, right, above, below = _same(x, kernel.shape[2:], stride)
            padding = (above, left)
            if (above, left) != (below, right):  # only where it must be is the image copied into a padded one
                x, padding = F.pad(x, (left, right, above, below)), 0
        return F.conv2d(x, kernel, layer.get("bias"), stride=stride, padding=padding)

    def depthwise(self, x):
        kernel = self.params[self._next("DepthwiseConv")]["kernel"]  # 3, 3, 1, C
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), padding=1, groups=x.shape[1])

    def norm(self, x):
        name = self._next("BatchNorm")
        layer, stats = self.params[name], self.stats[name]
        mean, var = stats["mean"].detach(), stats["var"].detach()
        if self.train and not self.update:
            mean, var = None, None
        return F.batch_norm(
            x, mean, var, layer["scale"], layer["bias"], training=self.train, momentum=self.momentum, eps=self.epsilon
        )

    def dense(self, x):
        layer = self.params[self._next("Dense")]
        return F.linear(x, layer["kernel"].t(), layer.get("bias"))

    def pool(self, x):
        """3x3, stride 2, SAME; where that pads at the end alone, the last window is an incomplete one."""
        left, right, _, _ = _same(x, (3, 3), 2)
        return F.max_pool2d(x, 3, 2, padding=left, ceil_mode=left != right)

    def dropout(self, x):
        return F.dropout(x, self.rate, training=self.train) if self.rate else x


def _flat(x):
    return x.permute(0, 2, 3, 1).flatten(1)  # our features are channels last


def deep(variables, images, **options):
    net = Net(variables, **options)
    x = images.permute(0, 3, 1, 2)
    for _ in range(4):
        x = F.max_pool2d(F.relu(net.norm(net.conv(x))), 2)
    x = _flat(x)
    for _ in range(2):
        x = F.relu(net.norm(net.dense(x)))
    return net.dense(net.dropout(x))


def vggs_small(variables, images, **options):
    net = Net(variables, **options)
    x = images.permute(0, 3, 1, 2)
    x = F.max_pool2d(F.relu(net.norm(net.conv(x, stride=3))), 3)
    x = F.max_pool2d(F.relu(net.norm(net.conv(x))), 2)
    for _ in range(3):
        x = F.relu(net.norm(net.conv(x)))
    x = F.max_pool2d(x, 3, padding=1)
    x = _flat(x)
    for _ in range(2):
        x = net.dropout(F.relu(net.dense(x)))
    return net.dense(x)


def fcn_gap(variables, images, **options):
    net = Net(variables, **options)
    x = images.permute(0, 3, 1, 2)
    for stage, convolutions in enumerate((1, 2, 2, 2, 1)):
        if stage:
            x = net.dropout(F.avg_pool2d(x, 2))
        for _ in range(convolutions):
            x = F.relu(net.norm(net.conv(x)))
    return net.conv(x).mean((2, 3))


def mini_xception(variables, images, **options):
    net = Net(variables, **options, epsilon=1e-3, momentum=0.01)
    x = images.permute(0, 3, 1, 2)
    for _ in range(2):
        x = F.relu(net.norm(net.conv(x, padding=0)))
    for _ in range(4):
        residual = net.norm(net.conv(x, stride=2))
        x = F.relu(net.norm(net.conv(net.depthwise(x))))
        x = net.norm(net.conv(net.depthwise(x)))
        x = net.pool(x) + residual
    return net.conv(x).mean((2, 3))


def resnet18(variables, images, **options):
    net = Net(variables, **options)
    x = images.permute(0, 3, 1, 2)
    x = F.max_pool2d(F.relu(net.norm(net.conv(x, 2, 3))), 3, 2, 1)
    for filters in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and filters > 64 else 1
            shortcut = net.norm(net.conv(x, stride, 0)) if stride == 2 else x
            x = F.relu(net.norm(net.conv(x, stride, 1)))
            x = F.relu(net.norm(net.conv(x, 1, 1)) + shortcut)
    return net.dense(x.mean((2, 3)))
