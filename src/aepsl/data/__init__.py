"""What goes in and what is kept: sources, the index, artefact files, samples for training."""
