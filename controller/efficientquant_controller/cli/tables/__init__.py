"""Tables and sentences that show results to people."""
