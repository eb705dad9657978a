"""What a target makes of an artifact: predicted from rules, or found out by building it."""
