"""The detector under Detectron2's contract: padding, batches, stages, errors."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.targets import Targets


@pytest.fixture(scope="module", params=["deformable_plain", "deformable_refine", "deformable_two_stage"])
def model(request):
    return lively(build(small_config(request.param))).eval()


def test_is_registered(model):
    assert META_ARCH_REGISTRY.get("QueryBasedDetector") is type(model)


class GivenLevels(torch.nn.Module):
    """Stands for the neck: convolutions and GroupNorm see padding in every published model, what follows must not."""

    def forward(self, features, padding_mask=None):
        return features


def test_padded_features_have_no_influence(model):
    neck, model.encoder.neck = model.encoder.neck, GivenLevels()
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 96, 96, dtype=torch.bool)
    mask[0, 64:] = True
    mask[1, :, 48:] = True
    clean = [torch.randn(2, 32, n, n, generator=generator) for n in (12, 6, 3, 2)]
    outputs = []
    for noise in (0.0, 50.0):
        levels = [x.clone() for x in clean]
        for x in levels:
            padded = torch.nn.functional.interpolate(mask[None].float(), size=x.shape[2:])[0].bool()
            x += noise * padded[:, None]
        memory = model.encoder(levels, mask)
        initial = model.query_generator(memory)
        outputs.append(model.decoder(initial.state, memory)[-1])
    model.encoder.neck = neck
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[0].boxes, outputs[1].boxes, rtol=0, atol=1e-6)


def test_an_image_does_not_see_its_neighbours(model):
    batch = random_batch([(64, 96), (64, 96)], [0, 0])
    together, alone = model.forward_stages(batch), model.forward_stages(batch[:1])
    torch.testing.assert_close(together[0].scores, alone[0].scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[0].boxes, alone[0].boxes, atol=0.01, rtol=0)


def test_the_padding_mask_comes_from_the_image_sizes_in_both_modes(model):
    batch = random_batch([(64, 96), (96, 64)], [1, 1])
    for mode in (True, False):
        _, mask = model.train(mode).preprocess(batch)
        assert mask.shape == (2, 96, 96)
        assert not mask[0, :64, :96].any() and mask[0, 64:].all()
        assert not mask[1, :, :64].any() and mask[1, :, 64:].all()
    model.eval()


def test_evaluation_contract(model):
    batch = random_batch([(64, 96), (96, 64)], [0, 0])
    batch[0]["height"], batch[0]["width"] = 128, 192
    outputs = model(batch)
    stages = model.forward_stages(batch)
    assert len(outputs) == len(stages) == 2
    for output, stage in zip(outputs, stages, strict=True):
        assert stage.scores.shape == (4, 7, 5) and stage.boxes.shape == (4, 7, 4)
        last = model.postprocessor(stage.scores[-1], stage.boxes[-1], stage.image_size)
        instances = output["instances"]
        assert instances.image_size == last.image_size == stage.image_size
        assert torch.equal(instances.scores, last.scores)
        assert torch.equal(instances.pred_boxes.tensor, last.pred_boxes.tensor)
        assert (instances.scores.diff() <= 0).all()
        rows = stage.scores[-1][instances.query_ids, instances.pred_classes]
        assert torch.equal(rows, instances.scores)
    assert outputs[0]["instances"].image_size == (128, 192)
    del batch[0]["height"], batch[0]["width"]
    as_input = model.forward_stages(batch)[0]
    assert as_input.image_size == (64, 96) and model(batch)[0]["instances"].image_size == (64, 96)
    torch.testing.assert_close(as_input.boxes, stages[0].boxes / 2, rtol=1e-5, atol=1e-4)


def test_training_contract(model):
    batch = random_batch([(64, 96), (96, 64)], [2, 0])
    losses = model.train()(batch)
    assert all(v.ndim == 0 and v.requires_grad and v.dtype == torch.float32 for v in losses.values())
    steps = {"stage1", "stage2", "stage3", "stage4"}
    names = {k.split("/")[1] for k in losses}
    assert names - {"proposals"} == steps
    sum(losses.values()).backward()
    for name, p in model.named_parameters():
        assert not p.requires_grad or p.grad is not None, f"{name} has no gradient"
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"model.eval"):
        model.forward_stages(batch)
    model.eval()


def test_a_batch_of_empty_images_trains(model):
    losses = model.train()(random_batch([(64, 64), (64, 64)], [0, 0]))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    model.zero_grad()
    model.eval()


def test_targets_are_normalised_by_width_and_height():
    (inputs,) = random_batch([(64, 96)], [1])
    inputs["instances"].gt_boxes.tensor[:] = torch.tensor([24.0, 16.0, 72.0, 32.0])
    targets = Targets.from_batched_inputs([inputs], num_classes=5, device="cpu")
    assert targets.boxes.tolist() == [[0.5, 0.375, 0.5, 0.25]]


def test_errors_name_the_image(model):
    model.train()
    with pytest.raises(ValueError, match=r"image image-0 has an object of class index 8.*num_classes=5"):
        batch = random_batch([(64, 64)], [1])
        batch[0]["instances"].gt_classes[:] = 8
        model(batch)
    with pytest.raises(ValueError, match=r"image image-1 has an object of class index -1.*num_classes=5"):
        batch = random_batch([(64, 64), (64, 64)], [1, 3])
        batch[1]["instances"].gt_classes[1] = -1
        model(batch)
    with pytest.raises(ValueError, match="image image-0 has 9 objects, but a group has only 7 queries"):
        model(random_batch([(64, 64)], [9]))
    with torch.no_grad():
        saved = model.encoder.level_embed.clone()
        model.encoder.level_embed.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"image image-0 is not finite at (stage1, group 1 of 1|encoder)"):
        model(random_batch([(64, 64)], [1]))
    with torch.no_grad():
        model.encoder.level_embed.copy_(saved)
    model.eval()


def test_mean_and_std_move_with_the_model_and_stay_out_of_checkpoints(model):
    assert "pixel_mean" not in model.state_dict()
    assert "pixel_mean" in dict(model.named_buffers())


def test_bfloat16_autocast_trains(model):
    batch = random_batch([(64, 96), (96, 64)], [2, 1])
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    exact = model(batch)
    for key, value in losses.items():
        assert value.dtype == torch.float32 and torch.isfinite(value)
        if key.endswith("stage1"):
            torch.testing.assert_close(value, exact[key], rtol=0.2, atol=0.2)
    model.eval()
