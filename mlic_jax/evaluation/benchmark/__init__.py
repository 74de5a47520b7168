"""The benchmark: codecs of all kinds on the same pictures, by real files, with results that survive being killed.

    entrants     what is measured: standard codecs and our models, each a curve of points
    cache        what was measured before, on disk
    run          files of every point and picture, several at a time; then pictures at equal rate
    timing       seconds and memory, apart from the rest, alone on one core
    published    curves read from files of results
    results      BD-rates, tables, plots, the report
    main         all of it, from names to a folder

docs/benchmark.md says how each figure comes about.
"""
