"""What is compared with what; stored results with the machine they came from."""
