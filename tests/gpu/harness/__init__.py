"""What tests/gpu/run.py is made of: places, slices, the witness, the cases."""
