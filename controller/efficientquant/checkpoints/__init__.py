"""Weights of models: their names, files and fit."""
