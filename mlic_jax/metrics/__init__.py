"""How far a decoded image is from the original, and one curve from another. See the modules."""
