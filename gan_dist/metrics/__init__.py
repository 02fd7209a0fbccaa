"""How good generated images are: features of images, their moments, and the scores computed from those."""
