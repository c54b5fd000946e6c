"""The product on a simulated accelerator: what a GPU would refuse, and what it would make the host wait for."""
