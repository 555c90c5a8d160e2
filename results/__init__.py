"""Reference records and weights that ship with the package."""
