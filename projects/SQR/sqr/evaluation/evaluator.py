"""A Detectron2 evaluator of all stages, and the wrapper with which ``inference_on_dataset`` runs it.

Uses only two things of a detector: ``forward_stages(batched_inputs) -> list[ImagePredictions]`` and its
``postprocessor``.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn

from ..files import write_json
from ..structures import ImagePredictions
from .analysis import EPSILONS, RATE_IOUS, StageAnalysis, analyze
from .finite_outputs import require_finite
from .ground_truth import load_coco
from .storage import write_meta, write_shard
from .table_output import write_csv
from .tables import DetectionTable, ImageTables, assemble

logger = logging.getLogger(__name__)


class StageInference(nn.Module):
    """Runs a detector so that its outputs carry all stages.

    Args:
        model: has ``forward_stages`` and ``postprocessor``.

    The forward returns one dict per image: ``instances``, the detector's ordinary output (its
    postprocessor on the last stage); ``stages``, a :class:`~sqr.structures.ImagePredictions`;
    ``stage_instances``, the output if the detector ended at each stage, the last one being
    ``instances``. Ordinary evaluators can therefore run in the same pass as :class:`StageEvaluator`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        for name in ("forward_stages", "postprocessor"):
            if not hasattr(model, name):
                raise TypeError(
                    f"{type(model).__name__} has no {name}: stage-wise analysis needs the stage contract "
                    "(forward_stages and postprocessor); wrapped models must be unwrapped first"
                )
        self.model = model

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        outputs = []
        for own, stages in zip(batched_inputs, self.model.forward_stages(batched_inputs), strict=True):
            for name in ("scores", "boxes"):
                require_finite(getattr(stages, name), name, own.get("image_id", own.get("file_name", "?")))
            instances = [
                self.model.postprocessor(scores, boxes, stages.image_size)
                for scores, boxes in zip(stages.scores, stages.boxes, strict=True)
            ]
            outputs.append({"instances": instances[-1], "stages": stages, "stage_instances": instances})
        return outputs


class StageEvaluator(DatasetEvaluator):
    """AP of every stage, TP fading, FP exacerbation, recoverable misses and the oracle, in one pass over the
    data.

    Args:
        dataset_name: a registered dataset whose metadata has ``json_file`` (COCO format).
        output_dir: predictions go to ``OUTPUT_DIR/predictions`` while inference runs, the numbers to
            ``OUTPUT_DIR/stage_analysis.json`` and ``.csv``; nothing is written when None.
        distributed: gather all ranks' predictions on the main process.
        rate_ious: IoU thresholds of the rates.
        epsilons: margins below which a case is marginal.
        shard_size: images per file of predictions; an interrupted run keeps all complete files and what
            :meth:`flush` adds.
        clip_boxes: clip every query's box to the image before the rates are computed, as the released
            analysis code does for Deformable DETR (and does not for AdaMixer).
        max_dets: see :func:`~sqr.evaluation.analysis.analyze`.
        source, details: short and long descriptions of what was evaluated, stored with the predictions.

    ``process`` takes outputs of :class:`StageInference`. ``evaluate`` returns ``{"stages": {...}}`` with
    plain floats for Detectron2's logs and keeps everything in :attr:`result`. All images of the dataset
    are evaluated, as by ``COCOEvaluator``, whose numbers equal those of the last stage exactly.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        rate_ious: Sequence[float] = RATE_IOUS,
        epsilons: Sequence[float] = EPSILONS,
        shard_size: int = 500,
        clip_boxes: bool = False,
        max_dets: int = 100,
        source: str = "",
        details: str = "",
    ):
        from detectron2.data import MetadataCatalog

        metadata = MetadataCatalog.get(dataset_name)
        if not getattr(metadata, "json_file", None):
            raise ValueError(f"dataset {dataset_name!r} has no json_file: register it from a COCO annotation file")
        self.dataset_name = dataset_name
        self.output_dir = Path(output_dir) if output_dir else None
        self.result: StageAnalysis | None = None
        self._coco = load_coco(metadata.json_file, checked=True)
        self._category_ids = sorted(self._coco.getCatIds())
        self._to_label = _label_lookup(metadata, self._category_ids)
        self._image_root = getattr(metadata, "image_root", "")
        self._json_file = str(metadata.json_file)
        self._distributed = distributed
        self._rate_ious = tuple(rate_ious)
        self._epsilons = tuple(epsilons)
        self._shard_size = shard_size
        self._clip_boxes = clip_boxes
        self._max_dets = max_dets
        self._source, self._details = source or dataset_name, details
        self.reset()

    def reset(self) -> None:
        self._records: list[ImageTables] = []
        self._written = 0
        self._shards = 0
        directory = self._prediction_dir
        if directory is not None and (comm.is_main_process() or not self._distributed):
            for old in directory.glob("part-*.npz") if directory.exists() else ():
                old.unlink()
            write_meta(directory, self._meta())
        if self._distributed:
            comm.synchronize()  # no rank writes before the old files are removed

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        for one, out in zip(inputs, outputs, strict=True):
            if "stages" not in out:
                raise KeyError("outputs have no 'stages': run the model through sqr.evaluation.StageInference")
            self._records.append(self._record(one["image_id"], out["stages"], out["stage_instances"]))
        if len(self._records) - self._written >= self._shard_size:
            self.flush()

    def flush(self) -> None:
        """Write the predictions that are not on disk yet; does nothing without ``output_dir``."""
        new = self._records[self._written :]
        if self._prediction_dir is None or not new:
            return
        write_shard(self._prediction_dir / f"part-{comm.get_rank()}-{self._shards:04d}.npz", new)
        self._shards += 1
        self._written = len(self._records)

    @property
    def num_images(self) -> int:
        """How many images this process has processed."""
        return len(self._records)

    def evaluate(self) -> OrderedDict:
        return self._evaluate(predicted_images_only=False)

    def evaluate_partial(self) -> OrderedDict:
        """Evaluate this process's images only, after an interruption; does not wait for other processes."""
        self._distributed = False
        return self._evaluate(predicted_images_only=True)

    def _evaluate(self, predicted_images_only: bool) -> OrderedDict:
        self.flush()
        records = self._records
        if self._distributed:
            comm.synchronize()
            records = list(itertools.chain(*comm.gather(records, dst=0)))
            if not comm.is_main_process():
                return OrderedDict()
        predictions = assemble(records, self._category_ids, source=self._source, details=self._details)
        self.result = analyze(
            predictions,
            self._coco,
            rate_ious=self._rate_ious,
            epsilons=self._epsilons,
            max_dets=self._max_dets,
            predicted_images_only=predicted_images_only,
            progress=logger.info,
        )
        if self.output_dir is not None:
            save_analysis(self.result, self.output_dir)
        return OrderedDict(stages=flat_metrics(self.result))

    @property
    def _prediction_dir(self) -> Path | None:
        return None if self.output_dir is None else self.output_dir / "predictions"

    def _meta(self) -> dict:
        return {
            "dataset": self.dataset_name,
            "json_file": self._json_file,
            "image_root": str(self._image_root),
            "category_ids": self._category_ids,
            "source": self._source,
            "details": self._details,
        }

    def _record(self, image_id: int, stages: ImagePredictions, instances: Sequence[Instances]) -> ImageTables:
        scores, labels = stages.scores.max(dim=-1)  # (S, Q)
        boxes = stages.boxes
        if self._clip_boxes:
            height, width = stages.image_size
            limit = boxes.new_tensor([width, height, width, height])
            boxes = torch.minimum(boxes.clamp(min=0), limit)
        query = torch.arange(scores.shape[1])
        queries = [self._table(query, labels[s], scores[s], boxes[s]) for s in range(len(scores))]
        detections = [
            self._table(query_ids(one, stages.scores[s]), one.pred_classes, one.scores, one.pred_boxes.tensor)
            for s, one in enumerate(instances)
        ]
        return ImageTables(image_id, tuple(int(x) for x in stages.image_size), queries, detections)

    def _table(self, query: Tensor, label: Tensor, score: Tensor, box: Tensor) -> DetectionTable:
        box = box.detach().to("cpu", torch.float32).numpy().copy()
        box[:, 2:] -= box[:, :2]
        label = label.cpu().numpy()
        if len(label) and label.max() >= len(self._to_label):
            raise ValueError(
                f"the model predicts class {label.max()}, but {self.dataset_name} has {len(self._to_label)} classes"
            )
        return DetectionTable(
            image=np.zeros(len(label), dtype=np.int32),
            query=query.cpu().numpy().astype(np.int32),
            label=self._to_label[label],
            score=score.detach().to("cpu", torch.float32).numpy(),
            box=box,
        )


def query_ids(instances: Instances, scores: Tensor) -> Tensor:
    """Which query every detection came from.

    Args:
        instances: the postprocessor's output: with ``query_ids``, or else with ``scores`` and
            ``pred_classes``, which are looked up in the queries' scores (equal scores are assigned in ascending
            order of queries).
        scores: ``(Q, K)`` scores that the postprocessor received.

    Returns:
        ``(n,)`` int64.

    Raises:
        ValueError: a score that no query has: the postprocessor changes scores, so it must return
            ``query_ids``.
    """
    if instances.has("query_ids"):
        return instances.query_ids
    found = torch.full((len(instances),), -1, dtype=torch.int64)
    column = scores.detach().cpu()[:, instances.pred_classes.cpu()]  # (Q, n)
    same = column == instances.scores.detach().cpu()
    used: set[tuple[int, int]] = set()
    for n, label in enumerate(instances.pred_classes.tolist()):
        for q in torch.nonzero(same[:, n]).flatten().tolist():
            if (q, label) not in used:
                used.add((q, label))
                found[n] = q
                break
        else:
            raise ValueError(
                "a detection's score is no query's score: the postprocessor must add a query_ids field to Instances"
            )
    return found


def flat_metrics(result: StageAnalysis) -> dict[str, float]:
    """The headline numbers by name, for logs: ``AP-stage1`` ..., ``oracle-AP``, ``TP-F@0.5``, ``FP-E@0.5`` ..."""
    flat = {f"AP-stage{s}": m["AP"] for s, m in enumerate(result.stages, start=1)}
    if result.oracle is not None:
        flat["oracle-AP"] = result.oracle["AP"]
        if result.chance is not None:
            flat["oracle-AP-by-chance"] = result.chance.mean
    for rate in result.summary()["rates"]:
        for name, key in (("TP-F", "fading"), ("FP-E", "exacerbation"), ("FN-R", "recoverable_misses")):
            value = rate[key]["rate"]
            flat[f"{name}@{rate['iou']:g}"] = float("nan") if value is None else value
        if "chance" in rate["fading"]:
            flat[f"TP-F-by-chance@{rate['iou']:g}"] = rate["fading"]["chance"]["mean"]
    return flat


def save_analysis(result: StageAnalysis, directory: str | Path) -> None:
    """Write ``stage_analysis.json`` and ``stage_analysis.csv`` (long form: section, item, metric, value)."""
    directory = Path(directory)
    summary = result.summary()
    write_json(directory / "stage_analysis.json", summary)
    write_csv(directory / "stage_analysis.csv", summary)


def _label_lookup(metadata, category_ids: Sequence[int]) -> np.ndarray:
    """``(K,)`` from the model's contiguous class to the position in ``category_ids``."""
    mapping = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
    if mapping is None:
        mapping = {c: k for k, c in enumerate(category_ids)}
    back = {contiguous: dataset for dataset, contiguous in mapping.items()}
    position = {c: k for k, c in enumerate(category_ids)}
    return np.asarray([position[back[k]] for k in range(len(back))], dtype=np.int32)
