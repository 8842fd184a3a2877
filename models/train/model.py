"""The network: YOLOX-nano's layers with biased convolutions (batch norm folded away).

The published ONNX file is the source of the weights. Its convolutions stand in the
file in execution order, so `initialise` copies them one by one, in the order in which
this definition's forward pass runs them. The class layers (80 COCO rows) are either
kept (`classes=80`: the teacher) or replaced by four rows.

The loss lives in loss.py, the optimiser in train.py.
"""

import struct

import torch
from torch import nn
import torch.nn.functional as F

LABELS = ("fire", "smoke", "person", "vehicle")
FIRE, SMOKE, PERSON, VEHICLE = range(4)
STRIDES = (8, 16, 32)
# COCO's row numbers of what becomes `person` and `vehicle` (car, motorcycle, bus, truck).
COCO_PERSON = 0
COCO_VEHICLES = (2, 3, 5, 7)


class Conv(nn.Module):
    """A convolution with bias and SiLU."""

    def __init__(self, inputs, outputs, size, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups)

    def forward(self, x):
        return F.silu(self.conv(x))


class Depthwise(nn.Module):
    """A 3x3 depthwise convolution and a pointwise one."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.depth = Conv(inputs, inputs, 3, stride, groups=inputs)
        self.point = Conv(inputs, outputs, 1)

    def forward(self, x):
        return self.point(self.depth(x))


class Bottleneck(nn.Module):
    def __init__(self, channels, residual):
        super().__init__()
        self.squeeze = Conv(channels, channels, 1)
        self.mix = Depthwise(channels, channels)
        self.residual = residual

    def forward(self, x):
        y = self.mix(self.squeeze(x))
        return x + y if self.residual else y


class CrossStage(nn.Module):
    """A CSP block: one half runs through bottlenecks, the other passes by."""

    def __init__(self, inputs, outputs, depth, residual=True):
        super().__init__()
        self.main = Conv(inputs, outputs // 2, 1)
        self.side = Conv(inputs, outputs // 2, 1)
        self.blocks = nn.ModuleList(Bottleneck(outputs // 2, residual) for _ in range(depth))
        self.join = Conv(outputs, outputs, 1)

    def forward(self, x):
        main, side = self.main(x), self.side(x)
        for block in self.blocks:
            main = block(main)
        return self.join(torch.cat([main, side], 1))


class Pyramid(nn.Module):
    """Spatial pyramid pooling."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze = Conv(channels, channels // 2, 1)
        self.join = Conv(channels * 2, channels, 1)

    def forward(self, x):
        x = self.squeeze(x)
        return self.join(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))


class Head(nn.Module):
    """The prediction layers of one stride: box (4), objectness (1), classes, as logits."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.stem = Conv(inputs, 64, 1)
        self.class_tower = nn.Sequential(Depthwise(64, 64), Depthwise(64, 64))
        self.classes = nn.Conv2d(64, classes, 1)
        self.box_tower = nn.Sequential(Depthwise(64, 64), Depthwise(64, 64))
        self.box = nn.Conv2d(64, 4, 1)
        self.objectness = nn.Conv2d(64, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        classes = self.classes(self.class_tower(x))
        y = self.box_tower(x)
        return torch.cat([self.box(y), self.objectness(y), classes], 1)


class Watch(nn.Module):
    """Pictures [N,3,H,W] (BGR, 0..255) to raw predictions [N,anchors,5+classes].

    A prediction is (x, y, w, h) in units of its stride, relative to its cell (w and h
    as logarithms), then the logits of objectness and classes. With `exporting` set the
    logits become probabilities, which is what the ONNX file holds.
    """

    def __init__(self, classes=len(LABELS)):
        super().__init__()
        self.exporting = False
        self.stem = Conv(12, 16, 3)
        self.stage2 = nn.Sequential(Depthwise(16, 32, 2), CrossStage(32, 32, 1))
        self.stage3 = nn.Sequential(Depthwise(32, 64, 2), CrossStage(64, 64, 3))
        self.stage4 = nn.Sequential(Depthwise(64, 128, 2), CrossStage(128, 128, 3))
        self.stage5 = nn.Sequential(Depthwise(128, 256, 2), Pyramid(256), CrossStage(256, 256, 1, residual=False))
        self.lateral5 = Conv(256, 128, 1)
        self.up4 = CrossStage(256, 128, 1, residual=False)
        self.lateral4 = Conv(128, 64, 1)
        self.up3 = CrossStage(128, 64, 1, residual=False)
        self.down3 = Depthwise(64, 64, 2)
        self.out4 = CrossStage(128, 128, 1, residual=False)
        self.down4 = Depthwise(128, 128, 2)
        self.out5 = CrossStage(256, 256, 1, residual=False)
        self.heads = nn.ModuleList(Head(inputs, classes) for inputs in (64, 128, 256))

    def forward(self, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        c3 = self.stage3(self.stage2(self.stem(x)))
        c4 = self.stage4(c3)
        c5 = self.lateral5(self.stage5(c4))
        f4 = self.lateral4(self.up4(torch.cat([F.interpolate(c5, scale_factor=2.0), c4], 1)))
        p3 = self.up3(torch.cat([F.interpolate(f4, scale_factor=2.0), c3], 1))
        p4 = self.out4(torch.cat([self.down3(p3), f4], 1))
        p5 = self.out5(torch.cat([self.down4(p4), c5], 1))
        out = [head(p) for head, p in zip(self.heads, (p3, p4, p5))]
        if self.exporting:
            out = [torch.cat([y[:, :4], y[:, 4:].sigmoid()], 1) for y in out]
        return torch.cat([y.flatten(2) for y in out], 2).transpose(1, 2)


def anchors(height, width):
    """The cells of all predictions: left top corner in cells [A,2] and stride [A,1]."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        cells.append(torch.stack([x, y], -1).reshape(-1, 2).float())
        strides.append(torch.full((cells[-1].shape[0], 1), float(stride)))
    return torch.cat(cells), torch.cat(strides)


def decode(raw, cells, strides):
    """Raw predictions to boxes (x0, y0, x1, y1) in pixels."""
    centre = (raw[..., :2] + cells) * strides
    half = raw[..., 2:4].clamp(max=8.0).exp() * strides / 2
    return torch.cat([centre - half, centre + half], -1)


def _fields(buffer):
    """The fields of a protocol buffer message: (number, value) with bytes or integers."""
    at, end = 0, len(buffer)

    def varint(at):
        value = shift = 0
        while True:
            byte = buffer[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    while at < end:
        key, at = varint(at)
        kind = key & 7
        if kind == 0:
            value, at = varint(at)
        else:
            size, at = varint(at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = buffer[at : at + size], at + size
        yield key >> 3, value


def onnx_convolutions(path):
    """(weight, bias) of every Conv node of an ONNX file, in execution order."""
    with open(path, "rb") as file:
        graph = next(value for number, value in _fields(memoryview(file.read())) if number == 7)
    tensors, nodes = {}, []
    for number, value in _fields(graph):
        if number == 1:
            inputs, kind = [], ""
            for field, content in _fields(value):
                if field == 1:
                    inputs.append(bytes(content).decode())
                elif field == 4:
                    kind = bytes(content).decode()
            if kind == "Conv":
                nodes.append(inputs)
        elif number == 5:
            dims, name, raw = [], "", b""
            for field, content in _fields(value):
                if field == 1:
                    packed = content if isinstance(content, memoryview) else None
                    dims += [n for n in packed] if packed is not None else [content]
                elif field == 8:
                    name = bytes(content).decode()
                elif field == 9:
                    raw = bytes(content)
            tensors[name] = (dims, raw)

    def tensor(name):
        dims, raw = tensors[name]
        return torch.tensor(struct.unpack(f"<{len(raw) // 4}f", raw)).reshape(dims)

    return [(tensor(weight), tensor(bias)) for _, weight, bias in nodes]


def initialise(model, path, size=416):
    """Copy the weights of the published YOLOX-nano ONNX file into `model`.

    Where the model has four classes, `person` takes COCO's row, `vehicle` the mean of
    car's, motorcycle's, bus's and truck's weighted to car; `fire` and `smoke` start at
    zero weights and a low prior.
    """
    ran = []
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
        for hook in hooks:
            hook.remove()
        stored = onnx_convolutions(path)
        assert len(stored) == len(ran), f"{path}: {len(stored)} convolutions, expected {len(ran)}"
        for layer, (weight, bias) in zip(ran, stored):
            if weight.shape[0] == 80 and layer.out_channels != 80:
                rows = torch.zeros(len(LABELS), *weight.shape[1:])
                biases = torch.full((len(LABELS),), -4.0)
                rows[PERSON], biases[PERSON] = weight[COCO_PERSON], bias[COCO_PERSON]
                vehicles, share = list(COCO_VEHICLES), torch.tensor([0.55, 0.05, 0.15, 0.25])
                rows[VEHICLE] = (weight[vehicles] * share.view(-1, 1, 1, 1)).sum(0)
                biases[VEHICLE] = (bias[vehicles] * share).sum()
                weight, bias = rows, biases
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return model
