"""Detectors of other libraries, run by this package's decoder loop."""
