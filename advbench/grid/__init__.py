"""A study's cells, and the engines that perform them: here, in processes, on Ray, on Slurm."""
