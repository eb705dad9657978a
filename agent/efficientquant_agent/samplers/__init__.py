"""What is read about the board and the child while a run lasts."""
