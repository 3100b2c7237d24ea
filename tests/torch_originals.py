"""The nets whose weights `fer_jax.convert` reads, as their authors define them and name their tensors.

Of torchvision and of Arriaga's Keras repository, in `torch.nn`: each gives the tensors of a file and the logits that
belong to them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, channels, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """torchvision's `resnet18`."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class VGG16(nn.Module):
    """torchvision's `vgg16`, whose average pooling to 7x7 changes nothing at 224x224."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        hidden = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, 1000))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def of_torchvision(net, images, rng):
    """(the state dict as arrays, logits of images NHWC) of a net of random weights and statistics."""
    state = net.eval().state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 1:  # biases, scales and statistics, which begin as zeros and ones
            tensor += torch.tensor(0.3 * rng.random(tensor.shape))
        elif tensor.ndim == 0:
            assert name.endswith("num_batches_tracked")
    with torch.no_grad():
        logits = net(torch.tensor(images).permute(0, 3, 1, 2))
    return {name: tensor.numpy() for name, tensor in state.items()}, logits.numpy()


def keras_mini_xception(images, rng):
    """(tensors by layer, logits of images NHWC) of `mini_XCEPTION` of oarriaga/face_classification, random weights."""
    tensors = {}

    def drawn(name, shape, offset=0.0, scale=0.3):
        tensors[name] = (offset + scale * rng.standard_normal(shape)).astype(np.float32)
        return torch.tensor(tensors[name])

    def norm(x, number):
        name, shape = f"batch_normalization_{number}", (x.shape[1],)
        mean, gamma, beta = (
            drawn(f"{name}/moving_mean", shape),
            drawn(f"{name}/gamma", shape, 1),
            drawn(f"{name}/beta", shape),
        )
        var = drawn(f"{name}/moving_variance", shape, 2)
        return F.batch_norm(x, mean, var, gamma, beta, eps=1e-3)

    def conv(x, number, filters, size, stride=1, padding=0, bias=False):
        kernel = drawn(f"conv2d_{number}/kernel", (size, size, x.shape[1], filters)).permute(3, 2, 0, 1)
        offset = drawn(f"conv2d_{number}/bias", (filters,)) if bias else None
        return F.conv2d(x, kernel, offset, stride, padding)

    def separable(x, number, filters):
        name, channels = f"separable_conv2d_{number}", x.shape[1]
        depthwise = drawn(f"{name}/depthwise_kernel", (3, 3, channels, 1)).permute(2, 3, 0, 1)
        pointwise = drawn(f"{name}/pointwise_kernel", (1, 1, channels, filters)).permute(3, 2, 0, 1)
        return F.conv2d(F.conv2d(x, depthwise, padding=1, groups=channels), pointwise)

    x = F.relu(norm(conv(torch.tensor(images).permute(0, 3, 1, 2), 1, 8, 3), 1))
    x = F.relu(norm(conv(x, 2, 8, 3), 2))
    for module, filters in enumerate((16, 32, 64, 128)):
        residual = norm(conv(x, 3 + module, filters, 1, stride=2), 3 + 3 * module)
        x = F.relu(norm(separable(x, 1 + 2 * module, filters), 4 + 3 * module))
        x = norm(separable(x, 2 + 2 * module, filters), 5 + 3 * module)
        before = x.shape[2] % 2  # SAME: an even side is padded at its end alone
        x = F.max_pool2d(F.pad(x, (before, 1, before, 1), value=-torch.inf), 3, 2) + residual
    return tensors, conv(x, 7, 7, 3, padding=1, bias=True).mean((2, 3)).numpy()
