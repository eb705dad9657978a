"""Pure functions that compute results from measured samples."""
