"""What caikit-pt can be told to do: one file a group of commands, each beside its options."""
