"""Predictions on images and video, drawn and stored: what ``tools/demo.py`` does."""

from .drawing import draw_detections, draw_stages
from .sources import Video, VideoFile, find_inputs, is_video

__all__ = ["Video", "VideoFile", "draw_detections", "draw_stages", "find_inputs", "is_video"]
