"""Training: the loop, its checkpoints, adversarial images, augmentation."""
