#!/usr/bin/env python
"""Run and report studies; see ``sqr/cli/study.py``."""

import sys

from sqr.cli.study import main

if __name__ == "__main__":
    sys.exit(main())
