"""The checks behind `make gpu-check`, each in a process of its own with a time limit."""
