"""Seeing what a cell is and does."""
