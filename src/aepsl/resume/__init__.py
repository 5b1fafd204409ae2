"""What an interrupted stage leaves for its next run; `aepsl clean` lists and prunes it."""
