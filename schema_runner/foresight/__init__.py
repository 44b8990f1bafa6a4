"""What earlier runs, and the machine, say of a suite before it is run."""
