"""AdaMixer under recollection plans, its geometry, and its sizes."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyConfig

from helpers import build, model_config, random_batch, random_targets, recipe
from small_models import lively, small_config
from sqr.boxes import cxcywh_to_xyxy
from sqr.criterion import SetCriterion
from sqr.detectors.adamixer import PyramidEncoder, box_to_xyzr, intersection_over_foreground, refine_xyzr, xyzr_to_box
from sqr.layers import AdaptiveMixing, AdaptiveSampling, FixedStatsBatchNorm
from sqr.matcher import HungarianMatcher
from sqr.recollection import Plan
from sqr.structures import QueryState, StagePrediction
from test_decoder import memory_and_queries, run_stage


def test_references_are_detached_and_each_group_keeps_its_own():
    model = lively(build(small_config("adamixer"))).train()
    memory, initial = memory_and_queries(model, random_batch([(64, 64)], [2]))
    first, prediction = run_stage(model, 0, initial, memory)
    assert not first.reference.requires_grad and prediction.boxes.requires_grad and first.content.requires_grad
    torch.testing.assert_close(xyzr_to_box(first.reference) / 64, prediction.boxes.detach())
    both = QueryState.cat([initial, first])
    assert torch.equal(both.reference[:, 0], initial.reference[:, 0])
    assert torch.equal(both.reference[:, 1], first.reference[:, 0])


def test_every_parameter_is_trained():
    model = build(small_config("adamixer")).train()
    sum(model(random_batch([(64, 96), (96, 64)], [2, 0])).values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_batch_without_objects_has_a_finite_loss():
    losses = build(small_config("adamixer")).train()(random_batch([(64, 96)], [0]))
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(v == 0 for k, v in losses.items() if "class" not in k)


def test_start_boxes_cover_each_unpadded_image_and_are_not_learned():
    model = build(small_config("adamixer"))
    memory, initial = memory_and_queries(model, random_batch([(50, 96), (90, 33)], [1, 1]))
    assert memory.image_sizes.tolist() == [[96, 50], [33, 90]]
    boxes = cxcywh_to_xyxy(xyzr_to_box(initial.reference))[:, 0, 0]
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0, 96, 50], [0, 0, 33, 90]]), atol=1e-4, rtol=0)
    assert [n for n, _ in model.query_generator.named_parameters()] == ["init_content.weight"]


def test_images_are_padded_so_that_strides_fit():
    images, _ = build(small_config("adamixer")).preprocess(random_batch([(50, 96), (90, 33)], [1, 1]))
    assert images.shape[2:] == (96, 96)


def test_xyzr_is_a_box_and_back():
    boxes = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 200 + 1
    xyzr = box_to_xyzr(boxes)
    torch.testing.assert_close(xyzr_to_box(xyzr), boxes)
    torch.testing.assert_close(xyzr[0, 2], (boxes[0, 2] * boxes[0, 3]).sqrt().log2())
    moved = xyzr_to_box(refine_xyzr(torch.tensor([[0.5, -0.5, 1.0, 0.0]]), box_to_xyzr(torch.tensor([[9.0, 9, 4, 4]]))))
    torch.testing.assert_close(moved, torch.tensor([[11.0, 7, 8, 8]]))


def test_intersection_over_foreground():
    boxes = torch.tensor([[[2.0, 2, 4, 4], [1, 2, 2, 4], [9, 9, 1, 1]]])
    expected = torch.tensor([[[1.0, 0.5, 0], [1, 1, 0], [0, 0, 1]]])
    torch.testing.assert_close(intersection_over_foreground(boxes), expected)


def test_a_larger_scale_reads_a_coarser_level():
    sampling = AdaptiveSampling(dim=8, num_points=4, num_feature_groups=2)
    with torch.no_grad():
        sampling.offsets.bias.zero_()
    shapes, strides = ((8, 8), (4, 4), (2, 2)), (4, 8, 16)
    scales = torch.tensor([strides]).float().log2()
    tokens = torch.cat([torch.full((1, h * w, 8), float(level)) for level, (h, w) in enumerate(shapes)], dim=1)
    boxes = torch.tensor([[[16.0, 16, 8, 8]]])
    for z, expected in ((-20.0, 0.0), (3.0, 1.0), (30.0, 2.0)):
        out = sampling(torch.zeros(1, 1, 8), boxes, torch.full((1, 1, 1), z), tokens, shapes, strides, scales)
        torch.testing.assert_close(out, torch.full((1, 1, 2, 4, 4), expected), atol=1e-5, rtol=0)


def test_square_numbers_of_points_start_on_a_grid_and_read_one_level_finer():
    bias = AdaptiveSampling(dim=8, num_points=4, num_feature_groups=2).offsets.bias.view(2, 4, 3)
    assert {tuple(p) for p in bias[1].tolist()} == {(x, y, -1.0) for x in (-0.25, 0.25) for y in (-0.25, 0.25)}
    other = AdaptiveSampling(dim=8, num_points=5, num_feature_groups=2).offsets.bias.view(2, 5, 3)
    assert other[..., :2].abs().max() <= 0.5 and (other[..., 2] == -1).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_halves_of_the_generator_are_one_linear_layer(autocast):
    generator = torch.Generator().manual_seed(0)
    mixing = AdaptiveMixing(dim=8, in_points=3, out_points=5, num_feature_groups=2)
    torch.nn.init.normal_(mixing.parameter_generator.weight, generator=generator)
    query = torch.randn(2, 7, 8, generator=generator)
    weights = mixing.parameter_generator.weight, mixing.parameter_generator.bias
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        whole = mixing.parameter_generator(query).unflatten(-1, (2, -1))
        halves = [torch.nn.functional.linear(query, *g).unflatten(-1, (2, -1)) for g in mixing.generators()]
    assert torch.equal(torch.cat(halves, dim=-1), whole)
    pattern = torch.randn(whole.shape, generator=generator).to(whole.dtype)
    expected = torch.autograd.grad(whole, weights, pattern)
    found = torch.autograd.grad(halves, weights, pattern.split(mixing.split, dim=-1))
    torch.testing.assert_close(found, expected)


def test_one_copy_of_the_generator_serves_several_calls():
    generator = torch.Generator().manual_seed(0)
    mixing = AdaptiveMixing(dim=8, in_points=3, out_points=5, num_feature_groups=2).double()
    torch.nn.init.normal_(mixing.parameter_generator.weight, generator=generator)
    query = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    sampled = torch.randn(2, 6, 2, 3, 4, generator=generator, dtype=torch.float64)
    together = mixing(query, sampled, mixing.generators())
    once = mixing.generators()
    parts = (slice(2), slice(2, None))
    apart = [mixing(query[:, part], sampled[:, part].contiguous(), once) for part in parts]
    torch.testing.assert_close(torch.cat(apart, dim=1), together)
    parameters = list(mixing.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(sum(x.sin().sum() for x in apart), parameters),
        torch.autograd.grad(together.sin().sum(), parameters),
    )


def test_strides_and_widths_that_do_not_fit_are_named():
    class AsTheyAre(torch.nn.Module):
        def forward(self, features, padding_mask):
            return features

    encoder = PyramidEncoder(neck=AsTheyAre(), strides=(4, 8))
    with pytest.raises(ValueError, match=r"made 1 levels, but strides=\(4, 8\)"):
        encoder([torch.zeros(1, 4, 2, 2)], torch.zeros(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"a level is \(2, 2\) but stride 8 makes \(1, 1\) of images of \(8, 8\)"):
        encoder([torch.zeros(1, 4, 2, 2)] * 2, torch.zeros(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="dim=30 must be a multiple of num_feature_groups=4"):
        AdaptiveMixing(dim=30)


def test_the_l1_distance_is_of_corners():
    cfg = small_config("adamixer")
    focal = build(cfg.criterion.classification)
    matcher = HungarianMatcher(classification=focal, class_weight=0, l1_weight=1, giou_weight=0, l1_format="xyxy")
    criterion = SetCriterion(
        matcher=matcher, classification=focal, class_weight=0, l1_weight=1, giou_weight=0, l1_format="xyxy"
    )
    targets = random_targets([1])
    shift = torch.tensor([0.0, 0.0, 0.1, 0.0])  # wider by 0.1: both corners move by 0.05
    prediction = StagePrediction(torch.zeros(1, 1, 1, 5), (targets.boxes + shift)[None, None])
    wide = criterion([prediction], Plan.sequential(1), targets)["loss_l1/stage1"]
    torch.testing.assert_close(wide, torch.tensor(0.1))
    taller_and_moved = StagePrediction(prediction.logits, (targets.boxes + torch.tensor([0.1, 0, 0, 0]))[None, None])
    moved = criterion([taller_and_moved], Plan.sequential(1), targets)["loss_l1/stage1"]
    torch.testing.assert_close(moved, torch.tensor(0.2))  # both corners move by 0.1
    with pytest.raises(ValueError, match="l1_format='corners': one of cxcywh, xyxy"):
        HungarianMatcher(classification=focal, l1_format="corners")


def test_fixed_statistics_with_a_trainable_scale():
    norm = FixedStatsBatchNorm(3).train()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5
    torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    norm(x).square().sum().backward()
    assert norm.weight.grad is not None
    backbone = build(model_config("adamixer_r50").backbone)
    trainable = {n.split(".")[0] for n, p in backbone.named_parameters() if p.requires_grad and "norm" in n}
    assert trainable == {"res3", "res4", "res5"}


def test_sizes_with_optimiser_state_are_the_documented_ones():
    """AdaMixer-R50 and what is left of it when one stage serves all, with AdamW's two moments: 1615.7 and 513.0 MB."""
    model = build(model_config("adamixer_r50"))
    stage = sum(p.numel() for p in model.decoder.stages[0].parameters())
    assert stage == 18_378_716
    everything = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert round((everything + 2 * trained) * 4 / 1e6, 1) == 1615.7
    assert round((everything + 2 * trained - 3 * 5 * stage) * 4 / 1e6, 1) == 513.0


def test_a_saved_recipe_builds_the_same_backbone(tmp_path):
    LazyConfig.save(recipe("adamixer/adamixer_r50_12ep"), str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert isinstance(build(again.model.backbone).res3[0].conv1.norm, FixedStatsBatchNorm)


def test_runs_under_autocast():
    model = lively(build(small_config("adamixer"))).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(random_batch([(64, 96), (96, 64)], [2, 3]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
