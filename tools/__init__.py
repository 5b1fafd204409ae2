"""What keeps the environment: installing from the lock file, auditing it. Run by the Makefile; the pipeline imports none of it."""
