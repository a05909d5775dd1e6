"""Finds the image files that annotations name, and reads their sizes without decoding them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from PIL import Image

from .images import UnreadableImageError, upright_size, why_unreadable

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_READERS = 8  # threads that read image headers: mostly waiting for the disk


class ImageFinder:
    """Looks up names below a folder; every folder is listed once.

    A name is also found in another Unicode form or letter case, with backslashes, and, if it is a path from another
    machine, by its last component.

    Args:
        folder: to which names are relative.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._listings: dict[str, tuple[_Names, _Names]] = {}

    def find(self, name: str) -> str | None:
        """The actual name of a file, relative to the folder; None if there is none."""
        if "\0" in name:
            return None
        if os.path.isabs(name) and os.path.isfile(name):
            return name
        slashed = name.replace("\\", "/")
        for candidate in dict.fromkeys((name, slashed, slashed.strip("\ufeff \t\r\n"), os.path.basename(slashed))):
            found = self._walk(candidate) if candidate and not os.path.isabs(candidate) else None
            if found is not None:
                return found
        return None

    def first(self, name: str, folders: Sequence[str]) -> str:
        """The first file of a name in some of the folder's folders, spelt as it is if there is one; else the name."""
        name = name.replace("\\", "/")
        names = dict.fromkeys((name, os.path.basename(name))) if name.strip() else ()
        places = [os.path.normpath(os.path.join(folder, n)) for n in names if n for folder in folders]
        spelt = (place for place in places if "\0" not in place and os.path.isfile(os.path.join(self.folder, place)))
        return next(spelt, None) or next(filter(None, map(self.find, places)), name)

    def closest(self, name: str) -> str | None:
        """A name in the folder that differs only in its suffix, for a message."""
        stem = _key(os.path.splitext(os.path.basename(name.replace("\\", "/")))[0])
        files, _ = self._listing(self.folder)
        return next((names[0] for key, names in files.items() if os.path.splitext(key)[0] == stem), None)

    def _walk(self, name: str) -> str | None:
        folder, found = self.folder, []
        *parents, last = name.split("/")
        for part in (*parents, last):
            if part not in ("", ".", ".."):
                files, folders = self._listing(folder)
                alike = (files if len(found) == len(parents) else folders).get(_key(part), [])
                if part not in alike:
                    if len(alike) != 1:
                        return None
                    part = alike[0]
            found.append(part)
            folder = os.path.join(folder, part)
        return "/".join(found)

    def _listing(self, folder: str) -> tuple[_Names, _Names]:
        """The files and the folders of a folder; links count as what they lead to."""
        if folder not in self._listings:
            files: _Names = {}
            folders: _Names = {}
            for entry in os.scandir(folder) if os.path.isdir(folder) else ():
                group = files if entry.is_file() else folders if entry.is_dir() else {}
                group.setdefault(_key(entry.name), []).append(entry.name)
            self._listings[folder] = files, folders
        return self._listings[folder]


_Names = dict[str, list[str]]  # by their form that all spellings share


def _key(name: str) -> str:
    return name if name.isascii() and name.islower() else unicodedata.normalize("NFC", name).casefold()


def list_images(folder: str) -> list[str]:
    """Paths of the images in a folder, searched to any depth, sorted."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    )


def image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | UnreadableImageError]:
    """``(width, height)``, upright, of each image, from its header; the error of one that has none."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_image_size, paths))


def _image_size(path: str) -> tuple[int, int] | UnreadableImageError:
    try:
        stat = os.stat(path)
        return _size_in_header(path, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
    except Exception as error:  # PIL's parsers raise errors of many kinds on broken files
        return UnreadableImageError(f"cannot read the image {path}: {why_unreadable(error)}")


@lru_cache(maxsize=1 << 20)
def _size_in_header(path: str, *_version: int) -> tuple[int, int]:
    """``_version`` is only part of the cache key: a changed file is read again."""
    with Image.open(path) as image:
        return upright_size(image)
