"""Files that grow while they are written: a run's journal, tensors a few rows at a time, an attack in parts."""
