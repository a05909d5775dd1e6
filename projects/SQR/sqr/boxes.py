"""Boxes: conversions between parametrisations, and the refinement rule of iterative detectors."""

from __future__ import annotations

from collections.abc import Sequence

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


L1_FORMATS = ("cxcywh", "xyxy")


def check_l1_format(name: str) -> str:
    """Return ``name`` if it is one of :data:`L1_FORMATS`; raise a ``ValueError`` otherwise."""
    if name not in L1_FORMATS:
        raise ValueError(f"l1_format={name!r}: one of {', '.join(L1_FORMATS)}")
    return name


def l1_coordinates(boxes: Tensor, l1_format: str) -> Tensor:
    """``(..., 4)`` normalised cxcywh -> the coordinates of the L1 distance in cost and loss."""
    return boxes if l1_format == "cxcywh" else cxcywh_to_xyxy(boxes)


def corners_and_area(boxes: Tensor) -> tuple[Tensor, ...]:
    """``(..., 4)`` cxcywh -> x0, y0, x1, y1 and area, ``(...)`` each."""
    return *cxcywh_to_xyxy(boxes).unbind(-1), boxes[..., 2] * boxes[..., 3]


def generalized_iou(boxes: Sequence[Tensor], others: Sequence[Tensor], *, eps: float = 1e-7) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019).

    Used in the matching cost and, differentiably, in the loss. In-place operations only where autograd allows them,
    and no boolean indices, which would synchronize with the device.

    Args:
        boxes, others: x0, y0, x1, y1 and area as from :func:`corners_and_area`, broadcastable to each other.
        eps: lower bound of the areas in denominators.
    """
    x0, y0, x1, y1, area = boxes
    other_x0, other_y0, other_x1, other_y1, other_area = others
    width = torch.minimum(x1, other_x1).sub_(torch.maximum(x0, other_x0)).clamp_(min=0)
    height = torch.minimum(y1, other_y1).sub_(torch.maximum(y0, other_y0)).clamp_(min=0)
    intersection = width.mul_(height)
    union = (area + other_area).sub_(intersection).clamp_(min=eps)
    hull = torch.maximum(x1, other_x1).sub_(torch.minimum(x0, other_x0))
    hull.mul_(torch.maximum(y1, other_y1).sub_(torch.minimum(y0, other_y0))).clamp_(min=eps)
    return intersection.div_(union).add_(union / hull).sub_(1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of a probability; ``eps`` bounds numerator and denominator (1e-5 in Deformable DETR, 1e-3 in DAB-DETR)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def is_point(reference: Tensor) -> Tensor:
    """``(..., 4)`` references -> ``(..., 1)`` bool: whether each is a point, that is, a box without extent."""
    return (reference[..., 2:] == 0).all(-1, keepdim=True)


def refine_boxes(delta: Tensor, reference: Tensor, eps: float = 1e-5) -> Tensor:
    """Move references by predicted offsets in logit space (Deformable DETR, section 4.1 and appendix A.4).

    Args:
        delta: ``(..., 4)`` raw output of a box head.
        reference: ``(..., 4)`` normalised cxcywh. A point (zero extent) has no size to start from: its box's size is
            ``sigmoid(delta)``, as for two-dimensional references in the official code.
    """
    size = inverse_sigmoid(reference[..., 2:], eps).masked_fill(is_point(reference), 0)
    return (delta + torch.cat((inverse_sigmoid(reference[..., :2], eps), size), dim=-1)).sigmoid()
