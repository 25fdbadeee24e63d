"""Attacks: one file each; the contract is `advbench.evasion.base.Attack`."""
