"""The product on a simulated accelerator: what a GPU refuses, and what it makes the host wait for."""
