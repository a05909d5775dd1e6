"""``sqr predict`` and ``tools/demo.py``: detect on images and video."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from PIL import Image

from ..data import read_image
from ..errors import UsageError, UserError, one_line, report_error
from ..files import write_text
from ..predictor import Predictor
from ..visualization.drawing import draw_detections, draw_stages
from ..visualization.sources import Video, VideoFile, find_inputs, is_video, opencv
from .model_choice import chosen_model
from .options import predict_parser


@dataclass
class Results:
    """Predictions and failures, written as JSON however the command ends."""

    class_names: Sequence[str]
    score_threshold: float
    images: list[dict] = field(default_factory=list)
    failed: list[dict] = field(default_factory=list)

    def add(self, name: str, instances: Instances, **more: object) -> None:
        """Keep the detections of one image or frame."""
        height, width = instances.image_size
        found = self.detections(instances)
        self.images.append({"file": name, **more, "height": height, "width": width, "detections": found})

    def detections(self, instances: Instances) -> list[dict]:
        """One dict per detection; boxes are absolute xyxy in pixels."""
        boxes = instances.pred_boxes.tensor.tolist()
        return [
            {
                "class": self.class_names[label],
                "class_id": label,
                "score": round(score, 4),
                "box": [round(x, 2) for x in box],
            }
            for label, score, box in zip(instances.pred_classes.tolist(), instances.scores.tolist(), boxes, strict=True)
        ]

    def write(self, path: Path) -> None:
        """Store everything."""
        write_text(path, json.dumps(vars(self), indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (1 if an input failed or an option is wrong, 130 after Ctrl-C)."""
    args = predict_parser().parse_args(argv)
    try:
        return run(args)
    except (UserError, OSError) as error:
        return report_error(error)


def run(args: argparse.Namespace) -> int:
    """Predict, draw and store as the options say."""
    names = [*args.inputs, *args.input]
    if bool(names) == (args.webcam is not None):
        raise UsageError("give images, folders, patterns or videos, or --webcam")
    inputs = find_inputs(names)
    if args.stages and (args.webcam is not None or all(is_video(path) for path, _ in inputs)):
        raise UsageError("--stages draws images, not video")
    if args.output is None and args.json is None and not args.show:
        args.output = Path("output/predictions")
    if args.show:
        opencv("--show")
    config, weights = chosen_model(args)
    predictor = Predictor.from_config(
        config, weights, overrides=args.opts, device=args.device, score_threshold=args.score_threshold
    )
    results = Results(list(predictor.class_names), args.score_threshold)
    code = 0
    try:
        if args.webcam is not None:
            _video(args.webcam, Path(f"camera_{args.webcam}"), predictor, args, results)
        for path, target in inputs:
            try:
                (_video if is_video(path) else _image)(path, target, predictor, args, results)
            except (ValueError, RuntimeError) as error:  # one bad image must not end the command
                text = one_line(error) if str(path) in str(error) else f"{path}: {one_line(error)}"
                results.failed.append({"file": str(path), "error": text})
                print(f"skipped: {text}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    finally:
        if args.json is not None:
            results.write(args.json)
    for name, path in (("Pictures", args.output), ("Detections", args.json)):
        if path is not None and results.images:
            print(f"{name}: {path}")
    if results.failed:
        print(f"error: {len(results.failed)} of {len(inputs)} inputs failed, see above", file=sys.stderr)
        code = code or 1
    return code


def _image(path: Path, target: Path, predictor: Predictor, args: argparse.Namespace, results: Results) -> None:
    """Process one image: detections, and the requested pictures."""
    started = time.perf_counter()
    pixels = read_image(str(path))
    instances = predictor(pixels, color="RGB")
    print(f"{path}: {_counts(instances, predictor)}  ({time.perf_counter() - started:.2f} s)", flush=True)
    results.add(str(path), instances)
    if args.output is None and not args.show:
        return
    picture = draw_detections(pixels, instances, predictor.class_names)
    if args.show:
        _show(picture[:, :, ::-1], wait=0)
    if args.output is None:
        return
    place = args.output / target.with_suffix(".png" if target.suffix.lower() not in (".jpg", ".jpeg") else ".jpg")
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(place)
    if args.stages:
        outputs = predictor.stages(pixels, color="RGB")
        figure = draw_stages(pixels, outputs, predictor.class_names, queries=args.queries, title=path.name)
        figure.savefig(place.with_name(f"{place.stem}_stages.png"))


def _video(source: Path | int, target: Path, predictor: Predictor, args: argparse.Namespace, results: Results) -> None:
    """A video file or a camera, frame by frame."""
    opencv("video")
    video = Video(source)
    name = f"camera {source}" if isinstance(source, int) else str(source)
    place = (args.output or Path()) / target.with_suffix(f".{args.video_format}")
    started, done = time.perf_counter(), 0
    with VideoFile(place, video.fps) as written:
        for index, frame in enumerate(video):
            if args.max_frames and index == args.max_frames:
                break
            instances = predictor(frame)
            results.add(name, instances, frame=index)
            done = index + 1
            if args.output is not None or args.show:
                drawn = draw_detections(frame[:, :, ::-1], instances, predictor.class_names, smallest=0)
                if args.output is not None:
                    written.write(drawn[:, :, ::-1])
                if args.show and _show(drawn[:, :, ::-1], wait=1):
                    break
            if done % 100 == 0:
                print(f"{name}: {done} of {video.num_frames or '?'} frames", flush=True)
    seconds = time.perf_counter() - started
    print(f"{name}: {done} frames  ({done / seconds:.1f} frames/s)", flush=True)


def _show(picture: np.ndarray, wait: int) -> bool:
    """Show a BGR picture in a window; return whether the user asked to stop with Escape or q."""
    cv2 = opencv("--show")
    try:
        cv2.imshow("detections", np.ascontiguousarray(picture))
        return cv2.waitKey(wait) in (27, ord("q"))
    except cv2.error as error:
        raise UserError("--show needs a display and an OpenCV with windows (opencv-python); leave it out") from error


def _counts(instances: Instances, predictor: Predictor) -> str:
    """``3 circle, 1 star``."""
    counts = Counter(instances.pred_classes.tolist())
    return ", ".join(f"{n} {predictor.class_names[label]}" for label, n in counts.most_common()) or "nothing"
