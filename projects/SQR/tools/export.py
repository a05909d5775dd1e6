#!/usr/bin/env python
"""Write a detector as ONNX or as a ``torch.export`` program, run the file, compare it with the model.

    export.py --output output/model.onnx --run output/mine
    export.py --output output/model.onnx --config-file NAME --weights model.pth
    export.py --output output/model.pt2 --run output/mine --outputs raw --static --batch 1 --size 800 1333

Without ``--run`` and ``--config-file`` it takes the small trained model that comes with the package.
"""

import sys

from sqr.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
