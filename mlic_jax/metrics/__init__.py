"""How far a decoded image is from the original, and one curve from another. See the modules.

`wasserstein.wasserstein_distortion` is for losses of one's own: it has gradients, and no name on the command line.
"""
