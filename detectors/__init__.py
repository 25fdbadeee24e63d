"""Detectors: one file each; the contract is `advbench.contracts.Detector`."""
