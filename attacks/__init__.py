"""Perturbations of images: one a file, named after it."""
