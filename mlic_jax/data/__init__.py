"""Images in: files, the bundled photos and TFDS sets, and the Grain pipeline that cuts training patches from them.

Importing this package costs nothing: each name below is imported when it is first used, so that reading one image
imports Pillow alone and not Grain or TFDS.
"""

import importlib

_HOME = {
    "read_image": "images",
    "decode_image": "images",
    "list_images": "images",
    "EXTENSIONS": "images",
    "MAX_PIXELS": "images",
    "make_source": "sources",
    "bundled": "sources",
    "HELD_OUT": "sources",
    "SPLITS": "sources",
    "make_train_iterator": "pipeline",
    "TrainIterator": "pipeline",
    "validation_batch": "pipeline",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted(__all__)
