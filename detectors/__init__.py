"""Detectors: one a file, named after it."""
