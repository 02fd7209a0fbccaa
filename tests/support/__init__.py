"""What tests start, fake or write: heads, hosts, stores, networks that fail, folders of runs."""
