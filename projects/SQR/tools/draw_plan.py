#!/usr/bin/env python
"""Print and draw recollection plans: which query groups every decoder stage trains on.

draw_plan.py selective
draw_plan.py sequential selective dense --output plans.svg
draw_plan.py '{name: selective, start: 3}' '[[0], [0, 1], [1, 2]]' --stages 6
"""

import sys

from sqr.evaluation.plan_figure import main

if __name__ == "__main__":
    sys.exit(main())
