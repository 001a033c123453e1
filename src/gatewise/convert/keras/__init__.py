"""Keras 2 and 3: files and live layers in, files out."""
