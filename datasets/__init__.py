"""Image sets and suites: one a file, named after it."""
