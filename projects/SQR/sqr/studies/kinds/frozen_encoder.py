"""Outputs of the frozen part of a trained model on a dataset, computed once and cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files import write_atomically
from ...meta_arch import QueryBasedDetector
from ...structures import ImagePredictions, QueryState


@dataclass
class EncodedImages:
    """``N`` images behind the encoder.

    Attributes:
        memory: the encoder's, of all images.
        state: initial queries, ``(N, 1, Q, ...)``.
        inputs: Detectron2's dicts, with a placeholder of the same size instead of the pixels.
    """

    memory: object
    state: QueryState
    inputs: list[dict]

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, index: Sequence[int]) -> tuple[object, QueryState, list[dict]]:
        """Memory, initial queries and inputs of some images."""
        rows, inputs = torch.as_tensor(index), [self.inputs[i] for i in index]
        state = QueryState(
            self.state.content[rows], self.state.reference[rows], {k: v[rows] for k, v in self.state.extras.items()}
        )
        batched = {k: v[rows] for k, v in _tensors(self.memory).items()}
        return replace(self.memory, **batched), state, inputs


class EncodedDetector(nn.Module):
    """A detector whose images are given by their ``row`` in the cached encodings; implements the stage contract."""

    def __init__(self, model: QueryBasedDetector, images: EncodedImages):
        super().__init__()
        self.model, self.images, self.postprocessor = model, images, model.postprocessor

    @torch.no_grad()
    def forward_stages(self, batched_inputs: Sequence[dict]) -> list[ImagePredictions]:
        memory, state, inputs = self.images.rows([x["row"] for x in batched_inputs])
        return self.model.stage_outputs(self.model.decoder(state, memory), inputs)


@torch.no_grad()
def encode_images(
    model: QueryBasedDetector, samples: Sequence[dict], mapper, *, cache: Path, key: str, chunk: int = 25
) -> EncodedImages:
    """Run backbone, encoder and query generator over images of at most one size.

    Args:
        model: in evaluation mode; its query generator makes one group of queries.
        samples: Detectron2's dataset dicts.
        mapper: makes inputs of them, ``instances`` included.
        cache: folder of the files; later calls with the same key read them.
        key: everything that the outcome depends on.
        chunk: images per batch.
    """
    inputs = []
    for row, sample in enumerate(samples):
        mapped = mapper(sample)
        pixels = mapped.pop("image")
        stand_in = torch.zeros(1, 1, 1, dtype=pixels.dtype).expand(pixels.shape)
        inputs.append({**mapped, "image": stand_in, "pixels": pixels, "row": row})
    path = cache / f"encoded_{hashlib.sha256(key.encode()).hexdigest()[:16]}.pth"
    largest = max(max(x["pixels"].shape[-2:]) for x in inputs)
    divisibility, model.size_divisibility = model.size_divisibility, largest  # all batches are padded alike
    try:
        batches = [[{**x, "image": x["pixels"]} for x in inputs[i : i + chunk]] for i in range(0, len(inputs), chunk)]
        example = model.encode(batches[0][:1])
        if path.is_file():
            stored = torch.load(path, weights_only=True)
        else:
            stored = _encode(model, batches)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(stored, file))
    finally:
        model.size_divisibility = divisibility
    for x in inputs:
        del x["pixels"]
    return EncodedImages(replace(example, **stored["memory"]), QueryState(**stored["state"]), inputs)


def _encode(model: QueryBasedDetector, batches: Sequence[list[dict]]) -> dict:
    memories, states = [], []
    for batch in batches:
        memory = model.encode(batch)
        state = model.query_generator(memory).state
        memories.append(_tensors(memory))
        states.append({"content": state.content, "reference": state.reference, "extras": state.extras})
    return {
        "memory": {k: torch.cat([m[k] for m in memories]) for k in memories[0]},
        "state": {
            "content": torch.cat([s["content"] for s in states]),
            "reference": torch.cat([s["reference"] for s in states]),
            "extras": {k: torch.cat([s["extras"][k] for s in states]) for k in states[0]["extras"]},
        },
    }


def _tensors(memory: object) -> dict[str, Tensor]:
    """The fields of a memory with one row per image."""
    return {f.name: v for f in fields(memory) if isinstance(v := getattr(memory, f.name), Tensor)}
