"""The numbers are right: against single runs, plain transformers and peft."""
