"""Benchmarks, one module each, run by ``projects/SQR/tools/benchmark.py NAME``.

A module has ``add_arguments(parser)`` and ``run(args) -> dict``; the dictionary is stored as JSON.
"""
