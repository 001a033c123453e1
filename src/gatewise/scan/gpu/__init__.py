"""The GPU kernels: how they are generated from a graph, and what they call."""
