"""Which tests of a suite are run, in which order, and by how many workers."""
