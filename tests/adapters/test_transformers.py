"""``transformers`` detectors under our decoder loop, tiny and on random weights: against ``transformers`` itself."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from helpers import random_batch
from small_models import lively
from sqr.errors import UserError
from sqr.recollection import Plan
from sqr.structures import BatchTotals, QueryState, StagePrediction
from sqr.targets import Targets

pytest.importorskip("transformers", reason="the adapter's tests need transformers")

from sqr.adapters.transformers import from_transformers

RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
RT_DETR = {
    "backbone_config": RESNET,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "d_model": 32,
    "num_queries": 12,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4,
    "decoder_layers": 4,
    "num_denoising": 6,
    "num_labels": 5,
    "hidden_expansion": 0.5,
}
LW_DETR = {
    "d_model": 32,
    "num_queries": 9,
    "group_detr": 3,
    "decoder_layers": 3,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "decoder_n_points": 2,
    "num_labels": 5,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16}
CONFIGS = {
    "rt_detr": RT_DETR,
    "rt_detr_v2": RT_DETR,
    "d_fine": {**RT_DETR, "depth_mult": 0.34},
    "deimv2": {**RT_DETR, "depth_mult": 0.34},
    "lw_detr": {
        **LW_DETR,
        "projector_scale_factors": [1.0],
        "backbone_config": {"model_type": "lw_detr_vit", **VIT, "image_size": 64, "pretrain_image_size": 64,
                            "window_block_indices": [0], "out_indices": [1, 2]},
    },
    "rf_detr": {
        **LW_DETR,
        "backbone_config": {"model_type": "rf_detr_dinov2", **VIT, "image_size": 64, "mlp_ratio": 2,
                            "out_indices": [1, 2], "window_block_indexes": [0], "num_windows": 2},
    },
}  # fmt: skip
MODELS = list(CONFIGS)
SIZE = (64, 64)


def detector(kind: str, plan: str = "sequential", **config):
    torch.manual_seed(0)
    values = {"model_type": kind, **copy.deepcopy(CONFIGS[kind]), **config}
    return lively(from_transformers(config=values, num_classes=5, decoder={"plan": plan}, image_size=SIZE))


def batch_and_targets(model):
    batch = random_batch([SIZE, SIZE], [3, 1])
    return batch, Targets.from_batched_inputs(batch, num_classes=5, device=model.device)


def theirs(model, batch, targets=None):
    """Their network's own run."""
    images, mask = model.preprocess(batch)
    labels = None
    if targets is not None:
        parts = zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True)
        labels = [{"class_labels": a, "boxes": b} for a, b in parts]
    return model.network(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_is_theirs_exactly(kind):
    model = detector(kind, "selective").eval()
    batch, _ = batch_and_targets(model)
    with torch.no_grad():
        expected = theirs(model, batch)
        last = model.decode(model.encode(batch)).predictions[-1]
    assert torch.equal(last.logits[:, 0], expected.logits) and torch.equal(last.boxes[:, 0], expected.pred_boxes)
    assert expected.logits.std() > 0
    (stages, _) = model.forward_stages(batch)
    assert len(stages.scores) == len(model.decoder.stages)


@pytest.mark.parametrize("kind", MODELS)
def test_training_loss_and_gradients_are_theirs_without_recollection(kind):
    model = detector(kind).train()
    batch, targets = batch_and_targets(model)
    gradients = []
    for run in (lambda: theirs(model, batch, targets).loss, lambda: sum(model(batch).values())):
        model.zero_grad()
        torch.manual_seed(1)  # of their denoising and dropout
        total = run()
        total.backward()
        gradients.append((total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (expected, theirs_), (ours, ours_) = gradients
    assert ours == pytest.approx(expected, rel=1e-6)
    assert list(ours_) == list(theirs_)
    for name, gradient in theirs_.items():
        assert (ours_[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def naive(decoder, initial: QueryState, arguments) -> list[StagePrediction]:
    """Every group alone."""
    done, steps = {(0,): initial}, [[] for _ in range(decoder.plan.num_steps)]
    for info in decoder.plan.sets:
        stage = decoder.stages[info.stage - 1]
        done[info.path], prediction = stage(done[info.path[:-1]], stage.prepare(arguments))
        steps[info.step - 1].append(prediction)
    return [StagePrediction.cat(step) for step in steps]


@pytest.mark.parametrize("kind", MODELS)
def test_recollection_equals_a_naive_loop_and_never_repeats_the_memory(kind):
    model = detector(kind, "selective", dropout=0.0).train()  # its masks would be drawn in another order
    batch, targets = batch_and_targets(model)
    shapes = []
    layer = model.network.model.decoder.layers[-1]
    cross = getattr(layer, "encoder_attn", None) or layer.cross_attn

    def spy(module, args, kwargs):
        shapes.append((kwargs["hidden_states"].shape[:2], kwargs["encoder_hidden_states"].shape[0]))

    handle = cross.register_forward_pre_hook(spy, with_kwargs=True)
    results = []
    for loop in (False, True):
        model.zero_grad()
        if loop:
            handle.remove()
            model.decoder.forward = lambda state, arguments: naive(model.decoder, state, arguments)
        torch.manual_seed(1)
        decoded = model.decode(model.encode(batch), targets)
        total = sum(model.losses(decoded, targets).values())
        total.backward()
        results.append((total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert [p.logits.shape[1] for p in decoded.predictions] == list(model.decoder.plan.groups)
    queries, groups = decoded.predictions[-1].logits.shape[2], model.decoder.plan.groups[-1]
    assert shapes == [((2, groups * queries), 2)]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    noise = 2e-5 * max(gradient.norm() for gradient in results[1][1].values())
    for name, expected in results[1][1].items():
        assert (results[0][1][name] - expected).norm() <= 1e-3 * expected.norm() + noise, name


@pytest.mark.parametrize("kind", ["rt_detr_v2", "d_fine"])
def test_every_set_has_its_loss(kind):
    """Their total over our sets against their loss of each path alone (with denoising it would draw other noise)."""
    model = detector(kind, "selective", num_denoising=0).train()
    batch, _ = batch_and_targets(model)
    several = model(batch)
    for plan in (Plan.explicit([[0], [0, 1], [1, 2], [3]]), Plan.sequential(4)):
        model.decoder.plan = plan
        fewer = model(batch)
        assert sum(fewer.values()) < sum(several.values())
        several = fewer


def test_a_part_of_a_batch_counts_by_its_share_of_the_objects():
    model = detector("rt_detr_v2", num_denoising=0).train()
    batch, _ = batch_and_targets(model)  # 4 objects
    whole, part = model(batch), model(batch, BatchTotals(objects=16, images=8))
    assert list(whole) == list(part)
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value / 4)


def test_saves_and_loads_in_their_format(tmp_path):
    model = detector("rt_detr_v2", "selective").eval()
    model.network.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = from_transformers(pretrained=str(tmp_path), image_size=SIZE).eval()
    batch, _ = batch_and_targets(model)
    for a, b in zip(model.forward_stages(batch), again.forward_stages(batch), strict=True):
        assert torch.equal(a.scores, b.scores) and torch.equal(a.boxes, b.boxes)
    other = from_transformers(pretrained=str(tmp_path), num_classes=3, image_size=SIZE)
    assert other.num_classes == 3 and other.eval().forward_stages(batch)[0].scores.shape[-1] == 3


def test_a_copy_and_a_state_dict_hold_every_weight_once():
    model = detector("rt_detr_v2", "selective")
    assert all(name.startswith("network.") for name in model.state_dict())
    other = copy.deepcopy(model)
    assert other.decoder.stages[0].network is other.network
    trained = {id(p) for p in model.parameters()}
    assert not trained & {id(p) for p in other.parameters()}


def test_code_in_a_directory_is_not_run_whatever_one_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}')
    with pytest.raises(UserError, match="custom code"):
        from_transformers(pretrained=str(tmp_path))
    assert not (tmp_path / "marker").exists()


def test_messages_name_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"pretrained=.*nothing-there"):
        from_transformers(pretrained=str(tmp_path / "nothing-there"))
    with pytest.raises(UserError, match="transformers' yolos has no stages here; there are rt_detr"):
        from_transformers(config={"model_type": "yolos", "num_hidden_layers": 1})
