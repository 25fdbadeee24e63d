"""Attacks: one file each; the contract is `advbench.evasion.Attack` or `AdaptiveAttack`."""
