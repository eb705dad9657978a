"""Building artifacts, scheduling runs, and knowing which devices are alive."""
