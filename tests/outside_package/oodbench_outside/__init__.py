"""A package outside of oodbench that brings a detector."""
