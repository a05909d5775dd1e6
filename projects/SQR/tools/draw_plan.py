#!/usr/bin/env python
"""Print and draw recollection plans: which query groups every decoder stage trains on."""

import sys

from sqr.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
