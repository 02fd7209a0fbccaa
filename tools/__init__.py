"""Scripts that make the assets of the package: the digits and the digit classifier."""
