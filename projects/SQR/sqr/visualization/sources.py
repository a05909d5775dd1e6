"""Images, folders, patterns, video files and cameras as inputs; video files as outputs."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np

from ..errors import UserError

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
_CODECS = {".avi": "MJPG", ".mp4": "mp4v"}


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEOS


def find_inputs(names: Sequence[str]) -> list[tuple[Path, Path]]:
    """Files by name, folder or pattern.

    Args:
        names: files; folders, of which all images and videos at any depth are taken; patterns as ``"photos/*.jpg"``.

    Returns:
        Each file once, and the relative path of its result: the path below a given folder, else the file's name.

    Raises:
        UserError: nothing was found.
    """
    found: dict[Path, Path] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in IMAGES | VIDEOS and f.is_file()]
            matches = {f: f.relative_to(path) for f in files}
            problem = "holds no image or video"
        elif path.is_file():
            matches, problem = {path: Path(path.name)}, ""
        else:
            files = [Path(f) for f in sorted(glob.glob(name, recursive=True))]
            matches = {f: Path(f.name) for f in files if f.is_file()}
            problem = "no such file or folder, and no file matches it"
        if not matches:
            raise UserError(f"{name}: {problem}")
        for file, target in matches.items():
            found.setdefault(file, target)
    return _without_collisions(found)


def _without_collisions(found: dict[Path, Path]) -> list[tuple[Path, Path]]:
    """Number results with equal names."""
    taken: set[Path] = set()
    named = []
    for path, target in found.items():
        unique, number = target, 2
        while unique.with_suffix("") in taken:
            unique, number = target.with_stem(f"{target.stem}_{number}"), number + 1
        taken.add(unique.with_suffix(""))
        named.append((path, unique))
    return named


def opencv(purpose: str) -> ModuleType:
    """Import OpenCV.

    Raises:
        UserError: it is not installed; the message says why it is needed and what to install.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"{purpose} needs OpenCV: pip install 'detectron2-sqr[video]'") from error
    return cv2


class Video:
    """Frames of a video file or a camera, BGR.

    Args:
        source: path of a file, or number of a camera.

    Raises:
        UserError: OpenCV is missing, or the source cannot be opened or has no frames.
    """

    def __init__(self, source: Path | int):
        cv2 = opencv("video")
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        name = f"camera {source}" if isinstance(source, int) else str(source)
        opened, self._first = self.capture.read()
        if not opened:
            self.capture.release()
            raise UserError(f"{name} cannot be read as video")
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.num_frames = max(int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """0 where it is not known."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """``(height, width, 3)`` uint8, BGR."""
        try:
            opened, frame = True, self._first
            while opened:
                yield frame
                opened, frame = self.capture.read()
        finally:
            self.capture.release()


class VideoFile:
    """A video being written, to be used in a ``with`` block; the file is complete when the block is left.

    Args:
        path: ``.mp4`` or ``.avi``.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float):
        if path.suffix not in _CODECS:
            raise ValueError(f"{path}: a video is written as {' or '.join(_CODECS)}")
        self.path, self.fps = path, fps
        self._writer = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, frame: np.ndarray) -> None:
        """Append ``(height, width, 3)`` uint8, BGR; all frames have the same size.

        Raises:
            UserError: this OpenCV cannot write such a file there.
        """
        cv2 = opencv("video")
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter_fourcc(*_CODECS[self.path.suffix])
            self._writer = cv2.VideoWriter(str(self.path), codec, self.fps, size)
            if not self._writer.isOpened():
                raise UserError(f"{self.path} cannot be written; try another folder, or --video-format avi")
        self._writer.write(np.ascontiguousarray(frame))
