#!/usr/bin/env python
"""Train a quick model, evaluate it, analyze its stages and write a report: what ``make demo`` runs."""

import sys

from sqr.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
