"""The experiments that `advbench reproduce` knows, one a file."""
