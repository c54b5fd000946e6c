"""What runs jobs: processes of this machine, or those of a cluster."""
