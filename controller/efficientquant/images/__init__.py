"""Image files and arrays, their preparation, and calibration images."""
