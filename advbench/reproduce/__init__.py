"""The paper's MNIST experiments as a benchmark: cells, their rows, and the page that sets them beside the paper."""
