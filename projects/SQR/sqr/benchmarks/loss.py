"""Matching and set loss compared with the textbook version: ``benchmark.py loss``.

The textbook (Carion et al., DETR, and its successors) matches and trains one set of predictions after another: costs of
every query with the objects of *all* images for all classes, and one copy to the host per set. Both get the same
predictions, with queries around objects as in a trained model, and must agree before anything is timed.
"softmax" is DETR's own class cost and loss, "focal" that of its successors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from ..boxes import cxcywh_to_xyxy
from ..classification import FocalClassification, SoftmaxClassification
from ..criterion import SetCriterion
from ..errors import UserError
from ..matcher import HungarianMatcher, MatchingProblem
from ..recollection import Plan
from ..structures import StagePrediction
from ..targets import Targets
from .executions import PLANS
from .reporting import benchmark, print_table
from .timing import interleaved, least_disturbed

STAGES = 6
PLAN_OF_SETS = {Plan.from_spec(plan, STAGES).total: plan for plan in PLANS}
# name: the classification, and the weight of its cost and loss in the paper
CLASSIFICATIONS = {"focal": (FocalClassification, 2.0), "softmax": (SoftmaxClassification, 1.0)}
NO_OBJECT_WEIGHT = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", type=int, nargs="+", choices=PLAN_OF_SETS, default=list(PLAN_OF_SETS))
    parser.add_argument("--classification", nargs="+", choices=CLASSIFICATIONS, default=list(CLASSIFICATIONS))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--objects", type=int, nargs="+", default=[20], help="of an image; several are timed in turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU; one is measured in CPU time")
    parser.add_argument("--repeats", type=int, default=9)


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Time every case and print a table."""
    results = [
        time_case(name, sets, objects, args)
        for name in args.classification
        for objects in args.objects
        for sets in args.sets
    ]
    print_results(results, args)
    return {"threads": args.threads, "results": results}


def time_case(name: str, sets: int, objects: int, args: argparse.Namespace) -> dict:
    plan = Plan.from_spec(PLAN_OF_SETS[sets], STAGES)
    make_classification, class_weight = CLASSIFICATIONS[name]
    classification = make_classification()
    channels = args.classes + (name == "softmax")  # its last one is "no object"
    predictions, targets = make_case(plan, objects, channels, args)
    matcher = HungarianMatcher(classification=classification, class_weight=class_weight)
    criterion = SetCriterion(matcher=matcher, classification=classification, class_weight=class_weight)
    group_names = [f"set {i + 1}" for i in range(plan.total)]

    def matching() -> Tensor:
        (found,) = matcher([MatchingProblem(StagePrediction.cat(predictions), targets, group_names)])
        return found

    def ours_loss() -> Tensor:
        return sum(criterion(predictions, plan, targets).values())

    def textbook_loss() -> Tensor:
        return sum(textbook_set_loss(name, logits, boxes, targets) for logits, boxes in sets_of(predictions))

    def textbook_matching() -> list:
        with torch.no_grad():
            return [textbook_match(name, logits, boxes, targets) for logits, boxes in sets_of(predictions)]

    check_agreement(matching(), textbook_matching(), targets)
    with torch.no_grad():
        check_losses(float(ours_loss()), float(textbook_loss()))
    variants = {
        "matching": matching,
        "matching, textbook": textbook_matching,
        "loss": backward_of(ours_loss, predictions),
        "loss, textbook": backward_of(textbook_loss, predictions),
    }
    times = interleaved(variants, device=args.device, repeats=args.repeats)
    key = least_disturbed(args.device)
    return {
        "classification": name,
        "sets": sets,
        "images": args.images,
        "queries": args.queries,
        "classes": args.classes,
        "objects": objects,
        "times": times,
        "ms": {variant: times[variant][key] for variant in variants},
    }


def make_case(
    plan: Plan, objects: int, channels: int, args: argparse.Namespace
) -> tuple[list[StagePrediction], Targets]:
    """Predictions with ``channels`` logits around the objects, one per step of the plan, and the objects."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(args.images, objects, 4, generator=generator) * 0.5 + 0.1
    labels = torch.randint(args.classes, (args.images, objects), generator=generator)
    predictions = []
    for groups in plan.groups:
        shape = (args.images, groups, args.queries)
        near = torch.randint(objects, (args.images, groups * args.queries), generator=generator)
        logits = torch.randn(*shape, channels, generator=generator) - 3
        near_labels = labels.gather(1, near).view(*shape, 1)
        logits.scatter_add_(-1, near_labels, torch.full_like(near_labels, 3, dtype=torch.float32))
        centres = boxes.gather(1, near[..., None].expand(-1, -1, 4)).view(*shape, 4)
        noise = 0.05 * torch.randn(*shape, 4, generator=generator)
        predicted = (centres + noise).clamp(0.01, 0.99)
        predictions.append(
            StagePrediction(logits.to(args.device).requires_grad_(), predicted.to(args.device).requires_grad_())
        )
    return predictions, Targets.from_lists(list(labels), list(boxes), device=args.device)


def sets_of(predictions: Sequence[StagePrediction]) -> list[tuple[Tensor, Tensor]]:
    """``(B, Q, C)`` logits and ``(B, Q, 4)`` boxes of every set."""
    return [pair for p in predictions for pair in zip(p.logits.unbind(1), p.boxes.unbind(1), strict=True)]


def textbook_match(name: str, logits: Tensor, boxes: Tensor, targets: Targets) -> list[tuple[Tensor, Tensor]]:
    """Query and object indices of each image, for one set ``(B, Q, ...)``."""
    b, q, _ = logits.shape
    logits, predicted = logits.flatten(0, 1), boxes.flatten(0, 1)
    if name == "softmax":
        class_cost = -logits.softmax(-1)[:, targets.labels]
    else:
        p = logits.sigmoid()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        class_cost = positive[:, targets.labels] - negative[:, targets.labels]
    giou = generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(targets.boxes))
    l1 = torch.cdist(predicted, targets.boxes, p=1)
    cost = CLASSIFICATIONS[name][1] * class_cost + 5 * l1 - 2 * giou
    cost = cost.view(b, q, -1).cpu()
    pairs = []
    for image, part in enumerate(cost.split(targets.counts, dim=-1)):
        rows, columns = linear_sum_assignment(part[image])
        pairs.append((torch.as_tensor(rows), torch.as_tensor(columns)))
    return pairs


def textbook_set_loss(name: str, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    """The weighted loss of one set."""
    with torch.no_grad():
        pairs = textbook_match(name, logits, boxes, targets)
    device, starts = logits.device, torch.tensor([0, *targets.counts[:-1]]).cumsum(0)
    image = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(pairs)]).to(device)
    query = torch.cat([rows for rows, _ in pairs]).to(device)
    objects = torch.cat([columns + start for (_, columns), start in zip(pairs, starts, strict=True)]).to(device)
    labels = targets.labels[objects]
    if name == "softmax":
        class_loss = _softmax_loss(logits, (image, query), labels)
    else:
        class_loss = 2 * _focal_loss(logits, (image, query), labels) / len(targets)
    matched, goal = boxes[image, query], targets.boxes[objects]
    giou = generalized_box_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(goal)).diag()
    return class_loss + (5 * (matched - goal).abs().sum() + 2 * (1 - giou).sum()) / len(targets)


def _softmax_loss(logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    target = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
    target[matched] = labels
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[-1] = NO_OBJECT_WEIGHT
    return F.cross_entropy(logits.transpose(1, 2), target, weight)


def _focal_loss(logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    target = torch.zeros_like(logits)
    target[(*matched, labels)] = 1
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_target = p * target + (1 - p) * (1 - target)
    return ((0.25 * target + 0.75 * (1 - target)) * entropy * (1 - p_target) ** 2).sum()


def check_agreement(matches: Tensor, textbook: Sequence[Sequence[tuple[Tensor, Tensor]]], targets: Targets) -> None:
    """Check that both find the same matches: ``(G, T)``, and for each set and image indices of queries and objects.

    Raises:
        UserError: they do not.
    """
    starts = [sum(targets.counts[:i]) for i in range(len(targets.counts))]
    for number, (match, images) in enumerate(zip(matches.cpu(), textbook, strict=True), start=1):
        for (rows, columns), start in zip(images, starts, strict=True):
            if not torch.equal(match[start + columns], rows):
                raise UserError(f"the matches of set {number} differ from the textbook's")


def check_losses(ours: float, textbook: float) -> None:
    """Check that the losses differ only by rounding.

    Raises:
        UserError: they do not.
    """
    if not abs(ours - textbook) <= 1e-4 * abs(textbook):
        raise UserError(f"the loss is {ours:.6g}, the textbook's {textbook:.6g}")


def backward_of(loss: Callable[[], Tensor], predictions: Sequence[StagePrediction]) -> Callable[[], object]:
    leaves = [x for p in predictions for x in (p.logits, p.boxes)]
    return lambda: torch.autograd.grad(loss(), leaves)


def print_results(results: Sequence[dict], args: argparse.Namespace) -> None:
    """One row per case: matching only, and matching, loss and its gradients together."""
    rows = []
    for found in results:
        row = {key: found[key] for key in ("classification", "sets", "objects")}
        for kind, title in (("matching", "matching"), ("loss", "matching, loss, gradients")):
            ours, textbook = found["ms"][kind], found["ms"][f"{kind}, textbook"]
            row |= {
                f"{title}, ms": ours,
                f"textbook's {kind}, ms": textbook,
                f"textbook / ours, {kind}": textbook / ours,
            }
        rows.append(row)
    kind = "CPU time" if least_disturbed(args.device) == "cpu_ms" else "wall time"
    case = f"{args.images} images, {args.queries} queries, {args.classes} classes, {args.threads} threads"
    print_table(f"{case}, medians, {kind}", rows, digits=1)
