#!/usr/bin/env python3
"""A copy of a dataset in COCO format with some of its classes; images stay where they are.

    dev/select_classes.py ../shared/data/coco_free_320 OUTPUT person

Images without a box of these classes stay, as images that show none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("classes", nargs="+")
    args = parser.parse_args()
    (args.output / "annotations").mkdir(parents=True)
    for path in sorted((args.dataset / "annotations").glob("instances_*.json")):
        content = json.loads(path.read_text())
        content["categories"] = [c for c in content["categories"] if c["name"] in args.classes]
        if len(content["categories"]) < len(set(args.classes)):
            parser.error(f"{path} has no class of one of the names {', '.join(args.classes)}")
        kept = {c["id"] for c in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
        (args.output / "annotations" / path.name).write_text(json.dumps(content))
        split = path.stem.removeprefix("instances_")
        (args.output / split).symlink_to((args.dataset / split).resolve())
        print(f"{split}: {len(content['images'])} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    main()
