"""All that knows Ray Train, Ray Tune and jobs: runs, searches, nodes, submission."""
