"""Images: found, read, prepared and collected for calibration."""
