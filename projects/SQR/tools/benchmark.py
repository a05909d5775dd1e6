#!/usr/bin/env python
"""Run a benchmark: ``benchmark.py NAME``; docs/benchmarks.md describes them."""

import sys

from sqr.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
