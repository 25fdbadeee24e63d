"""Attacks: one file each; the contract is `advbench.contracts.Attack`."""
