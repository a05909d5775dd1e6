#!/usr/bin/env python
"""Detect on images, folders, patterns, videos or a camera; draw and store the detections.

    demo.py photos/ "more/*.jpg" street.mp4 --output output/predictions --json output/predictions.json
    demo.py --run output/mine photo.jpg --stages
    demo.py photo.jpg --config-file NAME --weights model.pth --opts data.min_size_test=640
    demo.py --webcam 0 --show

Without ``--run`` and ``--config-file`` it uses the small trained model that comes with the package.
"""

import sys

from sqr.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
