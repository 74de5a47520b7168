"""A paper's claim, put to the test: its arms trained on one budget, measured by real files, written up.

    spec         what a claim file says: Claim and Arm, and reading one
    runs         the trainings of a claim: their configs and folders, what of each is done
    training     those that are left, one after the other, each in a process of its own (`worker`)
    measuring    files of held-out photos by every arm that is trained, and by standard codecs
    results      values at given rates and gains, seed by seed, beside the benchmark's BD-rates: the JSON of a claim
    document     the same for people: Markdown and plots
    main         all of it, from a paper's name to a document

docs/claims/README.md says how to read and how to write one.
"""

from mlic_jax.evaluation.claim.spec import Arm, Claim

__all__ = ["Arm", "Claim"]
