"""Cache of converted and corrected annotation files; the user's folders are never written to."""

from __future__ import annotations

import hashlib
import json
import os

from iopath.common.file_io import get_cache_dir

from ..files import write_text


def cached_json(content: dict, name: str) -> str:
    """Write ``content`` once under its digest; of several concurrent processes, any may win.

    Args:
        content: JSON-serialisable.
        name: the beginning of the file's name.

    Returns:
        The path, in ``sqr/`` of iopath's cache folder (``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``).
    """
    text = json.dumps(content)
    folder = os.path.join(get_cache_dir(), "sqr")
    path = os.path.join(folder, f"{name}_{hashlib.sha1(text.encode()).hexdigest()[:12]}.json")
    if not os.path.isfile(path):
        write_text(path, text)
    return path
