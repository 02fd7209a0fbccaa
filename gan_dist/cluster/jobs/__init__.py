"""Jobs of a cluster: the client, the uploaded archive and the checks before it is sent."""
