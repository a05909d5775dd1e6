"""A batch fed in parts is the batch fed at once: the same losses, gradients and step."""

import pytest
import torch
from torch import nn

from engine_toys import ToyDetector, ToyMapper, toy_dicts
from helpers import build, random_batch
from small_models import small_config
from sqr.engine import Trainer, build_train_loader


class FedBy(Trainer):
    """A trainer that is given one batch and does not step."""

    def __init__(self, model, batch, parts):
        super().__init__(
            model,
            build_train_loader(batch, mapper=dict, total_batch_size=len(batch)),
            torch.optim.SGD(model.parameters(), lr=0.0),
            seed=1,
            accumulation_steps=parts,
        )


# one loss normalised by objects (focal), one that is a mean of its own (softmax); two-stage and auxiliary sets too
@pytest.mark.parametrize("detector", ["deformable_two_stage", "detr"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_have_the_losses_and_gradients_of_the_whole(detector, parts):
    # the last part has no object at all: its class loss counts all the same
    batch = random_batch([(96, 128)] * 4, [3, 0, 2, 0])
    found = []
    for number in (1, parts):
        model = build(small_config(detector, num_stages=3)).train()
        losses = FedBy(model, batch, number)._forward_and_backward(batch)
        found.append((losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (whole, whole_grads), (sums, grads) = found
    assert whole.keys() == sums.keys() and whole_grads.keys() == grads.keys()
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    scale = max(g.abs().max() for g in whole_grads.values())
    for name, gradient in whole_grads.items():
        assert (grads[name] - gradient).abs().max() <= 1e-4 * scale, name


def test_a_step_in_parts_is_the_step_at_once():
    stepped = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = ToyDetector(dropout=0.0)
        loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)
        trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=1e-3), seed=1, accumulation_steps=parts)
        trainer.train(0, 3)
        stepped.append((model.state_dict(), trainer.storage.history("total_loss").latest(), trainer.samples_seen))
    (a, loss_a, seen_a), (b, loss_b, seen_b) = stepped
    assert loss_a == pytest.approx(loss_b, rel=1e-5) and seen_a == seen_b == 12
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-6)


def test_only_one_part_is_in_memory_at_a_time():
    sizes = []

    class Watching(ToyDetector):
        def forward(self, batched_inputs, **options):
            sizes.append(len(batched_inputs))
            return super().forward(batched_inputs, **options)

    model = Watching()
    loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)
    Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.0), seed=1, accumulation_steps=2).train(0, 2)
    assert sizes == [2, 2, 2, 2] and isinstance(model, nn.Module)
