"""What stands between the port and the services: who may knock, at which doors, and what he is told."""
