"""The packaged human ratings, the pocket model, and readers for any other preference data."""
