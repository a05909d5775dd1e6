"""Two-stage Deformable DETR (with refinement), ResNet-50, 50 epochs. Paper's COCO val2017 AP: 46.9. Not run here."""

from detectron2.config import LazyCall as L

from sqr.detectors.deformable_detr import ProposalQueries

from .deformable_detr_refine_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.stages.two_stage = True
model.query_generator = L(ProposalQueries)(num_queries=300, num_classes="${..num_classes}", dim="${..encoder.dim}")
optimizer.params.lr_multipliers = {"backbone": 0.1, "sampling_offsets": 0.1}  # it has no reference_points
