"""JSON schemas of the files that oodbench writes."""
