"""Pure functions of measured samples."""
