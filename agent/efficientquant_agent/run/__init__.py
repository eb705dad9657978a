"""The parent's side of a run: prepare the board, start the children, watch them, keep what they leave."""
