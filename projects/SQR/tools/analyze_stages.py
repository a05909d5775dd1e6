#!/usr/bin/env python
"""See what every decoder stage of a detector does: AP, TP fading, FP exacerbation, the oracle, and a report.

    analyze_stages.py --config-file quick/sqr_deformable_detr_shapes train.init_checkpoint=model.pth --output DIR
    analyze_stages.py --from-predictions DIR --output DIR
    analyze_stages.py --from-predictions stage1.json ... stage6.json --annotations instances.json --output DIR
    analyze_stages.py compare DIR_A DIR_B --output DIR
    analyze_stages.py benchmark --images 5000

Trailing ``key=value`` arguments override keys of the config. docs/analysis.md explains the numbers.
"""

import sys

from sqr.cli.analyze import main

if __name__ == "__main__":
    sys.exit(main())
