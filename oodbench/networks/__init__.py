"""Classifiers under the detectors: one a file, named after it."""
