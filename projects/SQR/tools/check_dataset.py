#!/usr/bin/env python
"""Say what a detection dataset holds and everything that is wrong with it, before training finds out.

    check_dataset.py DIR
    check_dataset.py DIR --fix CLEANED
    check_dataset.py instances.json --images DIR --json

DIR holds a dataset in COCO's, Roboflow's, YOLO's, Pascal VOC's, LabelMe's or CVAT's layout or CSV files; see
docs/custom_data.md. Exit code 0: it can be trained on, 1: training would fail, 2: the command makes no sense.
"""

import sys

from sqr.cli.check import main

if __name__ == "__main__":
    sys.exit(main())
