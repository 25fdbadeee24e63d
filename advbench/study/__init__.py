"""A study: what is asked for, and the order of its steps."""
