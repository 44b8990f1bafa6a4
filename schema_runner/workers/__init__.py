"""Worker processes: start, supervision, and reports of their tests."""
