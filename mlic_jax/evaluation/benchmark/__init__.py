"""The benchmark: codecs of all kinds on the same pictures, by real files, with results that survive being killed.

    entrants     what is measured: standard codecs and our models, each a curve of points
    cache        what was measured before, on disk
    measuring    files of every point and picture, several at a time; then pictures at equal rate
    timing       seconds and memory, apart from the rest, alone on one core
    published    curves read from files of results
    comparing    BD-rates of curves against each other
    results      tables, plots, the report
    main         all of it, from names to results

`mlic benchmark`, `mlic evaluate` and `mlic claim` all measure, compare and write by these.

docs/benchmark.md says how each figure comes about.
"""
