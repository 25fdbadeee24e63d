"""Detectors: one file each; the contract is `advbench.detection.Detector`."""
