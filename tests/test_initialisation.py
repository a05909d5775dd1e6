"""Initial weights as published: recipes converge as reported only from these."""

from __future__ import annotations

import math

import pytest
import torch

from helpers import build
from small_models import small_config
from sqr.layers.mlp import MLP

PRIOR = ["deformable_plain", "deformable_refine", "deformable_two_stage", "adamixer", "dab_detr", "dab_deformable_detr",
         "group_detr"]  # fmt: skip
BIAS = -math.log(0.99 / 0.01)


def last_layer(head):
    return head.layers[-1] if isinstance(head, MLP) else head[-1]


def is_xavier(weight: torch.Tensor) -> bool:
    """Uniform in the Glorot range of its own shape; PyTorch's default for linear layers is narrower or wider."""
    bound = math.sqrt(6 / sum(weight.shape))
    return float(weight.abs().max()) == pytest.approx(bound, rel=0.03) and float(weight.std()) == pytest.approx(
        bound / math.sqrt(3), rel=0.1
    )


@pytest.mark.parametrize("detector", PRIOR)
def test_heads_start_at_the_prior_and_at_their_references(detector):
    model = build(small_config(detector))
    for number, stage in enumerate(model.decoder.stages):
        head = stage.class_embed[-1] if detector == "adamixer" else stage.class_embed
        torch.testing.assert_close(head.bias, torch.full_like(head.bias, BIAS))
        box = last_layer(stage.bbox_embed)
        assert not box.weight.any() and not box.bias[:2].any()
        small = detector in ("deformable_plain", "deformable_refine", "dab_deformable_detr")
        size = -2.0 if small and (number == 0 or detector == "deformable_plain") else 0.0
        assert box.bias[2:].tolist() == [size, size], number
    if detector == "deformable_two_stage":
        assert not last_layer(model.query_generator.bbox_embed).weight.any()
        torch.testing.assert_close(model.query_generator.class_embed.bias, torch.full((5,), BIAS))


@pytest.mark.parametrize("detector", ["deformable_refine", "deformable_two_stage", "dab_deformable_detr"])
def test_heads_of_refining_stages_are_clones(detector):
    """They start from the same values, and are trained apart."""
    first, *others = build(small_config(detector)).decoder.stages
    for stage in others:
        for ours, theirs in zip(stage.class_embed.parameters(), first.class_embed.parameters(), strict=True):
            assert torch.equal(ours, theirs) and ours is not theirs
        assert torch.equal(stage.bbox_embed.layers[0].weight, first.bbox_embed.layers[0].weight)
        assert not torch.equal(stage.ffn.linear1.weight, first.ffn.linear1.weight)


@pytest.mark.parametrize("detector", ["deformable_refine", "dab_deformable_detr"])
def test_sampling_points_start_on_a_ring(detector):
    model = build(small_config(detector))
    for attention in (model.encoder.layers[0].self_attn, *(s.cross_attn for s in model.decoder.stages)):
        assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
        offsets = attention.sampling_offsets.bias.view(attention.num_heads, attention.num_levels, -1, 2)
        for level in range(attention.num_levels):
            expected = torch.arange(1.0, attention.num_points + 1)
            torch.testing.assert_close(offsets[0, level], torch.stack((expected, 0 * expected), dim=-1))
            assert offsets[:, level].abs().amax(-1).tolist() == [expected.tolist()] * attention.num_heads
        assert (offsets[2, 0, 0] - offsets[0, 0, 0]).abs().max() >= 1  # heads look in different directions
        assert is_xavier(attention.value_proj.weight) and not attention.output_proj.bias.any()


@pytest.mark.parametrize("detector", ["detr", "dab_detr", "group_detr"])
def test_dense_transformers_are_xavier(detector):
    model = build(small_config(detector))
    for layer in (*model.encoder.layers, *model.decoder.stages):
        for part in (layer.self_attn, layer.ffn, *([layer.cross_attn] if hasattr(layer, "cross_attn") else [])):
            assert all(is_xavier(p) for p in part.parameters() if p.ndim > 1)


def test_other_detectors_feed_forward_blocks_and_attention_outputs_are_xavier():
    for detector in ("deformable_refine", "dab_deformable_detr", "adamixer"):
        model = build(small_config(detector))
        layers = [*model.decoder.stages, *getattr(model.encoder, "layers", [])]
        assert all(is_xavier(w) for layer in layers for w in (layer.ffn.linear1.weight, layer.ffn.linear2.weight))
        assert all(is_xavier(stage.self_attn.out_proj.weight) for stage in model.decoder.stages)


def test_adamixers_points_cover_the_box_one_level_finer_and_mixing_starts_alike_for_all_queries():
    for stage in build(small_config("adamixer")).decoder.stages:
        offsets = stage.sampling.offsets.bias.view(stage.sampling.num_feature_groups, -1, 3)
        assert not stage.sampling.offsets.weight.any() and (offsets[..., 2] == -1).all()
        assert float(offsets[0, :, :2].min()) < -0.3 and float(offsets[0, :, :2].max()) > 0.3
        assert offsets[..., :2].abs().max() <= 0.5
        assert not stage.mixing.parameter_generator.weight.any() and is_xavier(stage.mixing.out_proj.weight)
        assert float(stage.iof_tau.min()) >= 0 and 0.5 < float(stage.iof_tau.max()) <= 4
