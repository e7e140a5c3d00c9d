"""Small networks with what whole ones are made of."""

from __future__ import annotations

from typing import Any

from cnnfast import nn, ops


class Residual(nn.Module):
    """Two blocks of a small ResNet, one with a stride; odd numbers of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9)
        self.a, self.a_norm = nn.Conv2d(9, 17, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(17)
        self.b, self.b_norm = nn.Conv2d(17, 17, 3, padding=1, bias=False), nn.BatchNorm2d(17)
        self.short = nn.Conv2d(9, 17, 1, stride=2)
        self.head = nn.Linear(17, 5)

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.norm(self.stem(x)))
        y = self.b_norm(self.b(ops.relu(self.a_norm(self.a(x)))))
        x = ops.relu(y + self.short(x))
        return self.head(ops.flatten(ops.global_avg_pool2d(x)))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2 with ReLU6, and squeeze-and-excitation gates."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.expand_norm = nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depthwise, self.norm = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project, self.project_norm = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        y = ops.relu6(self.expand_norm(self.expand(x)))
        y = ops.relu6(self.norm(self.depthwise(y)))
        gates = ops.global_avg_pool2d(y)
        gates = gates.reshape(gates.shape[0], 1, 1, 24)
        y = y * ops.sigmoid(self.excite(ops.silu(self.squeeze(gates))))
        return x + self.project_norm(self.project(y))


class Several(nn.Module):
    """Every kind of convolution, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.DepthwiseConv2d(8, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.up = nn.ConvTranspose2d(12, 5, 2, stride=2)
        self.linear = nn.Linear(5 * 36, 7)

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.norm(self.conv(x)))
        x = ops.silu(self.pointwise(self.depthwise(x)))
        x = self.up(x)
        return self.linear(x.reshape(x.shape[0], -1))
