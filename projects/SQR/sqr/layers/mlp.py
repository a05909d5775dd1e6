"""Feed-forward blocks."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them; the box head of DETR and its successors."""

    def __init__(self, *, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FFN(nn.Module):
    """The transformer's feed-forward block with its residual: ``x + W2 act(W1 x)``, without the norm."""

    def __init__(self, *, dim: int, hidden_dim: int, dropout: float = 0.0, activation: nn.Module | None = None):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.activation = nn.ReLU() if activation is None else activation
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout2(self.linear2(self.dropout1(self.activation(self.linear1(x)))))


_ACTIVATIONS = {"relu": nn.ReLU, "prelu": nn.PReLU}


def make_activation(name: str) -> nn.Module:
    """A new activation module: "relu", or "prelu" (one learned slope, initially 0.25)."""
    try:
        return _ACTIVATIONS[name]()
    except KeyError:
        raise ValueError(f"unknown activation {name!r}; one of {', '.join(_ACTIVATIONS)}") from None
