"""The lessons' texts, and the build that makes notebooks of them."""
