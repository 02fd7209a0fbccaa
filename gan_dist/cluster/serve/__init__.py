"""Images over HTTP, by Ray Serve: the only room that imports `ray.serve`."""
