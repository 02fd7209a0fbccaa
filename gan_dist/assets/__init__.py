"""Small files that the package carries, and the programs that made them."""
