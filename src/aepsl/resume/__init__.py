"""What an interrupted stage leaves for its next run; `python -m aepsl.resume` lists and prunes it."""
