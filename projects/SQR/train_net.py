#!/usr/bin/env python
"""Train, resume or evaluate a model: ``train_net.py --config-file NAME [--resume | --eval-only] [key=value ...]``."""

import sys

from sqr.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
