"""Jobs on clusters, killed, on stores that fail: what CI has time for is in test_*.py, the rest by `make test-cluster`."""
