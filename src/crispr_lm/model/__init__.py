"""Models: how to load one, where it keeps its neurons, how to watch and scale them. Knows no task."""
