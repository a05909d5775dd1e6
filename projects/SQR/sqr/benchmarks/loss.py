"""Matching and set loss alone, against the textbook's: ``benchmark.py loss``.

The textbook (Carion et al., DETR, and its successors) matches and trains one set of predictions after another: costs of
every query with the objects of *all* images for all classes, a copy to the host a set. Both are given the same
predictions, of queries that lie around objects as a trained model's do, and must agree before anything is timed.
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
from ..classification import FocalClassification
from ..criterion import SetCriterion
from ..matcher import HungarianMatcher, MatchingProblem
from ..recollection import Plan
from ..structures import StagePrediction
from ..targets import Targets
from .ops import describe_machine
from .timing import interleaved

# sets of predictions: the plan of six stages that makes them
PLANS = {6: "sequential", 32: "selective", 63: "dense"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", type=int, nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--objects", type=int, nargs="+", default=[20], help="of an image; several are timed in turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)


def run(args: argparse.Namespace) -> dict:
    """Time every case and print a line for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    report = {"machine": describe_machine(args.device), "threads": args.threads, "results": []}
    try:
        for objects in args.objects:
            for sets in args.sets:
                row = time_case(sets, objects, args)
                report["results"].append(row)
                print_row(row)
    finally:
        torch.set_num_threads(before)
    return report


def time_case(sets: int, objects: int, args: argparse.Namespace) -> dict:
    plan = Plan.from_spec(PLANS[sets], 6)
    predictions, targets = make_case(plan, objects, args)
    classification = FocalClassification()
    matcher = HungarianMatcher(classification=classification)
    criterion = SetCriterion(matcher=matcher, classification=classification)
    joint = StagePrediction.cat(predictions)
    problem = MatchingProblem(joint, targets, plan.step_names)
    check_agreement(matcher, criterion, problem, predictions, plan)

    def ours_loss() -> Tensor:
        return sum(criterion(predictions, plan, targets).values())

    def textbook_loss() -> Tensor:
        return sum(textbook_set_loss(logits, boxes, targets) for logits, boxes in sets_of(predictions))

    def textbook_matching() -> list:
        with torch.no_grad():
            return [textbook_match(logits, boxes, targets) for logits, boxes in sets_of(predictions)]

    variants = {
        "matching": lambda: matcher([problem]),
        "matching, textbook": textbook_matching,
        "loss": backward_of(ours_loss, predictions),
        "loss, textbook": backward_of(textbook_loss, predictions),
    }
    times = interleaved(variants, device=args.device, repeats=args.repeats)
    key = "cpu_ms" if args.device == "cpu" and args.threads == 1 else "median_ms"
    return {
        "sets": sets,
        "images": args.images,
        "queries": args.queries,
        "classes": args.classes,
        "objects": objects,
        "times": times,
        "ms": {name: times[name][key] for name in variants},
    }


def make_case(plan: Plan, objects: int, args: argparse.Namespace) -> tuple[list[StagePrediction], Targets]:
    """Predictions around the objects, one a step of the plan, and the objects."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(args.images, objects, 4, generator=generator) * 0.5 + 0.1
    labels = torch.randint(args.classes, (args.images, objects), generator=generator)
    predictions = []
    for groups in plan.groups:
        shape = (args.images, groups, args.queries)
        near = torch.randint(objects, (args.images, groups * args.queries), generator=generator)
        logits = torch.randn(*shape, args.classes, generator=generator) - 3
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
    """``(B, Q, K)`` logits and ``(B, Q, 4)`` boxes of every set."""
    return [pair for p in predictions for pair in zip(p.logits.unbind(1), p.boxes.unbind(1), strict=True)]


def textbook_match(logits: Tensor, boxes: Tensor, targets: Targets) -> list[tuple[Tensor, Tensor]]:
    """Query and object indices of each image, for one set ``(B, Q, ...)``."""
    b, q, _ = logits.shape
    p, predicted = logits.flatten(0, 1).sigmoid(), boxes.flatten(0, 1)
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    class_cost = positive[:, targets.labels] - negative[:, targets.labels]
    giou = generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(targets.boxes))
    cost = 2 * class_cost + 5 * torch.cdist(predicted, targets.boxes, p=1) - 2 * giou
    cost = cost.view(b, q, -1).cpu()
    pairs = []
    for image, part in enumerate(cost.split(targets.counts, dim=-1)):
        rows, columns = linear_sum_assignment(part[image])
        pairs.append((torch.as_tensor(rows), torch.as_tensor(columns)))
    return pairs


def textbook_set_loss(logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    """The weighted loss of one set."""
    with torch.no_grad():
        pairs = textbook_match(logits, boxes, targets)
    device, starts = logits.device, torch.tensor([0, *targets.counts[:-1]]).cumsum(0)
    image = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(pairs)]).to(device)
    query = torch.cat([rows for rows, _ in pairs]).to(device)
    objects = torch.cat([columns + start for (_, columns), start in zip(pairs, starts, strict=True)]).to(device)
    target = torch.zeros_like(logits)
    target[image, query, targets.labels[objects]] = 1
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_target = p * target + (1 - p) * (1 - target)
    focal = (0.25 * target + 0.75 * (1 - target)) * entropy * (1 - p_target) ** 2
    matched, goal = boxes[image, query], targets.boxes[objects]
    giou = generalized_box_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(goal)).diag()
    return (2 * focal.sum() + 5 * (matched - goal).abs().sum() + 2 * (1 - giou).sum()) / len(targets)


def check_agreement(
    matcher: HungarianMatcher,
    criterion: SetCriterion,
    problem: MatchingProblem,
    predictions: Sequence[StagePrediction],
    plan: Plan,
) -> None:
    """Both find the same matches, and losses that differ by rounding alone.

    Raises:
        AssertionError: they do not.
    """
    (matches,) = matcher([problem])
    targets, expected = problem.targets, 0.0
    starts = [sum(targets.counts[:i]) for i in range(len(targets.counts))]
    for match, (logits, boxes) in zip(matches.cpu(), sets_of(predictions), strict=True):
        with torch.no_grad():
            for (rows, columns), start in zip(textbook_match(logits, boxes, targets), starts, strict=True):
                assert torch.equal(match[start + columns], rows), "the matches differ"
            expected += textbook_set_loss(logits, boxes, targets).item()
    with torch.no_grad():
        total = sum(criterion(predictions, plan, targets).values())
    torch.testing.assert_close(total.item(), expected, rtol=1e-4, atol=0)


def backward_of(loss: Callable[[], Tensor], predictions: Sequence[StagePrediction]) -> Callable[[], object]:
    leaves = [x for p in predictions for x in (p.logits, p.boxes)]
    return lambda: torch.autograd.grad(loss(), leaves)


def print_row(row: dict) -> None:
    ms = row["ms"]
    case = f"{row['sets']} sets x {row['images']} images x {row['queries']} queries, {row['objects']} objects"
    print(
        f"{case}: matching {ms['matching']:.1f} ms (textbook {ms['matching, textbook']:.1f}), matching, loss and its "
        f"gradients {ms['loss']:.1f} ms (textbook {ms['loss, textbook']:.1f})",
        flush=True,
    )
