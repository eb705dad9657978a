"""One file per method; each registers its recipes. Importing them imports no torch."""
