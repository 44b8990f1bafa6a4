"""Worker processes: started, supervised, and what they tell the run of their tests."""
