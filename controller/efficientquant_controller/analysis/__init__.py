"""Pure functions over measured samples."""
