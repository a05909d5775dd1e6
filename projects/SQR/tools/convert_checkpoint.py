#!/usr/bin/env python
"""Convert detector checkpoints between published layouts and this package's, or keep only the last decoder stage.

    convert_checkpoint.py convert detr-r50.pth ours.pth [--layout detr] [--config-file detr/detr_r50_500ep]
    convert_checkpoint.py back ours.pth theirs.pth --layout detr
    convert_checkpoint.py shrink output/dqrr/model_final.pth small.pth [--config-file NAME] [--times 6]

``shrink`` is for models trained by the plan ``dense_recurrent``; beside small.pth it writes small.yaml, a config for
``train_net.py --eval-only``. Training takes published files as they are (``train.init_checkpoint``).
"""

import sys

from sqr.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
