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

    def conv_of(self, x, filters, size, stride=1, padding=0):
        """As `conv`, where ours has that many filters of that size, (height, width)."""
        kernel = self.params[f"Conv_{self.count.get('Conv', 0)}"]["kernel"]
        assert kernel.shape == (*size, x.shape[1], filters)
        return self.conv(x, stride, padding)

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


def _affine_classifier(net, x):
    x = _flat(x)
    for _ in range(2):
        x = net.dropout(F.relu(net.dense(x)))
    return net.dense(x)


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
    return _affine_classifier(net, F.max_pool2d(x, 3, padding=1))


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


def vggs(variables, images, **options):
    """CNN-S in the words of Chatfield et al. 2014, table 1."""
    net = Net(variables, **options)
    x = F.relu(net.conv_of(images.permute(0, 3, 1, 2), 96, (7, 7), stride=2))
    x = F.max_pool2d(F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0), 3, ceil_mode=True)
    x = F.max_pool2d(F.relu(net.conv_of(x, 256, (5, 5), padding=1)), 2, ceil_mode=True)
    for _ in range(3):
        x = F.relu(net.conv_of(x, 512, (3, 3), padding=1))
    return _affine_classifier(net, F.max_pool2d(x, 3, ceil_mode=True))


def alexnet(variables, images, **options):
    """torchvision's `alexnet`, whose average pooling to 6x6 changes nothing at 224x224."""
    net = Net(variables, **options)
    x = F.relu(net.conv_of(images.permute(0, 3, 1, 2), 64, (11, 11), stride=4, padding=2))
    x = F.relu(net.conv_of(F.max_pool2d(x, 3, 2), 192, (5, 5), padding=2))
    x = F.max_pool2d(x, 3, 2)
    for filters in (384, 256, 256):
        x = F.relu(net.conv_of(x, filters, (3, 3), padding=1))
    x = _flat(F.max_pool2d(x, 3, 2))
    for _ in range(2):
        x = F.relu(net.dense(net.dropout(x)))
    return net.dense(x)


def vgg16(variables, images, **options):
    """torchvision's `vgg16`: its configuration D."""
    net = Net(variables, **options)
    x = images.permute(0, 3, 1, 2)
    for layer in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        x = F.max_pool2d(x, 2) if layer == "M" else F.relu(net.conv_of(x, layer, (3, 3), padding=1))
    return _affine_classifier(net, x)


def xception(variables, images, **options):
    """Keras's `Xception`, block by block as its source numbers them."""
    net = Net(variables, **options, epsilon=1e-3, momentum=0.01)

    def conv(x, filters, size, stride=1):
        return net.norm(net.conv_of(x, filters, (size, size), stride))

    def separable(x, filters):
        return conv(net.depthwise(x), filters, 1)

    x = F.relu(conv(images.permute(0, 3, 1, 2), 32, 3, stride=2))
    x = F.relu(conv(x, 64, 3))
    for block, filters in ((2, 128), (3, 256), (4, 728)):
        residual = conv(x, filters, 1, stride=2)
        x = separable(x if block == 2 else F.relu(x), filters)
        x = net.pool(separable(F.relu(x), filters)) + residual
    for _ in range(5, 13):
        residual = x
        for _ in range(3):
            x = separable(F.relu(x), 728)
        x = x + residual
    residual = conv(x, 1024, 1, stride=2)
    x = separable(F.relu(x), 728)
    x = net.pool(separable(F.relu(x), 1024)) + residual
    x = F.relu(separable(x, 1536))
    x = F.relu(separable(x, 2048))
    return net.dense(net.dropout(x.mean((2, 3))))


def inception_v3(variables, images, **options):
    """torchvision's `inception_v3` without the auxiliary head; its modules A to E in the order of their branches."""
    net = Net(variables, **options, epsilon=1e-3)

    def conv(x, filters, size, stride=1, padding=0):
        return F.relu(net.norm(net.conv_of(x, filters, size, stride, padding)))

    def row(x, filters, length):
        return conv(x, filters, (1, length), padding=(0, length // 2))

    def column(x, filters, length):
        return conv(x, filters, (length, 1), padding=(length // 2, 0))

    def point(x, filters):
        return conv(x, filters, (1, 1))

    def square(x, filters, size=3):
        return conv(x, filters, (size, size), padding=size // 2)

    def halve(x, filters):
        return conv(x, filters, (3, 3), stride=2)

    def pooled(x, filters):
        return point(F.avg_pool2d(x, 3, stride=1, padding=1), filters)

    x = halve(images.permute(0, 3, 1, 2), 32)
    x = square(conv(x, 32, (3, 3)), 64)
    x = conv(point(F.max_pool2d(x, 3, 2), 80), 192, (3, 3))
    x = F.max_pool2d(x, 3, 2)
    for features in (32, 64, 64):  # A
        branches = [point(x, 64), square(point(x, 48), 64, 5), square(square(point(x, 64), 96), 96)]
        x = torch.cat([*branches, pooled(x, features)], 1)
    x = torch.cat([halve(x, 384), halve(square(point(x, 64), 96), 96), F.max_pool2d(x, 3, 2)], 1)  # B
    for c7 in (128, 160, 160, 192):  # C
        branches = [point(x, 192), column(row(point(x, c7), c7, 7), 192, 7)]
        double = column(row(column(point(x, c7), c7, 7), c7, 7), c7, 7)
        x = torch.cat([*branches, row(double, 192, 7), pooled(x, 192)], 1)
    branches = [halve(point(x, 192), 320), halve(column(row(point(x, 192), 192, 7), 192, 7), 192)]  # D
    x = torch.cat([*branches, F.max_pool2d(x, 3, 2)], 1)
    for _ in range(2):  # E, where our parameters are in another order than the branches
        middle, double = point(x, 384), square(point(x, 448), 384)
        single = point(x, 320)
        ends = [end(inner, 384, 3) for inner in (middle, double) for end in (row, column)]
        x = torch.cat([single, *ends, pooled(x, 192)], 1)
    return net.dense(net.dropout(x.mean((2, 3))))
