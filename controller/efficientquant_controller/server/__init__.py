"""The two gRPC services and the controller's process."""
