"""Boxes: conversions between parametrisations, and the refinement rule of iterative detectors."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """``(..., 4)`` centre and size -> corners, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """``(..., 4)`` corners -> centre and size, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of a probability; ``eps`` bounds numerator and denominator (1e-5 in Deformable DETR, 1e-3 in DAB-DETR)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def is_point(reference: Tensor) -> Tensor:
    """``(..., 4)`` references -> ``(..., 1)`` bool: whether one is a point, that is, a box without any extent."""
    return (reference[..., 2:] == 0).all(-1, keepdim=True)


def refine_boxes(delta: Tensor, reference: Tensor, eps: float = 1e-5) -> Tensor:
    """Move references by predicted offsets in logit space (Deformable DETR, section 4.1 and appendix A.4).

    Args:
        delta: ``(..., 4)`` raw output of a box head.
        reference: ``(..., 4)`` normalised cxcywh. A point (zero extent) has no size to start from: its box's size is
            ``sigmoid(delta)`` alone, as in the official code's case of two-dimensional references.
    """
    size = inverse_sigmoid(reference[..., 2:], eps).masked_fill(is_point(reference), 0)
    return (delta + torch.cat((inverse_sigmoid(reference[..., :2], eps), size), dim=-1)).sigmoid()
