"""The suites of `maskless evaluate`: what is measured of a model, each in one file, all into `evaluation.results`."""
