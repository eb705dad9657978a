"""The two gRPC services and the process they live in."""
