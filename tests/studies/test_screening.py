"""Decoder-only screening: what is cached is what the model says, and a decoder trains on it; fused stages."""

from __future__ import annotations

import pytest
import torch

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.recollection import Plan
from sqr.structures import ImagePredictions
from sqr.studies.kinds.frozen_encoder import EncodedDetector, encode_images
from sqr.studies.kinds.fusion import FusedStages
from sqr.studies.kinds.screening import train_decoder

SIZES = [(64, 96), (96, 64), (80, 96), (96, 96), (64, 64)]


@pytest.mark.parametrize("detector", ["deformable_two_stage", "adamixer"])
def test_encoded_images_give_the_model_s_predictions_and_are_read_back(detector, tmp_path, monkeypatch):
    model = lively(build(small_config(detector))).eval()
    batch = random_batch(SIZES, [1, 2, 3, 0, 1])
    options = {"mapper": dict, "cache": tmp_path, "key": "a", "chunk": 2}
    images = encode_images(model, batch, **options)
    encodings = []
    monkeypatch.setattr(model, "encode", lambda x, run=model.encode: encodings.append(len(x)) or run(x))
    again = encode_images(model, batch, **options)
    assert encodings == [1] and len(list(tmp_path.iterdir())) == 1  # one image for the memory's form, the rest is read
    assert images.inputs[0]["image"].shape == batch[0]["image"].shape and "pixels" not in images.inputs[0]
    model.size_divisibility = 96
    expected = model.forward_stages(batch)
    for encoded in (images, again):
        found = EncodedDetector(model, encoded).forward_stages([{"row": 3}, {"row": 1}])
        for ours, row in zip(found, (3, 1), strict=True):
            torch.testing.assert_close(ours.scores, expected[row].scores, atol=1e-4, rtol=1e-3)
            assert ours.image_size == expected[row].image_size


def test_a_decoder_trains_by_its_plans_and_a_seed_repeats_it(tmp_path):
    batch = random_batch(SIZES, [1, 2, 3, 0, 1])
    runs = []
    for seed in (0, 0, 1):
        model = build(small_config("deformable_two_stage", plan="sequential", num_stages=3))
        images = encode_images(model.eval(), batch, mapper=dict, cache=tmp_path, key="b")
        frozen = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("decoder.")}
        plans = {0: Plan.sequential(3), 4: Plan.sampled(3)}
        losses = train_decoder(
            model, images, plans, seed=seed, iterations=8, batch_size=2, lr=1e-3, weight_decay=0.0, max_norm=0.1
        )
        assert model.decoder.plan == plans[4]
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in frozen.items())
        runs.append(losses)
    assert runs[0] == runs[1] != runs[2]
    assert min(runs[0][4:]) > 1.15 * max(runs[0][:4])  # five sets in the place of three


def test_fused_stages():
    scores, boxes = torch.rand(3, 4, 2), torch.rand(3, 4, 4)

    class Model(torch.nn.Module):
        postprocessor = None

        def forward_stages(self, batched_inputs):
            return [ImagePredictions(scores, boxes, (8, 9))]

    def fused(rule, stages=2):
        (found,) = FusedStages(Model(), rule=rule, stages=stages).forward_stages([{}])
        assert found.image_size == (8, 9) and len(found.scores) == 1
        return found.scores[0], found.boxes[0]

    weight = scores[1:].amax(-1, keepdim=True)
    vote = (weight * boxes[1:]).sum(0) / weight.sum(0)
    for rule, expected in {
        "scores": (scores[1:].mean(0), boxes[2]),
        "boxes": (scores[2], vote),
        "both": (scores[1:].mean(0), vote),
        "union": (torch.cat((scores[1], scores[2])), torch.cat((boxes[1], boxes[2]))),
    }.items():
        torch.testing.assert_close(fused(rule), expected)
    with pytest.raises(ValueError, match="rule='max'; one of scores"):
        FusedStages(Model(), rule="max", stages=2)
    with pytest.raises(ValueError, match="stages=1; at least 2"):
        FusedStages(Model(), rule="union", stages=1)
