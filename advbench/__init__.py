"""advbench: how far can an image classifier and its adversarial-example detector be trusted?"""

from importlib.metadata import version

__version__ = version("advbench")
