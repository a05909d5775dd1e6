"""The detector: backbone, encoder, initial queries, recollecting decoder, set loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from .boxes import cxcywh_to_xyxy
from .criterion import SetCriterion
from .decoder import RecollectingDecoder
from .layers.padding import PaddingZeroer
from .postprocessing import Postprocessor
from .structures import BatchTotals, Decoded, ImagePredictions, StagePrediction
from .targets import Targets


@META_ARCH_REGISTRY.register()
class QueryBasedDetector(nn.Module):
    """A query-based detector under Detectron2's contract.

    Args:
        backbone: ``(B, 3, height, width)`` -> features by name.
        encoder: ``(features, padding_mask)`` -> memory.
        query_generator: ``(memory, targets)`` -> :class:`~sqr.structures.InitialQueries`; ``targets`` are the batch's
            objects in training and None in evaluation.
        decoder: runs the stages by a recollection plan in training, in sequence in evaluation.
        criterion: the set loss.
        postprocessor: ``(scores (Q, K), boxes (Q, 4) absolute xyxy, image_size)`` -> ``Instances``.
        num_classes: ``K``, with which the data is checked.
        pixel_mean, pixel_std: of each channel, in ``input_format`` and the range 0 to 255.
        input_format: channel order that the model expects.
        size_divisibility: pad the batch to a multiple of this; 0 pads to the largest image only (as published).
        ignore_padding: keep the backbone's convolutions from reading padding, so that an image's predictions do not
            depend on the rest of its batch; encoders have an option of the same name, which configs set to the same
            value. It needs a ``size_divisibility`` that is a multiple of every level's stride.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        encoder: nn.Module,
        query_generator: nn.Module,
        decoder: RecollectingDecoder,
        criterion: SetCriterion,
        postprocessor: Postprocessor,
        num_classes: int,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        size_divisibility: int = 0,
        ignore_padding: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.query_generator = query_generator
        self.decoder = decoder
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.num_classes = num_classes
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.padding_zeroer = PaddingZeroer(backbone) if ignore_padding else None
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Sequence[dict], batch_totals: BatchTotals | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detectron2's contract.

        Args:
            batched_inputs: dicts with ``image`` ``(3, h, w)`` uint8 or float in 0 to 255; ``instances`` in training;
                in evaluation ``height`` and ``width`` of the image that boxes refer to (the input's if absent).
            batch_totals: if a training batch is processed in parts, the objects and images of all parts, by which
                losses are then normalised.

        Returns:
            In training the weighted losses (:class:`~sqr.criterion.SetCriterion`); in evaluation one
            ``{"instances": Instances}`` per image, boxes absolute xyxy.
        """
        if self.training:
            # on the host, before any work on the device: bad data is found first
            targets = Targets.from_batched_inputs(
                batched_inputs, num_classes=self.num_classes, device=self.device, totals=batch_totals
            )
            return self.losses(self.decode(self.encode(batched_inputs), targets), targets)
        predictions = self.decode(self.encode(batched_inputs)).predictions
        return [
            {"instances": self.postprocessor(o.scores[-1], o.boxes[-1], o.image_size)}
            for o in self.stage_outputs(predictions[-1:], batched_inputs)
        ]

    @torch.no_grad()
    def forward_stages(self, batched_inputs: Sequence[dict]) -> list[ImagePredictions]:
        """The predictions of every stage, one result per image: the contract of analysis and visualisation.

        Ordinary inference is ``postprocessor(o.scores[-1], o.boxes[-1], o.image_size)`` for each.

        Raises:
            RuntimeError: in training mode, whose groups do not form a sequence of stages.
        """
        if self.training:
            raise RuntimeError("forward_stages runs the inference plan: call model.eval() first")
        return self.stage_outputs(self.decode(self.encode(batched_inputs)).predictions, batched_inputs)

    def preprocess(self, batched_inputs: Sequence[dict]) -> tuple[Tensor, Tensor]:
        """Normalise, then pad with zeros.

        Returns:
            ``(B, 3, height, width)`` and the padding mask ``(B, height, width)``, True where padded. The mask always
            comes from the images' sizes, in training and in evaluation.
        """
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        padded = ImageList.from_tensors(images, self.size_divisibility)
        sizes = torch.tensor([tuple(size) for size in padded.image_sizes]).to(self.device, non_blocking=True)
        return padded.tensor, padding_mask(sizes, *padded.tensor.shape[-2:])

    def decode(self, memory: object, targets: Targets | None = None) -> Decoded:
        """Run the query generator and the decoder with the active plan.

        Args:
            memory: from :meth:`encode`.
            targets: in training the batch's objects, from which a query generator may make queries.
        """
        initial = self.query_generator(memory, targets)
        states, blocks = [initial.state], 0
        if initial.auxiliary is not None:
            states.append(initial.auxiliary)
        if (denoising := initial.denoising) is not None and denoising.sees_queries:
            blocks = denoising.state.num_groups // initial.state.num_groups
            states[0] = initial.state.beside(denoising.state)
        elif denoising is not None:
            states.append(denoising.state)
        predictions, *others = self.decoder.forward_sets(states, memory)
        auxiliary = None if initial.auxiliary is None else others[0]
        denoised = others[-1] if denoising is not None and not blocks else None
        if blocks:
            pairs = [p.split(initial.state.content.shape[2], blocks) for p in predictions]
            predictions, denoised = ([pair[i] for pair in pairs] for i in (0, 1))
        return Decoded(predictions, initial.proposals, auxiliary, denoised, initial)

    def losses(self, decoded: Decoded, targets: Targets) -> dict[str, Tensor]:
        """The weighted losses of :meth:`decode`'s result in training."""
        predictions, proposals, auxiliary, denoising, initial = decoded
        return self.criterion(
            predictions,
            self.decoder.active_plan,
            targets,
            proposals,
            auxiliary,
            denoising,
            assignment=initial.denoising and initial.denoising.assignment,
            classed_proposals=initial.classed_proposals,
        )

    def encode(self, batched_inputs: Sequence[dict]) -> object:
        """The encoder's memory of a batch."""
        return self.encode_images(*self.preprocess(batched_inputs))

    def encode_images(self, images: Tensor, padding_mask: Tensor) -> object:
        """The encoder's memory of :meth:`preprocess`'s result."""
        if self.padding_zeroer is None:
            return self.encoder(self.backbone(images), padding_mask)
        with self.padding_zeroer.beyond(padding_mask):
            features = self.backbone(images)
        return self.encoder(features, padding_mask)

    def stage_outputs(
        self, predictions: Sequence[StagePrediction], batched_inputs: Sequence[dict]
    ) -> list[ImagePredictions]:
        """The first (at inference: only) group of each step, boxes scaled to the original images."""
        probabilities = self.criterion.classification.probabilities
        scores = torch.stack([probabilities(p.logits[:, 0]) for p in predictions], dim=1)  # (B, S, Q, K)
        boxes = torch.stack([cxcywh_to_xyxy(p.boxes[:, 0].float()) for p in predictions], dim=1)
        outputs = []
        for image_scores, image_boxes, inputs in zip(scores, boxes, batched_inputs, strict=True):
            height = int(inputs.get("height", inputs["image"].shape[-2]))
            width = int(inputs.get("width", inputs["image"].shape[-1]))
            scale = image_boxes.new_tensor([width, height, width, height])
            outputs.append(ImagePredictions(image_scores, image_boxes * scale, (height, width)))
        return outputs


def padding_mask(image_sizes: Tensor, height: int, width: int) -> Tensor:
    """``(B, 2)`` heights and widths of images without padding -> ``(B, height, width)`` bool, True where padded."""
    below = torch.arange(height, device=image_sizes.device)[None] >= image_sizes[:, :1]  # (B, height)
    beside = torch.arange(width, device=image_sizes.device)[None] >= image_sizes[:, 1:]
    return below[:, :, None] | beside[:, None]
