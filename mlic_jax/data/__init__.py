"""Images in: files, the bundled photos and TFDS sets, and the Grain pipeline that cuts training patches from them.

Importing this package costs nothing: each name below is imported when it is first used, so that reading one image
imports Pillow alone and not Grain or TFDS.
"""

from mlic_jax import imported_when_used

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
    "validation_batch": "patches",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    return imported_when_used(__name__, _HOME, name)


def __dir__():
    return sorted(__all__)
