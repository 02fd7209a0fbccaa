"""Jobs of a cluster: the client, the uploaded archive, and the search for secrets in it."""
