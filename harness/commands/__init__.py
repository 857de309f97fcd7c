"""What `python -m harness` can do, one command a file."""
