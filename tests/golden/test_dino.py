"""DINO on seeded weights: against IDEA-Research/DINO, evaluation at full size, losses and gradients of a small one; and
against detrex, evaluation."""

from __future__ import annotations

import json
import re

import pytest
import seeded
import torch
from full_size import BOXES_ATOL, FIGURES, LOGITS_ATOL, check_sample, figures, inputs, load_published

from helpers import build, recipe
from sqr.checkpoint import convert, convert_back
from sqr.targets import Targets

KINDS = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


@pytest.mark.parametrize("scales", [4, 5])
def test_evaluation_equals_the_official_model(scales):
    name = f"dino_r50_{scales}scale"
    cfg = recipe({4: "dino/dino_r50_12ep", 5: "dino/dino_r50_5scale_12ep"}[scales]).model
    cfg.num_classes = figures(name)["options"]["num_classes"]
    cfg.query_generator.num_queries = figures(name)["options"]["num_queries"]  # 900 proposals hold near-ties
    model = load_published(build(cfg), name, "dino")
    with torch.no_grad():
        predictions = model.decode(model.encode(inputs(name))).predictions
    logits = torch.stack([p.logits[:, 0] for p in predictions])
    boxes = torch.stack([p.boxes[:, 0] for p in predictions])
    check_sample(logits, figures(name)["logits"], LOGITS_ATOL)
    check_sample(boxes, figures(name)["boxes_cxcywh"], BOXES_ATOL)


def test_evaluation_equals_detrex():
    """It has heads for each stage, no label of "no object" and other positions; it evaluates without a padding mask."""
    name = "detrex_dino_r50"
    cfg = recipe("dino/dino_r50_12ep").model
    cfg.query_generator.num_queries = figures(name)["options"]["num_queries"]
    cfg.query_generator.denoising.num_labels = cfg.num_classes
    cfg.decoder.stages.shared_heads = False
    cfg.encoder.position_embedding.temperature = 10000.0
    cfg.encoder.position_embedding.offset = -0.5
    model = load_published(build(cfg), name, "detrex_dino")
    with torch.no_grad():
        images, mask = model.preprocess(inputs(name))
        memory = model.encoder(model.backbone(images), torch.zeros_like(mask))
        predictions = model.decoder(model.query_generator(memory).state, memory)
    check_sample(torch.stack([p.logits[:, 0] for p in predictions]), figures(name)["logits"], LOGITS_ATOL)
    check_sample(torch.stack([p.boxes[:, 0] for p in predictions]), figures(name)["boxes_cxcywh"], BOXES_ATOL)


def small_model():
    """The model of the training figures, and the official names of its parameters."""
    cfg = recipe("dino/dino_r50_12ep").model
    cfg.num_classes = 91
    cfg.query_generator.num_queries = 30
    cfg.query_generator.denoising.num_queries = 60
    cfg.encoder.layers.num_layers = 1
    cfg.encoder.layers.ffn_dim = 64
    cfg.decoder.stages.num_stages = 3
    model = build(cfg).train()

    def official(key: str) -> str:  # heads are shared by all stages and listed twice
        return re.sub(r"(?:transformer\.decoder\.)?((?:class|bbox)_embed)\.\d\.", r"transformer.decoder.\1.0.", key)

    shapes = {key: tuple(value.shape) for key, value in convert_back(model.state_dict(), "dino").items()}
    state, report = convert({key: seeded.tensor(official(key), shape) for key, shape in shapes.items()})
    model.load_state_dict(state)
    return model, {official(key): name for key, name in report.renamed.items()}


def test_losses_and_gradients_equal_the_official_ones():
    """The noise too: it is drawn in the official order."""
    data = json.loads((FIGURES / "training" / "dino_r50_small.json").read_text())
    model, names = small_model()
    targets = Targets.from_lists([torch.tensor(x) for x in data["labels"]], [torch.tensor(x) for x in data["boxes"]])
    batch = [{"image": image} for image in seeded.images(data["image_seed"], data["sizes"])]
    torch.manual_seed(data["seed"])
    losses = model.losses(model.decode(model.encode(batch), targets), targets)
    assert len(losses) == len(data["losses"])
    for key, ours in losses.items():
        kind, step = key.removeprefix("loss_").split("/")
        number = re.search(r"stage(\d)", step)
        place = "" if number is None or number[1] == "3" else f"_{int(number[1]) - 1}"
        suffix = "_interm" if step == "proposals" else ("_dn" if step.startswith("denoising") else "") + place
        assert ours.item() == pytest.approx(data["losses"][KINDS[kind] + suffix], rel=1e-4), key
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, theirs in data["gradients"].items():
        ours = parameters[names[key]].grad.flatten()
        # rounding grows on the way to the backbone: 1 % there, 0.1 % in the decoder
        assert ours.norm().item() == pytest.approx(theirs["norm"], rel=5e-3), key
        error = (ours[theirs["index"]] - torch.tensor(theirs["value"])).abs().max()
        assert error <= 0.02 * torch.tensor(theirs["value"]).abs().max() + 0.05 * theirs["norm"] / len(ours) ** 0.5, key
