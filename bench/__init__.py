"""What is measured, each by a script that prints the table which the documentation shows."""
