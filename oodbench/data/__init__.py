"""How image data get into the data folder: downloaded, imported, listed, verified."""
