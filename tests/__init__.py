"""Tests; a package, since a dependency installs one of this name."""
