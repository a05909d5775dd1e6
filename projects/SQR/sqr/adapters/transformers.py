"""Hugging Face ``transformers`` detectors under this package's contracts: recollection, trainer, analysis, predictor.

Backbone, encoder, query selection, denoising, losses and weights are theirs; the decoder loop is ours. Their network
runs unchanged except for its decoder, which is replaced by :class:`~sqr.decoder.RecollectingDecoder`. It returns every
set of queries as if it were another layer, so that their own loss trains all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..classification import FocalClassification
from ..decoder import RecollectingDecoder
from ..errors import UserError
from ..meta_arch import QueryBasedDetector
from ..postprocessing import Postprocessor, TopKPostprocessor
from ..structures import Decoded, InitialQueries, QueryState, StagePrediction
from ..targets import Targets
from .transformers_stages import FAMILIES


class TransformersDetector(QueryBasedDetector):
    """A ``...ForObjectDetection`` model of ``transformers`` whose decoder runs a recollection plan.

    Args:
        network: of a family in :data:`~sqr.adapters.transformers_stages.FAMILIES`.
        decoder: options of :class:`~sqr.decoder.RecollectingDecoder` other than its stages.
        image_size: ``(height, width)`` that every image is resized to, as their processors do; None pads the images of
            a batch instead.
        postprocessor: None selects the 300 best detections.
        pixel_mean, pixel_std: of each channel, in RGB and the range 0 to 255.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        decoder: Mapping[str, Any],
        image_size: Sequence[int] | None,
        postprocessor: Postprocessor | None = None,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
    ):
        kind = network.config.model_type
        if kind not in FAMILIES:
            raise UserError(f"transformers' {kind} has no stages here; there are {', '.join(FAMILIES)}")
        stages = [FAMILIES[kind](network, i) for i in range(len(network.model.decoder.layers))]
        super().__init__(
            backbone=nn.Identity(),
            encoder=_PixelsAndMask(),
            query_generator=nn.Identity(),
            decoder=RecollectingDecoder(stages=stages, **decoder),
            criterion=_TheirLoss(),
            postprocessor=TopKPostprocessor(topk=300) if postprocessor is None else postprocessor,
            num_classes=network.config.num_labels,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.network = network
        self.image_size = None if image_size is None else tuple(image_size)

    def preprocess(self, batched_inputs: Sequence[dict]) -> tuple[Tensor, Tensor]:
        """As :meth:`QueryBasedDetector.preprocess`; with ``image_size`` nothing is padded."""
        if self.image_size is not None:
            batched_inputs = [{"image": _resize(x["image"], self.image_size)} for x in batched_inputs]
        return super().preprocess(batched_inputs)

    def decode(self, memory: tuple[Tensor, Tensor], targets: Targets | None = None) -> Decoded:
        """Run their network, including its encoder, with our decoder in place of theirs.

        Args:
            memory: images and padding mask.
            targets: for their denoising and their loss, in training.
        """
        images, mask = memory
        config, stage = self.network.config, self.decoder.stages[0]
        predictions: list[StagePrediction] = []

        def play(*, inputs_embeds: Tensor, reference_points: Tensor, **arguments: Any) -> _DecoderOutput:
            predictions.extend(self.decoder(stage.start(inputs_embeds, reference_points), arguments))
            # the loss of some families weighs as many layers as the config says there are
            config.decoder_layers = sum(p.logits.shape[1] for p in predictions)
            return _DecoderOutput(stage.outputs(predictions))

        labels = None if targets is None else _labels(targets)
        layers = config.decoder_layers
        try:
            with _replaced(self.network.model.decoder, "forward", play):
                output = self.network(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)
        finally:
            config.decoder_layers = layers
        nothing = images.new_empty(len(images), 0, 4)
        decoded = _DecodedWithLosses(predictions, None, None, None, InitialQueries(QueryState(nothing, nothing)))
        decoded.losses = {} if labels is None else _by_kind(output.loss, output.loss_dict, config)
        return decoded

    def losses(self, decoded: Decoded, targets: Targets) -> dict[str, Tensor]:
        """Their losses, with their weights.

        They are normalised by the number of objects in the input. If a batch is processed in parts, each part is
        weighted by its share of the batch's objects.
        """
        share = max(1, len(targets)) / max(1, targets.totals.objects)
        return {name: share * value for name, value in decoded.losses.items()}


def from_transformers(
    *,
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    decoder: Mapping[str, Any] | None = None,
    image_size: Sequence[int] | None = (640, 640),
    postprocessor: Postprocessor | None = None,
    pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
    pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
) -> TransformersDetector:
    """Build a detector of ``transformers`` that recollects.

    Args:
        pretrained: a directory with ``config.json`` and ``model.safetensors`` (or a name on the hub, where that can be
            reached), whose weights are loaded.
        config: without ``pretrained``, the values of a config with its ``model_type``; weights are random.
        num_classes: ``K``; heads for a number other than the directory's are reinitialised. None keeps the directory's.
        decoder, image_size, postprocessor, pixel_mean, pixel_std: see :class:`TransformersDetector`. RT-DETR and D-FINE
            take images divided by 255, LW-DETR and RF-DETR ImageNet's mean and deviation.

    Raises:
        UserError: ``transformers`` is not installed, no such model, or one of another family.
    """
    try:
        from transformers import AutoConfig, AutoModelForObjectDetection
    except ImportError as error:
        raise UserError(
            f"this detector needs transformers: pip install 'detectron2-sqr[transformers]' ({error})"
        ) from error
    changes = {} if num_classes is None else {"num_labels": num_classes}
    trust = {"trust_remote_code": False}  # without it a directory's own code may run once somebody answers "y"
    if pretrained is not None:
        try:
            network = AutoModelForObjectDetection.from_pretrained(
                pretrained, ignore_mismatched_sizes=True, **trust, **changes
            )
        except (OSError, ValueError) as error:
            raise UserError(f"pretrained={pretrained}: {error}") from error
    else:
        values = OmegaConf.to_container(OmegaConf.create(dict(config or {})), resolve=True)
        network = AutoModelForObjectDetection.from_config(AutoConfig.for_model(**{**values, **changes}), **trust)
    return TransformersDetector(
        network=network,
        decoder=decoder or {},
        image_size=image_size,
        postprocessor=postprocessor,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


class _DecodedWithLosses(Decoded):
    losses: dict[str, Tensor]


class _DecoderOutput:
    """The fields of the decoder output that their model reads; None for those we do not provide."""

    def __init__(self, values: Mapping[str, Tensor]):
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _PixelsAndMask(nn.Module):
    """Placeholder for the encoder, which runs inside their network."""

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        return images, padding_mask


class _TheirLoss(nn.Module):
    """Placeholder for the criterion, whose probabilities inference needs."""

    def __init__(self):
        super().__init__()
        self.classification = FocalClassification()


@contextmanager
def _replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance temporarily; afterwards the class attribute is visible again."""
    module.__dict__[name] = value
    try:
        yield
    finally:
        del module.__dict__[name]


def _labels(targets: Targets) -> list[dict[str, Tensor]]:
    """Targets in the format of ``transformers``: one dictionary per image."""
    parts = zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True)
    return [{"class_labels": labels, "boxes": boxes} for labels, boxes in parts]


def _by_kind(loss: Tensor, parts: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Their loss as one scalar per kind, or as one in total if they weight the parts outside the dictionary."""
    if not hasattr(config, "weight_loss_vfl"):
        return {"loss": loss}
    kinds: dict[str, Tensor] = {}
    for name, value in parts.items():
        kind = re.sub(r"_aux_\d+$", "", re.sub(r"_dn_\d+$", "/denoising", name))
        kinds[kind] = kinds.get(kind, 0) + value
    return kinds


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``(3, h, w)`` uint8 or float -> ``(3, *size)`` float32, bilinear, antialiased as their processors do."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
