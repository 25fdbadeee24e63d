"""CIFAR-100: 60,000 colour pictures of 32x32 in a hundred classes, read from pickles through torchvision."""

from advbench.data import COLOUR
from advbench.data._torchvision import CIFAR


class CIFAR100(CIFAR):
    """CIFAR-100 (Krizhevsky 2009) from `<folder>/cifar-100-python/`, pickles opened only where their MD5 is right.

    Fine labels. Of the official 50,000, 41,668 train / 4,166 validation / 4,166 calibration; test = the official
    10,000.
    """

    recipe = COLOUR
    name = "cifar100"
    title = "CIFAR-100"
    place = "cifar-100-python"
    files = dict.fromkeys(("train", "test", "meta"))
    classes = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
        "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo",
        "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree",
        "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree",
        "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit",
        "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
        "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe",
        "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
