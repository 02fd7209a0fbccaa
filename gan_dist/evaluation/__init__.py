"""A generator measured: images, their features, statistics of these, scores.

Generated and real `images` go through an extractor (`extractors/`). The `statistics` of their features are
collected by many processes and merged; those of real images are the `reference`, stored beside the set.
`scores` computes the metrics of `metrics/` from both. `assess` does all this for a release, in `tasks`.
"""
