"""Files that a user names, and files written whole or not at all."""
